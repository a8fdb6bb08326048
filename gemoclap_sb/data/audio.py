"""Audio files to waveforms: 16 kHz, one channel, float32, whole or in part.

Decoding is libsndfile's (WAV, FLAC, Ogg, MP3, AIFF and whatever else
``soundfile.available_formats()`` lists), resampling torchaudio's windowed sinc. A file
that cannot give a usable waveform is an `AudioError` that names it: a NaN sample would
otherwise reach the loss, and every weight after it.

A part is what that part of the whole file would be. The resampling filter looks some
samples to either side; a part is therefore resampled with that many of its neighbours,
of which the result is cut off again (overlap-save: Oppenheim and Schafer, "Discrete-Time
Signal Processing", section 8.7.3).
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.transforms import Resample

# libsndfile states this length (the largest 64-bit integer) when the header has none.
_UNKNOWN_LENGTH = 2**63 - 1
_BLOCK_FRAMES = 2**18
_MP3_FRAME = 1152


class AudioError(ValueError):
    """An audio file that is missing, unreadable, empty, cut short, or holds NaN or Inf."""


@dataclass(frozen=True)
class AudioInfo:
    """What a header states: samples per channel, Hz, channels, libsndfile's sample coding."""

    num_frames: int
    sample_rate: int
    num_channels: int
    subtype: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.sample_rate


