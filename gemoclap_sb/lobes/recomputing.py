"""Gradient checkpointing of blocks with BatchNorm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_counted_once(block: nn.Module) -> Callable[[], tuple]:
    """Make the ``context_fn`` of `torch.utils.checkpoint.checkpoint` for a block.

    The forward pass runs as it is; while its activations are recomputed, BatchNorm's running
    statistics stand still.
    """
    return lambda: (contextlib.nullcontext(), _untracked_statistics(block))


@contextlib.contextmanager
def _untracked_statistics(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
