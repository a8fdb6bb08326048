"""Waveforms from one sample rate to another, in memory that no rate can break.

The filter is torchaudio's windowed sinc of 6 zero crossings to either side. torchaudio keeps a
whole kernel for each phase: for rates that share no factor, 44,101 to 16,000 Hz for instance,
that is gigabytes of zeros. There the same filter is evaluated where it is not zero
(Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample/). Written here, since
a part of a file must be what that part of the whole is: soxr streams from the beginning, and
SciPy's polyphase filter grows with the rates, at 10 MHz beyond any memory.

    resampler = resampler_of(44101, 16000)
    first, last = resampler.span(start, stop)
    part = resampler(samples[first:last], start, stop)

Samples before the first and after the last of a recording are zeros.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.transforms import Resample

# In Hz, of recordings. No recorder is slower or faster: who says so has damaged data, and an hour
# said to have 1 Hz would take a day and all memory to resample, and be no speech.
SLOWEST, FASTEST = 1000, 10_000_000
_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99
# In numbers: 4 MB of kernels, 16 MB of a bank of phases, what is worked on at a time.
_LARGEST_KERNEL, _LARGEST_BANK, _LARGEST_STEP = 2**20, 2**22, 2**20


class PeriodicResampler:
    """torchaudio's kernels, for rates whose ratio has small terms: the fastest."""

    def __init__(self, source: int, target: int) -> None:
        divisor = math.gcd(source, target)
        self.period, self.outputs = source // divisor, target // divisor
        # The functional form computes its filter at each call, which at 48 kHz takes
        # longer than applying it to a short utterance.
        self._resample = Resample(source, target)
        self._context = -(-self._resample.width // self.period) * self.period

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Tell of which samples outputs are made, first and last; some may lie outside."""
        # Parts are cut at whole periods, where the filter's phase repeats, so nothing drifts.
        first = start // self.outputs * self.period - self._context
        return first, -(-stop // self.outputs) * self.period + self._context

    def __call__(self, samples: Tensor, start: int, stop: int) -> Tensor:
        """Compute outputs ``[stop - start]`` from the samples of their span."""
        offset = self.span(start, stop)[0] // self.period * self.outputs
        return self._resample(samples)[start - offset : stop - offset]


class DirectResampler:
    """Each output as a sum over its neighbours, for any two rates from 1 Hz."""

    def __init__(self, source: int, target: int) -> None:
        divisor = math.gcd(source, target)
        self.source, self.target = source // divisor, target // divisor
        self._cutoff = _ROLLOFF * min(1.0, target / source)
        self._width = math.ceil(_ZERO_CROSSINGS / self._cutoff)
        self._taps = 2 * self._width + 2
        self._bank: np.ndarray | None = None
        if self.target * self._taps <= _LARGEST_BANK:
            self._bank = self._weights(np.arange(self.target))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Tell of which samples outputs are made, first and last; some may lie outside."""
        first = start * self.source // self.target - self._width
        return first, (stop - 1) * self.source // self.target - self._width + self._taps

    def __call__(self, samples: Tensor, start: int, stop: int) -> Tensor:
        """Compute outputs ``[stop - start]`` from the samples of their span."""
        windows = np.lib.stride_tricks.sliding_window_view(samples.numpy(), self._taps)
        results = np.empty(stop - start, np.float32)
        step = max(1, _LARGEST_STEP // self._taps)
        begin = start * self.source // self.target
        for i in range(0, len(results), step):
            # In Python's integers, which no rate overflows.
            whole, phase = divmod((start + i) * self.source, self.target)
            count = min(step, len(results) - i)
            places = phase + np.arange(count, dtype=np.int64) * self.source
            steps, phases = np.divmod(places, self.target)
            weights = self._weights(phases) if self._bank is None else self._bank[phases]
            # A view where windows are large, which a list of places would copy.
            near = windows[whole - begin :][steps]
            np.einsum("nk,nk->n", near, weights, out=results[i : i + count])
        return torch.from_numpy(results)

    def _weights(self, phases: np.ndarray) -> np.ndarray:
        """Filter at the neighbours of outputs that lie ``phases / target`` after a sample."""
        neighbours = np.arange(-self._width, self._taps - self._width)
        crossings = (neighbours - (phases / self.target)[:, None]) * self._cutoff
        np.clip(crossings, -_ZERO_CROSSINGS, _ZERO_CROSSINGS, out=crossings)
        window = np.cos(crossings * (np.pi / 2 / _ZERO_CROSSINGS)) ** 2
        return (np.sinc(crossings) * window * self._cutoff).astype(np.float32)


@functools.lru_cache(maxsize=8)
def resampler_of(source: int, target: int) -> PeriodicResampler | DirectResampler:
    """Make what brings samples from one rate to another, both in Hz."""
    divisor = math.gcd(source, target)
    period, outputs = source // divisor, target // divisor
    taps = 2 * math.ceil(_ZERO_CROSSINGS * max(1.0, period / outputs) / _ROLLOFF) + period
    kind = PeriodicResampler if outputs * taps <= _LARGEST_KERNEL else DirectResampler
    return kind(source, target)


def resample(wav: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Bring a waveform ``[T]`` from one rate to another, both in Hz.

    Examples
    --------
    >>> resample(torch.zeros(441), 44100, 16000).shape
    torch.Size([160])
    """
    if source_rate == target_rate:
        return wav
    resampler = resampler_of(source_rate, target_rate)
    length = -(-len(wav) * target_rate // source_rate)
    first, last = resampler.span(0, length)
    return resampler(pad(wav, (-first, last - len(wav))), 0, length)
