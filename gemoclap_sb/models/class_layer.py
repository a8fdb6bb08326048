"""The linear layer of a plain classifier, where a `GEmoCLAP` has its classes' texts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.gemoclap import normalized
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
    the weights here: the product is the mean of the members' own. Of a member that compares
    directions the tower gives the vector's, and the scaled directions of the classes are here.
    """
    members = getattr(model, "members", [model])
    weights, biases = zip(*map(_weights_and_bias, members), strict=True)
    whole = torch.cat(weights, dim=1) / math.sqrt(len(members))
    bias = torch.stack(biases).mean(dim=0)
    return torch.cat([whole, bias[:, None]], dim=1).detach()


def _weights_and_bias(model: AudioClassifier) -> tuple[Tensor, Tensor]:
    weight, bias = model.classifier.weight, model.classifier.bias
    if model.cosine_scale is None:
        return weight, bias
    return model.cosine_scale * normalized(weight), weight.new_zeros(len(weight))
