"""An evaluation that several processes share: batches to each, and the same figures to all.

Nothing that is found depends on the number of processes: the batches are those of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.training.processes import place

Item = TypeVar("Item")
_NONE = object()


def share_of(batches: Sequence[Item]) -> list[Item]:
    """Give this process its batches of all; none, where there are more processes than batches.

    >>> share_of([[0, 1], [2]])
    [[0, 1], [2]]
    """
    rank, count = place()
    return list(batches[rank::count])


def gather_batches(found: list[Item]) -> list[Item]:
    """Join what each process found of its batches, in the order that all batches had.

    Every process must call it; what was found is pickled.
    """
    count = place()[1]
    if count == 1:
        return found
    shares: list[Any] = [None] * count
    torch.distributed.all_gather_object(shares, found)
    in_turn = chain.from_iterable(zip_longest(*shares, fillvalue=_NONE))
    return [item for item in in_turn if item is not _NONE]


@contextmanager
def without_ddp(modules: nn.ModuleDict) -> Iterator[None]:
    """Let modules be called without DDP's wrapper; that of torch.compile, inside of it, stays.

    DDP's forward waits for all processes, of which some have fewer batches to evaluate.
    """
    wrapped = {
        name: module
        for name, module in modules.items()
        if isinstance(module, DistributedDataParallel)
    }
    modules.update({name: module.module for name, module in wrapped.items()})
    try:
        yield
    finally:
        modules.update(wrapped)
