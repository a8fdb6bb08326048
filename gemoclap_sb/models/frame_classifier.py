"""A classifier of frames: several labels for each, such as its cluster at several scales."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gemoclap_sb.models.pooled_audio import PooledAudio, size_of
from gemoclap_sb.objectives.frame_cross_entropy import FrameOutput


class FrameClassifier(PooledAudio):
    """Audio lobe and, for each scale, a linear layer over its frames.

    How many classes a scale has is known when the labels are: call `add_scales` before training.

    Parameters
    ----------
    audio_encoder : nn.Module
        Audio lobe ``(wavs [B, T], wav_lens [B]) -> frames [B, F, D]``.
    trim_db : float, optional
        As of `GEmoCLAP`.
    dropout : float
        Dropout before the linear layers.
    audio_size : int, optional
        D, for a lobe that has no ``output_size``.

    Examples
    --------
    >>> import torch
    >>> from gemoclap_sb.lobes import ResNetEncoder
    >>> model = FrameClassifier(ResNetEncoder(channels=[8], strides=[2]))
    >>> model.add_scales([16, 128])
    >>> output = model(torch.randn(2, 8000), torch.tensor([1.0, 0.5]))
    >>> [logits.shape for logits in output.logits], output.lengths
    ([torch.Size([2, 8, 16]), torch.Size([2, 8, 128])], tensor([8, 4]))
    """

    def __init__(
        self,
        audio_encoder: nn.Module,
        trim_db: float | None = None,
        dropout: float = 0.0,
        audio_size: int | None = None,
    ) -> None:
        super().__init__()
        self.audio_encoder = audio_encoder
        self.frame_size = size_of(audio_encoder, audio_size, "audio")
        self.trim_db = trim_db
        self.tta_speeds = None
        self.dropout = nn.Dropout(dropout)
        self.scales = nn.ModuleList()

    def add_scales(self, num_classes: Sequence[int]) -> None:
        """Give each scale a linear layer, in their order."""
        self.scales.extend(nn.Linear(self.frame_size, count) for count in num_classes)

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> FrameOutput:
        """Class scores ``[B, F, C]`` for each scale, and each utterance's number of frames."""
        frames, lengths = self.encode_frames(wavs, wav_lens)
        frames = self.dropout(frames)
        return FrameOutput(tuple(scale(frames) for scale in self.scales), lengths)
