"""The linear layer of a plain classifier, where a `GEmoCLAP` has its classes' texts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.plain_description import NO_TEXTS
from gemoclap_sb.models.towers import ClassTexts


class ClassLayer(ClassTexts):
    """Pooled vectors to log posteriors: ``log_softmax(scale * (W x + b))``.

    Parameters
    ----------
    num_classes : int
        C.
    embedding_size : int
        D; ``classes`` is ``[C, D + 1]``, the weights and in the last column the bias.

    Examples
    --------
    >>> layer = ClassLayer(2, 3)
    >>> _ = layer.classes.copy_(torch.eye(4)[2:])
    >>> layer(torch.tensor([[[0.0, 0.0, 1.0]]])).exp()
    tensor([[[0.5000, 0.5000]]])
    """

    def __init__(self, num_classes: int, embedding_size: int) -> None:
        super().__init__(num_classes, embedding_size + 1)

    def check_texts(self) -> None:
        """Raise ValueError: there is no text tower."""
        raise ValueError(NO_TEXTS)


def class_rows(model: AudioClassifier | GEmoCLAPEnsemble) -> Tensor:
    """Weights and bias of a plain classifier, ``[C, D + 1]``, or of several whose logits average.

    Their `AudioTower` gives K pooled vectors side by side, divided by the root of K, and so are
    the weights here: the product is the mean of the members' own.
    """
    members = getattr(model, "members", [model])
    weights = torch.cat([one.classifier.weight for one in members], dim=1)
    bias = torch.stack([one.classifier.bias for one in members]).mean(dim=0)
    return torch.cat([weights / math.sqrt(len(members)), bias[:, None]], dim=1).detach()
