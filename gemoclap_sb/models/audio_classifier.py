"""A plain classifier on the same audio tower, to measure the contrastive objectives against.

Same lobe, same pooling, same loop; a linear layer and cross-entropy in place of prompts
and label matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from gemoclap_sb.models.pooled_audio import PooledAudio, checked_tta_speeds, size_of
from gemoclap_sb.objectives.cross_entropy import ClassifierOutput


class AudioClassifier(PooledAudio):
    """Audio lobe, pooling and a linear layer, with the interface of `GEmoCLAP`.

    Parameters
    ----------
    audio_encoder : nn.Module
        Audio lobe ``(wavs [B, T], wav_lens [B]) -> frames [B, F, Da]``.
    pooling : nn.Module
        ``(frames, lengths) -> [B, Dp]``.
    num_classes : int
        C.
    head : str
        The attribute that is classified.
    dropout : float
        Dropout before the linear layer.
    trim_db : float, optional
        As of `GEmoCLAP`.
    tta_speeds : Sequence[int], optional
        As of `GEmoCLAP`.

    Examples
    --------
    >>> import torch
    >>> from gemoclap_sb.lobes import MaskedMeanPooling, ResNetEncoder
    >>> lobe = ResNetEncoder(channels=[8], strides=[2])
    >>> model = AudioClassifier(lobe, MaskedMeanPooling(lobe.output_size), num_classes=4)
    >>> outputs = model(torch.randn(2, 8000), torch.ones(2))
    >>> outputs["emotion"].logits.shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        audio_encoder: nn.Module,
        pooling: nn.Module,
        num_classes: int,
        head: str = "emotion",
        dropout: float = 0.0,
        trim_db: float | None = None,
        tta_speeds: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.heads = (head,)
        self.trim_db = trim_db
        self.tta_speeds = checked_tta_speeds(tta_speeds)
        self.audio_encoder = audio_encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.embedding_size = size_of(pooling, None, "audio")
        self.classifier = nn.Linear(self.embedding_size, num_classes)

    def forward(
        self,
        wavs: Tensor,
        wav_lens: Tensor,
        sentences: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, ClassifierOutput]:
        """Class scores ``[N, C]`` of a batch under the head's name; ``sentences`` are not read."""
        logits = self.classifier(self.dropout(self.pool(wavs, wav_lens)))
        return {self.heads[0]: ClassifierOutput(logits)}

    def encode_classes(self, class_sentences: Sequence[Sequence[str]]) -> None:
        """Nothing to encode: the classes are the rows of the linear layer."""

    def class_scores(self, output: ClassifierOutput, classes: None = None) -> Tensor:
        """Return the logits, ``[N, C]``."""
        return output.logits

    def class_scale(self, head: str | None = None) -> float:
        """Give the factor on `class_scores`: 1, since they are logits already."""
        return 1.0
