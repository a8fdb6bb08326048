"""Contrast between clusters of one speaker: the clusters stand in for emotion labels.

Speaker embeddings of one speaker form clusters that follow emotion. Utterances of one cluster are
drawn together, those of the same speaker's other clusters pushed apart, so that the speaker, who is
the same on both sides, is not what tells them apart.

Source: Ulgen et al., arXiv 2401.11017, whose loss is not published in full. The two forms here:
InfoNCE (van den Oord et al., arXiv 1807.03748) and the supervised contrastive loss (Khosla et al.,
arXiv 2004.11362, equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor, nn

from gemoclap_sb.objectives.cross_entropy import ClassifierOutput, cross_entropy
from gemoclap_sb.objectives.label_matrices import check_choice, labels_of

FORMS = ("supcon", "infonce")
NEGATIVES = ("speaker", "all")


class EmbeddingOutput(NamedTuple):
    """L2-normalised embeddings of a batch: ``embeddings`` ``[N, D]``."""

    embeddings: Tensor


class ClusterContrastiveObjective(nn.Module):
    """Contrast clusters of the same speaker, and where a model tells speakers learn these besides.

    ``L = L_clusters + speaker_weight * L_speakers``, the second a cross-entropy. An anchor's
    positives are the others of its cluster, its negatives utterances of other clusters; an anchor
    that lacks either has no loss.

    Parameters
    ----------
    form : "supcon" or "infonce"
        Whether a positive is compared with the negatives and the other positives, or with the
        negatives alone.
    negatives : "speaker" or "all"
        Whose other clusters: the anchor's own speaker's, or everybody's.
    temperature : float
        Cosines are divided by it.
    speaker_weight : float
        Of the cross-entropy of speakers, if the model has a head for them. Whether the encoder is
        to tell them or to forget them is the model's to say.
    cluster, speaker : str
        Names of heads and labels. Clusters are numbered through all speakers.

    Raises
    ------
    ValueError
        If ``form`` or ``negatives`` is no such word, or a number is out of its range.

    Examples
    --------
    >>> objective = ClusterContrastiveObjective(temperature=1.0)
    >>> outputs = {"cluster": EmbeddingOutput(torch.eye(2)[[0, 0, 1, 1]])}
    >>> labels = {"cluster": torch.tensor([0, 0, 1, 1]), "spk_id": torch.tensor([0, 0, 0, 0])}
    >>> round(objective(outputs, labels).item(), 4)  # log(e + 2) - 1
    0.5514
    """

    def __init__(
        self,
        form: str = "supcon",
        negatives: str = "speaker",
        temperature: float = 0.1,
        speaker_weight: float = 0.1,
        cluster: str = "cluster",
        speaker: str = "spk_id",
    ) -> None:
        super().__init__()
        check_choice("form", form, FORMS)
        check_choice("negatives", negatives, NEGATIVES)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: expected more than 0, found {temperature!r}.")
        if not 0 <= speaker_weight < math.inf:
            raise ValueError(f"speaker_weight: expected 0 or more, found {speaker_weight!r}.")
        self.form, self.negatives, self.temperature = form, negatives, temperature
        self.speaker_weight = speaker_weight
        self.cluster, self.speaker = cluster, speaker
        self.attributes = (cluster, speaker)
        self.heads = (cluster,)

    def forward(
        self,
        outputs: Mapping[str, EmbeddingOutput | ClassifierOutput],
        labels: Mapping[str, LongTensor],
    ) -> Tensor:
        """Loss of a batch, a scalar; ValueError if no anchor has a positive and a negative."""
        clusters, speakers = (labels_of(labels, name) for name in self.attributes)
        loss = cluster_contrastive_loss(
            outputs[self.cluster].embeddings,
            clusters,
            speakers if self.negatives == "speaker" else torch.zeros_like(speakers),
            self.temperature,
            self.form,
        )
        if self.speaker in outputs:
            of_speakers = cross_entropy(outputs[self.speaker].logits, speakers)
            loss = loss + self.speaker_weight * of_speakers
        return loss


def cluster_contrastive_loss(
    embeddings: Tensor,
    clusters: LongTensor,
    groups: LongTensor,
    temperature: float = 0.1,
    form: str = "supcon",
) -> Tensor:
    """Contrast each utterance's cluster with the other clusters of its group.

    Parameters
    ----------
    embeddings : Tensor
        L2-normalised, ``[N, D]``.
    clusters, groups : LongTensor
        ``[N]``. A cluster lies in one group; other groups take no part in an anchor's loss.
    temperature : float
        Cosines are divided by it.
    form : "supcon" or "infonce"
        As of `ClusterContrastiveObjective`.

    Returns
    -------
    Tensor
        Mean over anchors of the mean over their positives, a scalar in float32 at least.

    Raises
    ------
    ValueError
        If no anchor has both a positive and a negative.
    """
    wide = torch.promote_types(embeddings.dtype, torch.float32)
    with torch.autocast(embeddings.device.type, enabled=False):
        scores = embeddings.to(wide) @ embeddings.to(wide).T / temperature
    same = clusters[:, None] == clusters
    positive = same & ~torch.eye(len(clusters), dtype=torch.bool, device=same.device)
    negative = ~same & (groups[:, None] == groups)
    anchors = positive.any(1) & negative.any(1)
    if not anchors.any():
        raise ValueError(
            "expected an utterance that shares its cluster with another and not with a third; "
            "found none in the batch."
        )
    scores, positive, negative = scores[anchors], positive[anchors], negative[anchors]
    of_negatives = scores.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    if form == "supcon":
        of_positives = scores.masked_fill(~positive, -torch.inf).logsumexp(1, keepdim=True)
        against = torch.logaddexp(of_positives, of_negatives)
    else:
        against = torch.logaddexp(scores, of_negatives)
    losses = (against - scores).masked_fill(~positive, 0.0)
    return (losses.sum(1) / positive.sum(1)).mean()
