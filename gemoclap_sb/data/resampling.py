"""Waveforms from one sample rate to another."""

from __future__ import annotations

import functools

from torch import Tensor
from torchaudio.transforms import Resample


def resample(wav: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Bring a waveform ``[T]`` from one rate to another, both in Hz.

    Examples
    --------
    >>> import torch
    >>> resample(torch.zeros(441), 44100, 16000).shape
    torch.Size([160])
    """
    return wav if source_rate == target_rate else _resampler(source_rate, target_rate)(wav)


@functools.lru_cache(maxsize=8)
def _resampler(source_rate: int, target_rate: int) -> Resample:
    return Resample(source_rate, target_rate)
