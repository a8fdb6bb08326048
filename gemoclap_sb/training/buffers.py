"""A module's buffers, such as running statistics, kept and put back."""

from __future__ import annotations

import torch
from torch import nn


class KeptBuffers:
    """Buffers as they were when this was made.

    >>> norm = nn.BatchNorm1d(1)
    >>> kept = KeptBuffers(norm)
    >>> _ = norm(torch.tensor([[3.0], [5.0]]))
    >>> kept.restore()
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kept = {name: buffer.clone() for name, buffer in module.named_buffers()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back, into whatever tensors the module has now."""
        for name, buffer in self.module.named_buffers():
            # What is the same may be a view that cannot be written.
            if name in self.kept and not _same(buffer, self.kept[name]):
                buffer.copy_(self.kept[name])


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)
