"""Audio files to waveforms: 16 kHz, one channel, float32.

Decoding is libsndfile's (WAV, FLAC, Ogg, MP3, AIFF and whatever else
``soundfile.available_formats()`` lists), resampling is torchaudio's windowed
sinc. A file that cannot give a usable waveform is an :class:`AudioError` that
names it: a NaN sample would otherwise reach the loss, and every weight after it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample

__all__ = ["AudioError", "AudioInfo", "audio_info", "check_audio", "read_audio"]

# libsndfile states this length (the largest 64-bit integer) when the header has none.
_UNKNOWN_LENGTH = 2**63 - 1
_BLOCK_FRAMES = 2**18


class AudioError(ValueError):
    """An audio file that is missing, unreadable, empty, or holds NaN or Inf."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file states.

    Attributes
    ----------
    num_frames : int
        Samples per channel, at the file's own rate.
    sample_rate : int
        In Hz.
    num_channels : int
        1 for mono, 2 for stereo.
    subtype : str
        The sample coding in libsndfile's words, such as ``"PCM_16"`` or ``"FLOAT"``.
    """

    num_frames: int
    sample_rate: int
    num_channels: int
    subtype: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.sample_rate

    @property
    def is_float(self) -> bool:
        """Whether the samples are stored as floats, the only kind that can hold NaN."""
        return self.subtype in ("FLOAT", "DOUBLE")


def audio_info(path: str | os.PathLike) -> AudioInfo:
    """Read length, rate and coding from the header; nothing is decoded.

    Parameters
    ----------
    path : str or os.PathLike
        An audio file.

    Returns
    -------
    AudioInfo

    Raises
    ------
    AudioError
        If the file is missing, is no audio that libsndfile knows, holds no
        samples, or does not state how many it holds.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> info = audio_info(path)
    >>> info.duration, info.sample_rate, info.num_channels, info.subtype
    (0.5, 8000, 2, 'PCM_16')
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"Audio file {path} is missing.")
    if not path.is_file():
        raise AudioError(f"{path} is a folder; expected an audio file.")
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(_unreadable(path, error)) from error
    if info.frames == 0:
        raise AudioError(f"Audio file {path} is zero-length: its header states 0 samples.")
    if info.frames >= _UNKNOWN_LENGTH:
        raise AudioError(
            f"The header of audio file {path} does not state its length (it was written to a "
            "pipe). Encode it again into a file."
        )
    return AudioInfo(info.frames, info.samplerate, info.channels, info.subtype)


def check_audio(path: str | os.PathLike, decode: bool = False) -> AudioInfo:
    """Check that a file gives a usable waveform.

    The header is always read. Float samples are always looked through for NaN
    and Inf; integer samples cannot hold them and are decoded only on request.

    Parameters
    ----------
    path : str or os.PathLike
        An audio file.
    decode : bool
        Decode integer and compressed files too, which finds damage behind an
        intact header.

    Returns
    -------
    AudioInfo

    Raises
    ------
    AudioError
        As :func:`audio_info` and :func:`read_audio` raise it.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    >>> try:
    ...     check_audio(path)
    ... except AudioError as error:
    ...     print(str(error).replace(str(path), "a.wav"))
    Audio file a.wav has 1 NaN or infinite samples of 2.
    """
    info = audio_info(path)
    if not (decode or info.is_float):
        return info
    decoded = unusable = 0
    try:
        for block in soundfile.blocks(str(path), _BLOCK_FRAMES, dtype="float32", always_2d=True):
            decoded += len(block)
            unusable += block.size - int(np.count_nonzero(np.isfinite(block)))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(_unreadable(path, error)) from error
    _check_samples(path, decoded * info.num_channels, unusable)
    return info


def read_audio(
    path: str | os.PathLike, sample_rate: int = 16000, start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """Read a file as one channel at the rate asked for.

    Channels are averaged, then resampled.

    Parameters
    ----------
    path : str or os.PathLike
        An audio file of any rate and number of channels.
    sample_rate : int
        Rate of the result in Hz.
    start, stop : int, optional
        The part to read, in samples at the file's own rate, ``stop`` excluded.

    Returns
    -------
    torch.Tensor
        ``[T]``, float32. Integer codings lie in [-1, 1]; float samples keep the
        scale they are stored in.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, zero-length, or has NaN or Inf in
        the part read, or if that part does not lie in the file.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> left_and_right = np.stack([np.full(800, 0.5), np.full(800, 0.25)], axis=1)
    >>> soundfile.write(path, left_and_right, 8000)
    >>> wav = read_audio(path)
    >>> wav.shape, wav.dtype, round(wav[800].item(), 3)
    (torch.Size([1600]), torch.float32, 0.375)
    """
    info = audio_info(path)
    end = info.num_frames if stop is None else stop
    if not 0 <= start < end <= info.num_frames:
        raise AudioError(
            f"Audio file {path} has {info.num_frames} samples; the part from {start} to {end} is "
            "empty or not in it. Expected 0 <= start < stop <= samples, counted at the file's "
            f"own {info.sample_rate} Hz."
        )
    try:
        samples, _ = soundfile.read(
            str(path), start=start, stop=end, dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(_unreadable(path, error)) from error
    _check_samples(path, samples.size, samples.size - int(np.count_nonzero(np.isfinite(samples))))
    # [T, 1] shares memory with [T]; averaging one channel would only copy it.
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    wav = torch.from_numpy(mono)
    if info.sample_rate != sample_rate:
        wav = _resampler(info.sample_rate, sample_rate)(wav)
    return wav


@functools.lru_cache(maxsize=32)
def _resampler(source_rate: int, target_rate: int) -> Resample:
    # The functional form computes its filter at each call, which at 48 kHz takes
    # longer than applying it to a short utterance.
    return Resample(source_rate, target_rate)


def _check_samples(path: str | os.PathLike, num_samples: int, num_unusable: int) -> None:
    if num_samples == 0:
        raise AudioError(f"Audio file {path} is zero-length: nothing decodes from it.")
    if num_unusable:
        raise AudioError(
            f"Audio file {path} has {num_unusable} NaN or infinite samples of {num_samples}."
        )


def _unreadable(path: str | os.PathLike, error: Exception) -> str:
    reason = getattr(error, "error_string", None) or str(error)
    return (
        f"Audio file {path} is unreadable: {reason.strip().rstrip('.')}. It is damaged, or of a "
        "format that libsndfile does not decode; convert it to WAV or FLAC."
    )
