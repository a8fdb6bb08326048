"""One batch out of the shares of all processes, for losses that compare pairs.

A contrastive loss sees more pairs when each process also compares with the
embeddings of the others. The gathering stands apart from the loss, so that
the loss is the same with one process (the way of open_clip's ``loss.py``).

Gradients flow back to the process that made an embedding. Each process
computes the whole loss, and DistributedDataParallel then averages over
processes; both together give the gradient of the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from gemoclap_sb.objectives.divergences import ContrastiveOutput


def gather_batch(
    outputs: Mapping[str, ContrastiveOutput], labels: Mapping[str, Tensor]
) -> tuple[dict[str, ContrastiveOutput], dict[str, Tensor]]:
    """Join the batches of all processes, in order of rank.

    Embeddings ``[N, D]`` and class scores per head become ``[sum of N, D]``, labels ``[N]`` per
    attribute ``[sum of N]``; N may differ between processes. With one process, or without a process
    group, the arguments come back; so do outputs that are no pairs (class scores), whose
    loss is a mean over utterances and needs no others.

    Examples
    --------
    >>> outputs, labels = gather_batch({}, {"emotion": torch.tensor([0, 1])})
    >>> labels["emotion"].tolist()
    [0, 1]
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return dict(outputs), dict(labels)
    if not all(isinstance(output, ContrastiveOutput) for output in outputs.values()):
        return dict(outputs), dict(labels)
    some = next(iter(labels.values()))
    sizes = _gather_sizes(some)
    return (
        {
            head: output._replace(
                **{
                    name: _gather_rows(rows, sizes)
                    for name in ("audio", "text", "logits")
                    if (rows := getattr(output, name)) is not None
                }
            )
            for head, output in outputs.items()
        },
        {attribute: _gather_rows(index, sizes) for attribute, index in labels.items()},
    )


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
