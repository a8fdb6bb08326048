"""What training hears of a batch: augmented, at other speeds, in random parts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import LongTensor, Tensor

from gemoclap_sb.lobes.cutting import random_crop
from gemoclap_sb.models.pooled_audio import PooledAudio
from gemoclap_sb.training.settings import ExperimentError

SAMPLE_RATE = 16000


def check_hearing(hparams: Any) -> None:
    """Refuse values that would fail in the middle of training; ExperimentError."""
    crop = getattr(hparams, "crop_seconds", None)
    if crop is not None and not (isinstance(crop, int | float) and 0 < crop < math.inf):
        raise ExperimentError(f"crop_seconds: expected more than 0, or null, found {crop!r}.")


def heard(
    hparams: Any, model: PooledAudio, wavs: Tensor, wav_lens: Tensor
) -> tuple[Tensor, Tensor, LongTensor]:
    """Give waveforms as training hears them, and of which utterance of the batch each is.

    ``hparams`` may hold ``wav_augment`` (a SpeechBrain ``Augmenter``), ``random_speed``
    (`gemoclap_sb.lobes.RandomSpeed`) and ``crop_seconds``.
    """
    kept = torch.arange(len(wavs))
    augment = getattr(hparams, "wav_augment", None)
    seconds = getattr(hparams, "crop_seconds", None)
    # Resampling and filters in half precision would round the waveforms.
    with torch.autocast(wavs.device.type, enabled=False):
        if augment is not None:
            wavs, wav_lens = augment(wavs, wav_lens)
            kept = augment.replicate_labels(kept)
        if getattr(hparams, "random_speed", None) is not None:
            wavs, wav_lens = hparams.random_speed(wavs, wav_lens)
        if seconds is not None:
            # Or a crop could be of nothing but silence.
            wavs, wav_lens = model.trim(wavs, wav_lens)
            wavs, wav_lens = random_crop(wavs, wav_lens, round(seconds * SAMPLE_RATE))
    return wavs, wav_lens, kept
