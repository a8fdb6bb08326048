"""Audio files to waveforms: 16 kHz, one channel, float32, whole or in part.

Decoding is libsndfile's (WAV, FLAC, Ogg, MP3, AIFF and whatever else
``soundfile.available_formats()`` lists), or ffmpeg's where that is installed and libsndfile does
not know the format; resampling is a windowed sinc's. A file that cannot give a usable waveform is
an `AudioError` that names it: a NaN sample would otherwise reach the loss, and every weight after
it.

A part is what that part of the whole file would be. The resampling filter looks some
samples to either side; a part is therefore resampled with that many of its neighbours,
of which the result is cut off again (overlap-save: Oppenheim and Schafer, "Discrete-Time
Signal Processing", section 8.7.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import pad

from gemoclap_sb.data.opening import AudioError, OpenedAudio, shown
from gemoclap_sb.data.resampling import resampler_of

_BLOCK_FRAMES = 2**18
# What is decoded, and what is resampled, at a time: 16 MB.
_BLOCK_VALUES = 2**22
# Samples may be unscaled integers; from here on a spectrum in float32 is not finite any more.
_LOUDEST = 2.0**31


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
    is_stopped : Callable, optional
        Asked while a long file is decoded: with True, what is under way ends as an `AudioError`.

    Attributes
    ----------
    info : AudioInfo
        What the header states.
    num_samples : int
        Length at ``sample_rate``.
    is_copy : bool
        Whether it reads what ffmpeg made of the file, which takes room on the disk till it is
        closed.

    Raises
    ------
    AudioError
        If the file is missing, is no audio that libsndfile or ffmpeg knows, holds no samples,
        holds fewer than its header promises, or does not state how many it holds.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.full((24000, 2), 0.5), 8000)
    >>> with AudioReader(path, 16000) as audio:
    ...     print(audio.num_samples, audio.read(16000, 16002).round(decimals=2))
    48000 tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._opened = opened = OpenedAudio(path, is_stopped)
        self.path, self._file, rate = opened.path, opened.file, opened.file.samplerate
        self.info = AudioInfo(opened.frames, rate, self._file.channels, self._file.subtype)
        self.is_copy = opened.is_copy
        self.sample_rate = sample_rate or rate
        self.num_samples = -(-opened.frames * self.sample_rate // rate)
        self._held, self._held_start = np.empty(0, np.float32), 0

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

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
                f"Audio file {shown(self.path)} has {self.num_samples} samples at "
                f"{self.sample_rate} Hz; the part from {start} to {stop} is empty or not in it."
            )
        source, target = self.info.sample_rate, self.sample_rate
        if source == target:
            return torch.from_numpy(self._mono(start, stop).copy())
        # Of what is long, as much at a time as is held in memory anyway.
        step = max(1, _BLOCK_VALUES * target // max(source, target))
        parts = [self._resampled(i, min(i + step, stop)) for i in range(start, stop, step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _resampled(self, start: int, stop: int) -> Tensor:
        resample = resampler_of(self.info.sample_rate, self.sample_rate)
        first, last = resample.span(start, stop)
        inside = max(0, first), min(self.info.num_frames, last)
        samples = torch.from_numpy(self._mono(*inside))
        return resample(pad(samples, (inside[0] - first, last - inside[1])), start, stop)

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
        block = max(1, _BLOCK_VALUES // self.info.num_channels)
        if count <= block:
            return self._block(first, count)
        mono = np.empty(count, np.float32)
        for start in range(0, count, block):
            size = min(block, count - start)
            mono[start : start + size] = self._block(first + start, size)
        return mono

    def _block(self, first: int, count: int) -> np.ndarray:
        """Decode, check and average the channels."""
        self._opened.stop_if_asked()
        try:
            if self._file.tell() != first:
                self._file.seek(first)
            samples = self._file.read(count, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise self._opened.unreadable(error) from error
        if len(samples) < count:
            raise self._opened.ends_early(self.info.num_frames, first + len(samples))
        # Written so that NaN does not pass.
        if not (samples.max() <= _LOUDEST and samples.min() >= -_LOUDEST):
            raise self._unusable(samples, first)
        # [T, 1] shares memory with [T]; averaging one channel would only copy it.
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    def _unusable(self, samples: np.ndarray, first: int) -> AudioError:
        rate, name = self.info.sample_rate, shown(self.path)
        where = f"between {first / rate:.1f} s and {(first + len(samples)) / rate:.1f} s"
        if unusable := samples.size - int(np.count_nonzero(np.isfinite(samples))):
            return AudioError(f"Audio file {name} has {unusable} NaN or infinite samples {where}.")
        return AudioError(
            f"Audio file {name} has samples up to {np.abs(samples).max():.2g} {where}; expected "
            "float audio in [-1, 1]. Scale it."
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