class AudioReader:
    """An audio file, opened once: any part of it as one channel at one rate.

    Parts that follow each other are decoded once, without seeking.

    Parameters
    ----------
    path : str or os.PathLike
        An audio file of any rate, length and number of channels.
    sample_rate : int, optional
        Rate of the waveforms in Hz; by default the file's own.

    Attributes
    ----------
    info : AudioInfo
        What the header states.
    num_samples : int
        Length at ``sample_rate``.

    Raises
    ------
    AudioError
        If the file is missing, is no audio that libsndfile knows, holds no samples, or
        does not state how many it holds.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.full((24000, 2), 0.5), 8000)
    >>> with AudioReader(path, 16000) as audio:
    ...     print(audio.num_samples, audio.read(16000, 16002).round(decimals=2))
    48000 tensor([0.5000, 0.5000])
    """

    def __init__(self, path: str | os.PathLike, sample_rate: int | None = None) -> None:
        self.path = Path(path)
        try:
            if not self.path.exists():
                raise AudioError(f"Audio file {path} is missing.")
            if not self.path.is_file():
                raise AudioError(f"{path} is a folder; expected an audio file.")
            file = self._file = soundfile.SoundFile(str(path))
            frames = _decodable_frames(file) if file.format == "MP3" else file.frames
        except (soundfile.SoundFileError, OSError) as error:
            raise self._unreadable(error) from error
        self.info = AudioInfo(frames, file.samplerate, file.channels, file.subtype)
        if frames == 0:
            raise AudioError(f"Audio file {path} is zero-length: its header states 0 samples.")
        if frames >= _UNKNOWN_LENGTH:
            raise AudioError(
                f"The header of audio file {path} does not state its length (it was written to a "
                "pipe). Encode it again into a file."
            )
        self.sample_rate = sample_rate or file.samplerate
        self.num_samples = -(-frames * self.sample_rate // file.samplerate)
        self._held, self._held_start = np.empty(0, np.float32), 0

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a part, by default the whole.

        Parameters
        ----------
        start, stop : int, optional
            In samples at the reader's ``sample_rate``, ``stop`` excluded.

        Returns
        -------
        Tensor
            ``[T]``, float32: the mean of the channels. Integer codings lie in [-1, 1], float
            samples keep the scale they are stored in.

        Raises
        ------
        AudioError
            If the part does not lie in the file, cannot be decoded, or has NaN or Inf.
        """
        stop = self.num_samples if stop is None else stop
        if not 0 <= start < stop <= self.num_samples:
            raise AudioError(
                f"Audio file {self.path} has {self.num_samples} samples at {self.sample_rate} Hz; "
                f"the part from {start} to {stop} is empty or not in it."
            )
        source, target = self.info.sample_rate, self.sample_rate
        if source == target:
            return torch.from_numpy(self._mono(start, stop).copy())
        resample = _resampler(source, target)
        divisor = math.gcd(source, target)
        # Parts are cut at whole periods, where the filter's phase repeats, so nothing drifts.
        period, outputs = source // divisor, target // divisor
        context = -(-resample.width // period) * period
        first = max(0, start // outputs * period - context)
        last = min(self.info.num_frames, -(-stop // outputs) * period + context)
        offset = first // period * outputs
        samples = torch.from_numpy(self._mono(first, last))
        if last == self.info.num_frames:
            # torchaudio reckons its length in float32, which falls short for long files.
            samples = pad(samples, (0, context))
        return resample(samples)[start - offset : stop - offset]

    def _mono(self, first: int, last: int) -> np.ndarray:
        """Get samples at the file's own rate; what a next part may want again is kept."""
        held = self._held[:0]
        if self._held_start <= first <= self._held_start + len(self._held):
            held = self._held[first - self._held_start :]
        if (kept := first + len(held)) < last:
            held = np.concatenate([held, self._decoded(kept, last - kept)])
        self._held, self._held_start = held, first
        return held[: last - first]

    def _decoded(self, first: int, count: int) -> np.ndarray:
        try:
            if self._file.tell() != first:
                self._file.seek(first)
            samples = self._file.read(count, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise self._unreadable(error) from error
        if len(samples) < count:
            raise AudioError(
                f"Audio file {self.path} ends early: its header states {self.info.num_frames} "
                f"samples, {first + len(samples)} decode. Copy or download it again."
            )
        if unusable := samples.size - int(np.count_nonzero(np.isfinite(samples))):
            rate = self.info.sample_rate
            raise AudioError(
                f"Audio file {self.path} has {unusable} NaN or infinite samples between "
                f"{first / rate:.1f} s and {(first + len(samples)) / rate:.1f} s."
            )
        # [T, 1] shares memory with [T]; averaging one channel would only copy it.
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    def _unreadable(self, error: Exception) -> AudioError:
        reason = getattr(error, "error_string", None) or str(error)
        return AudioError(
            f"Audio file {self.path} is unreadable: {reason.strip().rstrip('.')}. It is damaged, "
            "or of a format that libsndfile does not decode; convert it to WAV or FLAC."
        )


def read_audio(path: str | os.PathLike, sample_rate: int = 16000) -> Tensor:
    """Read a whole file as one channel ``[T]`` at the rate asked for; see `AudioReader`.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> left_and_right = np.stack([np.full(800, 0.5), np.full(800, 0.25)], axis=1)
    >>> soundfile.write(path, left_and_right, 8000)
    >>> wav = read_audio(path)
    >>> wav.shape, wav.dtype, round(wav[800].item(), 3)
    (torch.Size([1600]), torch.float32, 0.375)
    """
    with AudioReader(path, sample_rate) as audio:
        return audio.read()


def audio_info(path: str | os.PathLike) -> AudioInfo:
    """Read length, rate and coding from the header; nothing is decoded.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> info = audio_info(path)
    >>> info.duration, info.sample_rate, info.num_channels, info.subtype
    (0.5, 8000, 2, 'PCM_16')
    """
    with AudioReader(path) as audio:
        return audio.info


def check_audio(path: str | os.PathLike, decode: bool = False) -> AudioInfo:
    """Check that a file gives a usable waveform, and return what its header states.

    Float samples are always looked through for NaN and Inf. Integer samples cannot hold
    them: they are decoded only on request, which finds damage behind an intact header.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    >>> try:
    ...     check_audio(path)
    ... except AudioError as error:
    ...     print(str(error).replace(str(path), "a.wav"))
    Audio file a.wav has 1 NaN or infinite samples between 0.0 s and 0.0 s.
    """
    with AudioReader(path) as audio:
        if decode or audio.info.subtype in ("FLOAT", "DOUBLE"):
            for start in range(0, audio.num_samples, _BLOCK_FRAMES):
                audio.read(start, min(start + _BLOCK_FRAMES, audio.num_samples))
        return audio.info


def _decodable_frames(file: soundfile.SoundFile) -> int:
    """Length of an MP3: libsndfile estimates it, a little high, where no Xing header states it."""
    if 0 < file.frames < _UNKNOWN_LENGTH:
        file.seek(file.frames - 1)
        is_exact = len(file.read(1)) == 1
        file.seek(0)
        if not is_exact:
            decoded = sum(iter(lambda: len(file.read(_BLOCK_FRAMES, "float32")), 0))
            file.seek(0)
            # What misses more than that was cut short.
            if file.frames - decoded <= max(2 * _MP3_FRAME, file.frames // 100):
                return decoded
    return file.frames


@functools.lru_cache(maxsize=32)
def _resampler(source_rate: int, target_rate: int) -> Resample:
    # The functional form computes its filter at each call, which at 48 kHz takes
    # longer than applying it to a short utterance.
    return Resample(source_rate, target_rate)
