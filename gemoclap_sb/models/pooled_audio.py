"""What every model here does with waveforms: an audio lobe gives frames, a pooling one vector."""

from __future__ import annotations

from torch import Tensor, nn

from gemoclap_sb.lobes.lengths import frame_lengths


class PooledAudio(nn.Module):
    """Base of the models over an audio lobe; they set ``audio_encoder`` and ``pooling``."""

    audio_encoder: nn.Module
    pooling: nn.Module

    def encode_frames(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of waveforms, before pooling.

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
        frames = self.audio_encoder(wavs, wav_lens)
        if frames.dim() != 3:
            raise ValueError(
                f"audio_encoder ({type(self.audio_encoder).__name__}): expected frames "
                f"[B, F, D], found shape {list(frames.shape)}. Stock lobes: set "
                "output_all_hiddens: False."
            )
        return frames, frame_lengths(self.audio_encoder, frames, wavs, wav_lens)

    def pool(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """Pooled audio vectors before projection, ``[B, Dp]``."""
        return self.pooling(*self.encode_frames(wavs, wav_lens))


def size_of(module: nn.Module, given: int | None, tower: str) -> int:
    """Size of a module's vectors: the given one, or its ``output_size``; ValueError without."""
    size = given if given is not None else getattr(module, "output_size", None)
    if size is None:
        raise ValueError(
            f"{tower}_size: {type(module).__name__} has no `output_size`; give the size of its "
            f"vectors as {tower}_size."
        )
    return int(size)
