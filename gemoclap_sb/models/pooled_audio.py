"""What every model here does with waveforms: an audio lobe gives frames, a pooling one vector."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    mark_as_transfer,
    register_checkpoint_hooks,
)
from torch import Tensor, nn

from gemoclap_sb.lobes.cutting import trim_silence
from gemoclap_sb.lobes.lengths import frame_lengths
from gemoclap_sb.lobes.speeds import at_speed, check_speeds
from gemoclap_sb.models.lean_checkpoints import lean_state, recover, transfer


@register_checkpoint_hooks
class PooledAudio(nn.Module):
    """Base of the models over an audio lobe; they set the first four.

    ``trim_db`` is None, or the level of `gemoclap_sb.lobes.cutting.trim_silence`: a model leaves
    out silence in training and in use alike, or not at all. ``tta_speeds`` are those at which an
    utterance is heard outside of training (test-time augmentation), or None: its pooled vector is
    the mean of theirs. Another speed is another voice, so that what is one speaker's own counts
    less. ``hears_once`` puts them aside for a while.

    Its checkpoints are those of `gemoclap_sb.models.lean_checkpoints`.
    """

    audio_encoder: nn.Module
    pooling: nn.Module
    trim_db: float | None
    tta_speeds: Sequence[int] | None
    hears_once: bool = False

    def trim(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out silence at both ends if the model does; ``[B, T]`` and ``[B]`` as given."""
        if self.trim_db is None:
            return wavs, wav_lens
        return trim_silence(wavs, wav_lens, self.trim_db)

    def encode_frames(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of waveforms at their own speed, trimmed if the model trims, before pooling.

        Parameters
        ----------
        wavs : Tensor
            float32 ``[B, T]``, 16 kHz, mono.
        wav_lens : Tensor
            ``[B]``, relative to the longest.

        Returns
        -------
        frames : Tensor
            ``[B, F, Da]``.
        lengths : Tensor
            int64 ``[B]``, how many frames of each utterance are its own.

        Raises
        ------
        ValueError
            If the lobe gives something else than ``[B, F, D]``.
        """
        wavs, wav_lens = self.trim(wavs, wav_lens)
        frames = self.audio_encoder(wavs, wav_lens)
        if frames.dim() != 3:
            raise ValueError(
                f"audio_encoder ({type(self.audio_encoder).__name__}): expected frames "
                f"[B, F, D], found shape {list(frames.shape)}. Stock lobes: set "
                "output_all_hiddens: False."
            )
        return frames, frame_lengths(self.audio_encoder, frames, wavs, wav_lens)

    def encode_layer_frames(
        self, wavs: Tensor, wav_lens: Tensor, layers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Frames of intermediate layers of the audio lobe, side by side, trimmed as above.

        Parameters
        ----------
        wavs, wav_lens : Tensor
            As for `encode_frames`.
        layers : Sequence[int]
            From 1 to the lobe's ``depth``.

        Returns
        -------
        frames : Tensor
            ``[B, F, sum of the layers' sizes]``.
        lengths : Tensor
            int64 ``[B]``, how many frames of each utterance are its own.

        Raises
        ------
        ValueError
            If the lobe gives no such frames, or has no such layer.
        """
        lobe = self.audio_encoder
        if not (hasattr(lobe, "layer_frames") and hasattr(lobe, "frame_lengths")):
            raise ValueError(
                f"audio_encoder ({type(lobe).__name__}): expected a lobe with the methods "
                "layer_frames(wavs, wav_lens, layers) and frame_lengths(samples), as SSLEncoder "
                "and ResNetEncoder have them"
            )
        wavs, wav_lens = self.trim(wavs, wav_lens)
        frames = lobe.layer_frames(wavs, wav_lens, layers)
        return frames, frame_lengths(lobe, frames, wavs, wav_lens)

    @mark_as_saver
    def save_checkpoint(self, path: str | os.PathLike) -> None:
        """Write what was trained, and name the source of the rest."""
        torch.save(lean_state(self), path)

    @mark_as_loader
    def load_checkpoint(self, path: str | os.PathLike, end_of_epoch: bool = True) -> None:
        """Go on from a checkpoint; SourceError if the pretrained weights are others."""
        del end_of_epoch
        recover(self, path)

    @mark_as_transfer
    def transfer_checkpoint(self, path: str | os.PathLike) -> None:
        """Begin with what an earlier stage's checkpoint has; SourceError as above."""
        transfer(self, path)

    def pool(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """Pooled audio vectors before projection, ``[B, Dp]``."""
        if self.training or self.hears_once or self.tta_speeds is None:
            return self.pooling(*self.encode_frames(wavs, wav_lens))
        played = (at_speed(wavs, wav_lens, speed) for speed in self.tta_speeds)
        return torch.stack([self.pooling(*self.encode_frames(*of)) for of in played]).mean(dim=0)


def checked_tta_speeds(speeds: Sequence[int] | None) -> list[int] | None:
    """Return ``tta_speeds`` as a model keeps them; ValueError if they are none."""
    return None if speeds is None else check_speeds("tta_speeds", speeds)


def size_of(module: nn.Module, given: int | None, tower: str) -> int:
    """Size of a module's vectors: the given one, or its ``output_size``; ValueError without."""
    size = given if given is not None else getattr(module, "output_size", None)
    if size is None:
        raise ValueError(
            f"{tower}_size: {type(module).__name__} has no `output_size`; give the size of its "
            f"vectors as {tower}_size."
        )
    return int(size)
