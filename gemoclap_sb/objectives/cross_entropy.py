"""Cross-entropy of class scores, with the signature of the contrastive objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


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
        return F.cross_entropy(
            outputs[attribute].logits.float(),
            labels[attribute],
            label_smoothing=self.label_smoothing,
        )
