"""A long recording block by block, as if it had been read and resampled at once.

`gemoclap_sb.data.audio.read_audio` holds a whole file; here memory is bounded by the block.
Resampling is torchaudio's windowed sinc, a filter that looks ``width`` samples to either
side. Each block is therefore resampled with that many of its neighbours' samples, of
which the result is cut off again (overlap-save: Oppenheim and Schafer, "Discrete-Time
Signal Processing", section 8.7.3). Blocks begin at multiples of the reduced source rate,
where the filter's phase repeats, so nothing drifts and nothing clicks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from gemoclap_sb.data.audio import AudioError, audio_info

BLOCK_SECONDS = 10.0


def audio_blocks(
    path: str | os.PathLike, sample_rate: int = 16000, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Tensor]:
    """Read a file piece by piece as one channel at the rate asked for.

    The pieces joined are what `gemoclap_sb.data.audio.read_audio` returns, to rounding.

    Parameters
    ----------
    path : str or os.PathLike
        An audio file of any rate, length and number of channels.
    sample_rate : int
        Rate of the result in Hz.
    block_seconds : float
        How much is decoded at a time.

    Yields
    ------
    Tensor
        ``[T]``, float32, one channel; T is about ``block_seconds * sample_rate``.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, empty, or holds NaN or Inf, which is found
        when its place is reached.
    ValueError
        If ``block_seconds`` or ``sample_rate`` is not positive; at the call.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.full((24000, 2), 0.5), 8000)
    >>> blocks = list(audio_blocks(path, 16000, block_seconds=1.0))
    >>> len(blocks), len(torch.cat(blocks)), round(blocks[1].max().item(), 3)
    (4, 48000, 0.5)
    """
    if not block_seconds > 0 or not sample_rate > 0:
        raise ValueError(
            f"expected a positive block and rate, found block_seconds {block_seconds!r}, "
            f"sample_rate {sample_rate!r}."
        )
    info = audio_info(path)
    frames = max(1, round(block_seconds * info.sample_rate))
    blocks = _mono_blocks(path, frames)
    if info.sample_rate == sample_rate:
        return blocks
    return _resampled(blocks, info.sample_rate, sample_rate)


def _mono_blocks(path: str | os.PathLike, frames: int) -> Iterator[Tensor]:
    """Decode block by block, average the channels, and look for what cannot be used."""
    decoded = 0
    try:
        with soundfile.SoundFile(str(path)) as file:
            while len(samples := file.read(frames, dtype="float32", always_2d=True)):
                if not np.isfinite(samples).all():
                    raise AudioError(
                        f"Audio file {path} has NaN or infinite samples between "
                        f"{decoded / file.samplerate:.1f} s and "
                        f"{(decoded + len(samples)) / file.samplerate:.1f} s."
                    )
                decoded += len(samples)
                mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
                yield torch.from_numpy(np.ascontiguousarray(mono))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(
            f"Audio file {path} is unreadable: {error}. It is damaged, or of a format that "
            "libsndfile does not decode; convert it to WAV or FLAC."
        ) from error
    if decoded == 0:
        raise AudioError(f"Audio file {path} is zero-length: nothing decodes from it.")


def _resampled(blocks: Iterable[Tensor], source_rate: int, target_rate: int) -> Iterator[Tensor]:
    """Resample blocks as though they were one signal."""
    divisor = math.gcd(source_rate, target_rate)
    period, outputs = source_rate // divisor, target_rate // divisor
    resample = Resample(source_rate, target_rate)
    # Whole periods of context, so that every cut keeps the filter's phase.
    context = -(-resample.width // period) * period
    held = torch.empty(0)
    skip = 0  # of held: samples that are context only, already handed out
    for block in blocks:
        held = torch.cat([held, block])
        ready = (len(held) - context) // period * period
        if ready <= skip:
            continue
        yield resample(held[: ready + context])[_share(skip, ready, period, outputs)]
        start = max(0, ready - context)
        held, skip = held[start:], ready - start
    if len(held) > skip:
        yield resample(held)[_share(skip, None, period, outputs)]


def _share(start: int, stop: int | None, period: int, outputs: int) -> slice:
    end = None if stop is None else stop // period * outputs
    return slice(start // period * outputs, end)
