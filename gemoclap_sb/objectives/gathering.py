"""One batch out of the shares of all processes.

A contrastive loss sees more pairs when each process also compares with the
embeddings of the others; a mean over utterances counts each of them once, where
the shares are unequal. The gathering stands apart from the loss, so that
the loss is the same with one process (the way of open_clip's ``loss.py``).

Gradients flow back to the process that made an embedding. Each process
computes the whole loss, and DistributedDataParallel then averages over
processes; both together give the gradient of the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

Outputs = TypeVar("Outputs", bound=NamedTuple)


def gather_batch(
    outputs: Mapping[str, Outputs], labels: Mapping[str, Tensor]
) -> tuple[dict[str, Outputs], dict[str, Tensor]]:
    """Join the batches of all processes, in order of rank.

    Of each head's named tuple (`ContrastiveOutput`, `ClassifierOutput`, or one of your own) the
    tensors with a row for each utterance, ``[N, ...]``, become ``[sum of N, ...]``, and so do
    labels ``[N]`` per attribute; N may differ between processes, the other sizes may not. Scalars
    and None stay. With one process, or without a process group, the arguments come back.

    Examples
    --------
    >>> outputs, labels = gather_batch({}, {"emotion": torch.tensor([0, 1])})
    >>> labels["emotion"].tolist()
    [0, 1]
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return dict(outputs), dict(labels)
    sizes = _gather_sizes(next(iter(labels.values())))
    return (
        {head: _gather_fields(output, sizes) for head, output in outputs.items()},
        {attribute: _gather_rows(index, sizes) for attribute, index in labels.items()},
    )


def _gather_fields(output: Outputs, sizes: list[int]) -> Outputs:
    rows = {
        name: _gather_rows(field, sizes)
        for name, field in output._asdict().items()
        if isinstance(field, Tensor) and field.dim()
    }
    return output._replace(**rows)


def _gather_sizes(rows: Tensor) -> list[int]:
    mine = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in sizes]


def _gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    # all_gather wants equal shapes, and the last batch of an epoch may be short.
    padding = [0, 0] * (rows.dim() - 1) + [0, max(sizes) - len(rows)]
    shares = all_gather(F.pad(rows, padding).contiguous())
    return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])
