"""A plain classifier on the same audio tower, to measure the contrastive objectives against.

Same lobe, same pooling, same loop; a linear layer and cross-entropy in place of prompts
and label matrices. The layer may compare directions alone, as losses with a margin need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemoclap_sb.lobes.pooling import MaskedMeanPooling
from gemoclap_sb.models.gemoclap import normalized
from gemoclap_sb.models.pooled_audio import PooledAudio, checked_tta_speeds, size_of
from gemoclap_sb.objectives.cross_entropy import ClassifierOutput


class AudioClassifier(PooledAudio):
    """Audio lobe, pooling and a linear layer, or cosines, with the interface of `GEmoCLAP`.

    Parameters
    ----------
    audio_encoder : nn.Module
        Audio lobe ``(wavs [B, T], wav_lens [B]) -> frames [B, F, Da]``.
    pooling : nn.Module or None
        ``(frames, lengths) -> [B, Dp]``; None for the mean of valid frames.
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
    cosine_scale : float, optional
        Score a class by so many times the cosine of the pooled vector and the class's own, without
        a bias, as `gemoclap_sb.objectives.MarginSoftmaxObjective` reads it. By default the layer
        is linear, with a bias.

    Raises
    ------
    ValueError
        If the pooling tells no size, a speed is not a whole number from 50 to 200, or
        ``cosine_scale`` is not above 0.

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
        pooling: nn.Module | None,
        num_classes: int,
        head: str = "emotion",
        dropout: float = 0.0,
        trim_db: float | None = None,
        tta_speeds: Sequence[int] | None = None,
        cosine_scale: float | None = None,
    ) -> None:
        super().__init__()
        if cosine_scale is not None and not (math.isfinite(cosine_scale) and cosine_scale > 0):
            raise ValueError(
                f"cosine_scale: expected more than 0, or null, found {cosine_scale!r}."
            )
        self.heads = (head,)
        self.trim_db = trim_db
        self.tta_speeds = checked_tta_speeds(tta_speeds)
        self.audio_encoder = audio_encoder
        self.pooling = pooling or MaskedMeanPooling(size_of(audio_encoder, None, "audio"))
        self.dropout = nn.Dropout(dropout)
        self.embedding_size = size_of(self.pooling, None, "audio")
        self.cosine_scale = cosine_scale
        self.classifier = nn.Linear(self.embedding_size, num_classes, bias=cosine_scale is None)
        self.classifiers = nn.ModuleDict()

    def add_classifiers(self, sizes: Mapping[str, int]) -> None:
        """Score so many classes of further attributes too, by a linear layer each.

        `gemoclap_sb.objectives.MultiTaskCrossEntropyObjective` reads the scores. They serve
        training only: an export has none. ValueError for the model's own head.
        """
        if self.heads[0] in sizes:
            raise ValueError(
                f"expected attributes beside the model's head, found {self.heads[0]!r}."
            )
        for name, size in sizes.items():
            self.classifiers[name] = nn.Linear(self.embedding_size, size)

    def forward(
        self,
        wavs: Tensor,
        wav_lens: Tensor,
        sentences: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, ClassifierOutput]:
        """Class scores ``[N, C]`` of a batch by attribute: the head's, and of `add_classifiers`.

        ``sentences`` are not read.
        """
        pooled = self.dropout(self.pool(wavs, wav_lens))
        outputs = {self.heads[0]: ClassifierOutput(self._logits(pooled))}
        return outputs | {
            name: ClassifierOutput(layer(pooled)) for name, layer in self.classifiers.items()
        }

    def _logits(self, pooled: Tensor) -> Tensor:
        if self.cosine_scale is None:
            return self.classifier(pooled)
        with torch.autocast(pooled.device.type, enabled=False):
            cosines = F.linear(normalized(pooled), normalized(self.classifier.weight))
            return self.cosine_scale * cosines

    def encode_classes(self, class_sentences: Sequence[Sequence[str]]) -> None:
        """Nothing to encode: the classes are the rows of the linear layer."""

    def class_scores(self, output: ClassifierOutput, classes: None = None) -> Tensor:
        """Return the logits, ``[N, C]``."""
        return output.logits

    def class_scale(self, head: str | None = None) -> float:
        """Give the factor on `class_scores`: 1, since they are logits already."""
        return 1.0
