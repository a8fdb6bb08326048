"""Waveforms that a caller holds in memory, checked and brought to what a model takes.

Samples that are integers are PCM, as ``soundfile`` and ``scipy.io.wavfile`` give them, and come to
[-1, 1]; floats keep their scale. What could be meant in two ways is refused.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gemoclap_sb.data.audio import AudioError, AudioReader
from gemoclap_sb.data.resampling import FASTEST, SLOWEST, resample
from gemoclap_sb.lobes.lengths import mask_from_lengths, sample_lengths

# What the float32 of a relative length may be above 1.
_ROUNDING = 1e-5
# Offset and size of a sample, by the type that holds it.
_PCM = {torch.uint8: (128, 128), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}


def as_floats(name: str, samples: Any) -> Tensor:
    """Turn samples of any shape into float32; ValueError with their name if they are none.

    >>> as_floats("wavs", np.array([-(2**15), 2**14], dtype=np.int16))
    tensor([-1.0000,  0.5000])
    """
    if np.ma.is_masked(samples):
        raise ValueError(
            f"{name}: {np.ma.count_masked(samples)} samples are masked, and no model knows what "
            "stands there. Fill them first (`.filled(0)`)."
        )
    if isinstance(samples, np.ndarray):
        if samples.dtype.kind not in "fiu" or samples.dtype.itemsize > 8:
            raise ValueError(_wrong_type(name, samples.dtype))
        # A copy, of the machine's byte order: torch takes no other, nor steps backwards.
        samples = samples.astype(samples.dtype.newbyteorder("="))
        if samples.dtype.kind == "u" and samples.itemsize > 1:
            raise ValueError(_wrong_type(name, samples.dtype))
        samples = torch.from_numpy(samples)
    if not isinstance(samples, Tensor):
        raise ValueError(
            f"{name}: expected a NumPy array or a tensor of samples, found "
            f"{type(samples).__name__}."
        )
    if samples.layout is not torch.strided or samples.is_meta:
        kind = "no numbers (meta)" if samples.is_meta else str(samples.layout)
        raise ValueError(f"{name}: expected a dense tensor of samples, found {kind}.")
    if samples.dtype in _PCM:
        offset, size = _PCM[samples.dtype]
        return (samples.double() - offset).div(size).float()
    if not samples.is_floating_point():
        raise ValueError(_wrong_type(name, samples.dtype))
    return samples.detach().float()


def _wrong_type(name: str, dtype: object) -> str:
    return (
        f"{name}: expected samples that are floats, or int16, int32 or uint8 (PCM), found "
        f"{str(dtype).removeprefix('torch.')}."
    )


def checked_batch(wavs: Any, wav_lens: Any = None) -> tuple[Tensor, Tensor]:
    """Check a batch ``[B, T]``, or one waveform ``[T]``, and relative lengths ``[B]``.

    Both come back as float32 tensors. ValueError for another shape or type, or lengths that are
    not in (0, 1]; AudioError (which is one) for NaN or infinite samples outside of the padding.
    """
    wavs = as_floats("wavs", wavs)
    wavs = wavs.unsqueeze(0) if wavs.dim() == 1 else wavs
    if wavs.dim() != 2 or 0 in wavs.shape:
        raise ValueError(
            f"wavs: expected [batch, samples] with one of each or more, found "
            f"{list(wavs.shape)}. Average channels first."
        )
    if wav_lens is None:
        lengths = torch.ones(len(wavs), device=wavs.device)
    else:
        try:
            lengths = torch.as_tensor(wav_lens, dtype=torch.float32, device=wavs.device).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"wav_lens: expected a number for each row of wavs, found {wav_lens!r:.60}."
            ) from error
        if lengths.shape != (len(wavs),):
            raise ValueError(
                f"wav_lens: expected {len(wavs)} of them, one for each row of wavs, found the "
                f"shape {list(lengths.shape)}."
            )
        # So written that NaN is wrong.
        if wrong := lengths[~((lengths > 0) & (lengths <= 1 + _ROUNDING))].tolist():
            raise ValueError(
                f"wav_lens: expected lengths relative to the longest, above 0 and up to 1, found "
                f"{wrong[0]:g}."
            )
        lengths = lengths.clamp(max=1.0)
    check_finite(wavs, lengths)
    return wavs, lengths


def check_finite(wavs: Tensor, wav_lens: Tensor) -> None:
    """Refuse waveforms ``[B, T]`` with NaN or infinite samples before their ends: AudioError."""
    finite = torch.isfinite(wavs)
    if finite.all():
        return
    finite |= ~mask_from_lengths(sample_lengths(wavs, wav_lens), wavs.shape[1])
    if rows := (~finite.all(dim=1)).nonzero().flatten().tolist():
        raise AudioError(
            f"wavs[{rows[0]}] has {int((~finite[rows[0]]).sum())} NaN or infinite samples."
        )


def as_waveform(name: str, given: Any, sampling_rate: Any, sample_rate: int) -> Tensor:
    """Turn one recording in memory into a waveform ``[T]`` on the CPU, at ``sample_rate``.

    ``given`` is an array or tensor, at ``sampling_rate`` or without one at the model's; a mapping
    with its own (``raw`` or ``array``, and ``sampling_rate``); the bytes of an audio file; or a
    decoder of ``datasets``. ValueError if it is none of these, AudioError for its samples.
    """
    own_rate = None
    if isinstance(given, bytes | bytearray | memoryview):
        given, own_rate = _decoded(name, bytes(given))
    elif isinstance(given, Mapping):
        if isinstance(given.get("bytes"), bytes) and "array" not in given:
            # What `datasets` holds before it decodes.
            return as_waveform(name, given["bytes"], sampling_rate, sample_rate)
        key = "raw" if given.get("raw") is not None else "array"
        if given.get(key) is None or given.get("sampling_rate") is None:
            raise ValueError(
                f"{name}: expected the keys 'array' (or 'raw') and 'sampling_rate', found "
                f"{list(given)}."
            )
        given, own_rate = given[key], given["sampling_rate"]
    elif hasattr(given, "get_all_samples"):
        # torchcodec's, as `datasets` hands it out: channels come first.
        samples = given.get_all_samples()
        given, own_rate = samples.data.float().mean(dim=0), samples.sample_rate
    if own_rate is not None and sampling_rate is not None:
        raise ValueError(f"{name}: has a sampling rate of its own; leave out sampling_rate.")
    rate = own_rate if sampling_rate is None else sampling_rate
    rate = sample_rate if rate is None else _checked_rate(name, rate)
    wav = as_floats(name, given)
    if wav.numel() == 0:
        raise AudioError(f"{name}: expected samples, found none.")
    if wav.numel() > max(wav.shape, default=0):
        raise ValueError(
            f"{name}: expected one channel [samples], found the shape {list(wav.shape)}. Average "
            "the axis of the channels first: array.mean(axis=...)."
        )
    wav = wav.reshape(-1).cpu()
    if unusable := int((~torch.isfinite(wav)).sum()):
        raise AudioError(f"{name} has {unusable} NaN or infinite samples.")
    return resample(wav, rate, sample_rate)


def checked_count(name: str, count: Any) -> None:
    """Refuse what is no whole number from 1 on."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name}: expected 1 or more, found {count!r}.")


def _checked_rate(name: str, rate: Any) -> int:
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not math.isfinite(rate) or rate != int(rate):
        raise ValueError(f"{name}: sampling_rate: expected a whole number of Hz, found {rate!r}.")
    if not SLOWEST <= rate <= FASTEST:
        raise ValueError(
            f"{name}: sampling_rate: expected {SLOWEST:,} to {FASTEST:,} Hz, found {rate!r}."
        )
    return int(rate)


def _decoded(name: str, content: bytes) -> tuple[np.ndarray, int]:
    # As a file, whose header is compared with what there is.
    with tempfile.NamedTemporaryFile(prefix="gemoclap-") as file:
        file.write(content)
        file.flush()
        try:
            with AudioReader(file.name) as audio:
                return audio.read().numpy(), audio.info.sample_rate
        except AudioError as error:
            raise AudioError(str(error).replace(file.name, f"({name})")) from error
