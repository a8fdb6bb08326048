"""Several models that answer together: the mean of their cosines.

Each of K models has embeddings of unit length. Side by side and divided by the root of K they are
again of unit length, and the product of two of them is the mean of the models' own cosines:

    <[a1 ... aK], [t1 ... tK]> / K = (<a1, t1> + ... + <aK, tK>) / K

So an ensemble is used as one model with longer embeddings, for words of any kind and for search.
Averaging the outputs of networks that differ by their seed: Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017, arXiv 1612.01474.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.gemoclap import GEmoCLAP


def concatenated(embeddings: Sequence[Tensor]) -> Tensor:
    """Put K models' unit vectors ``[..., D]`` side by side as unit vectors ``[..., K * D]``.

    The sizes D may differ.

    Examples
    --------
    >>> concatenated([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    return torch.cat(list(embeddings), dim=-1) / math.sqrt(len(embeddings))


class GEmoCLAPEnsemble(nn.Module):
    """Two or more trained models with the same heads; what export and inference ask of one.

    Plain classifiers too are averaged so: the mean of their logits.

    The towers of it are `gemoclap_sb.models.towers.AudioTower.of` and `text_tower_of`.
    """

    def __init__(self, members: Sequence[GEmoCLAP | AudioClassifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.heads = members[0].heads

    def encode_classes(self, class_sentences: Sequence[Sequence[str]]) -> Tensor:
        """One text embedding ``[C, K * D]`` per class, of which each member averages its own."""
        return concatenated([member.encode_classes(class_sentences) for member in self.members])

    def class_scale(self, head: str | None = None) -> float:
        """Give the mean of the factors that the members' training chose for a head."""
        return fmean(member.class_scale(head) for member in self.members)


class TextEnsemble(nn.Module):
    """The members' text towers: sentences to embeddings ``[N, K * D]``, L2-normalised."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Embed N sentences."""
        return concatenated([member(sentences) for member in self.members])
