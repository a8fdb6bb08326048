"""What the audio lobes share where they give frames of their intermediate layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gemoclap_sb.lobes.lengths import mask_from_lengths


def check_layers(layers: Sequence[int], depth: int) -> list[int]:
    """Return the layers as a list; ValueError unless each is from 1 to `depth`.

    >>> check_layers([2, 3], 2)
    Traceback (most recent call last):
    ValueError: layers: expected one or more whole numbers from 1 to 2, found [2, 3]
    """
    found = list(layers)
    if not found or any(type(layer) is not int or not 1 <= layer <= depth for layer in found):
        raise ValueError(
            f"layers: expected one or more whole numbers from 1 to {depth}, found {found}"
        )
    return found


def mean_frames(x: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """Bring x [B, C, F], of which `lengths` [B] are valid, to one frame for `stride`: [B, F', C].

    F' is F / stride, rounded up, and a frame the mean of the valid ones that it covers; float32,
    zero past the last.

    >>> x = torch.tensor([[[1.0, 3.0, 5.0, 99.0, 99.0]]])
    >>> mean_frames(x, torch.tensor([3]), 2)
    tensor([[[2.],
             [5.],
             [0.]]])
    """
    mask = mask_from_lengths(lengths, x.shape[2])
    frames = -(-x.shape[2] // stride)
    x = x.float().masked_fill(~mask.unsqueeze(1), 0.0)
    padded = torch.nn.functional.pad(x, (0, frames * stride - x.shape[2]))
    begins = stride * torch.arange(frames, device=x.device)
    counts = (lengths.unsqueeze(1) - begins).clamp(1, stride)
    return (padded.unflatten(2, (frames, stride)).sum(3) / counts.unsqueeze(1)).transpose(1, 2)
