"""Cross-entropy of class scores, with the signature of the contrastive objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemoclap_sb.objectives.label_matrices import checked_weights, labels_of


class ClassifierOutput(NamedTuple):
    """Class scores of a batch: ``logits`` ``[N, C]``."""

    logits: Tensor


class CrossEntropyObjective(nn.Module):
    """Cross-entropy of one attribute, with the signature of the other objectives.

    Parameters
    ----------
    attribute : str
        The attribute that is classified.
    label_smoothing : float
        Share of the target spread over all classes.

    Examples
    --------
    >>> import torch
    >>> outputs = {"emotion": ClassifierOutput(torch.zeros(2, 4))}
    >>> loss = CrossEntropyObjective()(outputs, {"emotion": torch.tensor([0, 3])})
    >>> round(loss.item(), 4)
    1.3863
    """

    def __init__(self, attribute: str = "emotion", label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.attributes = self.heads = (attribute,)
        self.label_smoothing = label_smoothing

    def forward(
        self, outputs: Mapping[str, ClassifierOutput], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Mean cross-entropy of a batch, a scalar."""
        (attribute,) = self.attributes
        return cross_entropy(outputs[attribute].logits, labels[attribute], self.label_smoothing)


class MultiTaskCrossEntropyObjective(nn.Module):
    """A weighted sum of one cross-entropy per attribute.

    With emotion and gender that is the warm-up of GMP-TL, ``alpha_e L_emotion + (1 - alpha_e)
    L_gender`` (Pan et al., arXiv 2405.02151). The model has a classifier for each attribute.

    Parameters
    ----------
    weights : Mapping[str, float]
        Weight of each attribute's loss; they sum to 1. One that weighs 0 needs neither labels nor
        a classifier.
    label_smoothing : float
        Share of the target spread over all classes of an attribute.

    Raises
    ------
    ValueError
        If a weight is outside [0, 1], or their sum is not 1.

    Examples
    --------
    >>> import torch
    >>> objective = MultiTaskCrossEntropyObjective({"emotion": 0.9, "gender": 0.1})
    >>> outputs = {
    ...     "emotion": ClassifierOutput(torch.zeros(2, 4)),
    ...     "gender": ClassifierOutput(torch.zeros(2, 2)),
    ... }
    >>> labels = {"emotion": torch.tensor([0, 3]), "gender": torch.tensor([1, 0])}
    >>> round(objective(outputs, labels).item(), 4)
    1.317
    """

    def __init__(self, weights: Mapping[str, float], label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = checked_weights(weights)
        self.attributes = self.heads = tuple(of for of, weight in self.weights.items() if weight)
        self.label_smoothing = label_smoothing

    def forward(
        self, outputs: Mapping[str, ClassifierOutput], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Weighted cross-entropy of a batch, a scalar."""
        return sum(
            self.weights[of]
            * cross_entropy(outputs[of].logits, labels_of(labels, of), self.label_smoothing)
            for of in self.attributes
        )


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits ``[N, C]``, a scalar, in float32 at least."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), labels, label_smoothing=label_smoothing)
