"""Contrastive objectives over label matrices: Emo-, ML- and SL-GEmo-CLAP.

A CLIP-style loss calls every other item of the batch a negative, although many of them
share the label. GEmo-CLAP instead asks that the audio-text similarities of a batch
follow a matrix made from the labels, by Kullback-Leibler divergence.

Source: Pan et al., "GEmo-CLAP: Gender-Attribute-Enhanced Contrastive Language-Audio
Pretraining for Accurate Speech Emotion Recognition", arXiv 2306.07848 (ICASSP 2024),
section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemoclap_sb.objectives.divergences import (
    REDUCTIONS,
    SIMILARITIES,
    ContrastiveOutput,
    audio_contrastive_loss,
    kl_contrastive_loss,
    similarity_logits,
)
from gemoclap_sb.objectives.label_matrices import (
    TARGETS,
    check_choice,
    checked_weights,
    label_matrix,
    labels_of,
    soft_label_matrix,
)


class _LabelObjective(nn.Module):
    """What the three objectives share: weighted attributes and loss options.

    ``similarity: both`` adds ``intra_weight`` times `audio_contrastive_loss`;
    ``cross_entropy_weight`` adds so much of the cross-entropy of the heads' class scores.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        similarity: str = "cross",
        reduction: str = "batchmean",
        target: str = "softmax",
        intra_weight: float = 0.5,
        cross_entropy_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = checked_weights(weights)
        # Here too, and not with the first batch only: the encoders take long to load.
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("target", target, TARGETS)
        named = {"intra_weight": intra_weight, "cross_entropy_weight": cross_entropy_weight}
        for name, weight in named.items():
            if not (math.isfinite(weight) and weight >= 0.0):
                raise ValueError(f"{name}: expected 0 or more, found {weight!r}.")
        self.similarity = similarity
        self.reduction = reduction
        self.target = target
        self.intra_weight = intra_weight
        self.cross_entropy_weight = cross_entropy_weight

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes whose labels the objective reads: those that weigh something."""
        return tuple(attribute for attribute, weight in self.weights.items() if weight)

    def _loss(
        self,
        outputs: Mapping[str, ContrastiveOutput],
        head: str,
        matrix: Tensor,
        labels: Mapping[str, Tensor],
    ) -> Tensor:
        """Loss of one head; its class scores are those of the attribute of its name."""
        if head not in outputs:
            raise KeyError(
                f"the objective needs the model's head {head!r}; found {sorted(outputs)}. "
                "List it under the model's `heads`."
            )
        output, options = outputs[head], (matrix, self.reduction, self.target)
        loss = kl_contrastive_loss(*similarity_logits(output, self.similarity), *options)
        if self.similarity == "both":
            intra = audio_contrastive_loss(output.audio, output.audio_scale, *options)
            loss = loss + self.intra_weight * intra
        if self.cross_entropy_weight:
            if output.logits is None:
                raise ValueError(
                    "cross_entropy_weight: the model gives no class scores; call its "
                    "`add_classifiers`."
                )
            wide = torch.promote_types(output.logits.dtype, torch.float32)
            entropy = F.cross_entropy(output.logits.to(wide), labels_of(labels, head))
            loss = loss + self.cross_entropy_weight * entropy
        return loss

    def extra_repr(self) -> str:
        """Show the options in ``print(objective)``."""
        return (
            f"weights={self.weights}, similarity={self.similarity!r}, "
            f"reduction={self.reduction!r}, target={self.target!r}, "
            f"intra_weight={self.intra_weight}, cross_entropy_weight={self.cross_entropy_weight}"
        )


class SoftLabelObjective(_LabelObjective):
    """SL-GEmo-CLAP: one loss against a mixture of label matrices.

    ``M = alpha_e M_e + (1 - alpha_e) M_g``, then as Emo-CLAP. Utterances of the same emotion
    and gender are drawn together most, those of the same emotion next. One projection head
    serves all attributes, so this costs what Emo-CLAP costs; choose `MultiTaskObjective` to
    have an embedding for each attribute instead.

    Parameters
    ----------
    weights : Mapping[str, float]
        Weight of each attribute's label matrix; they sum to 1. The paper has
        ``{emotion: 0.8 or 0.9, gender: 0.2 or 0.1}``. The labels of one that weighs 0 are not
        read.
    head : str, optional
        Name of the output to use; by default the first attribute.
    similarity, reduction, target : str
        See `similarity_logits`, `kl_contrastive_loss`, `target_distribution`.
    intra_weight : float
        Of `audio_contrastive_loss`, for ``similarity: both``.
    cross_entropy_weight : float
        Of the cross-entropy of class scores, for a joint loss; see `GEmoCLAP.add_classifiers`.

    Examples
    --------
    >>> objective = SoftLabelObjective({"emotion": 0.9, "gender": 0.1})
    >>> audio, text = torch.eye(3), torch.eye(3)
    >>> outputs = {"emotion": ContrastiveOutput(audio, text, torch.ones(()), torch.ones(()))}
    >>> labels = {"emotion": torch.tensor([0, 1, 2]), "gender": torch.tensor([0, 1, 0])}
    >>> objective(outputs, labels).shape
    torch.Size([])
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        head: str | None = None,
        similarity: str = "cross",
        reduction: str = "batchmean",
        target: str = "softmax",
        intra_weight: float = 0.5,
        cross_entropy_weight: float = 0.0,
    ) -> None:
        options = similarity, reduction, target, intra_weight, cross_entropy_weight
        super().__init__(weights, *options)
        self.heads = (next(iter(self.weights)) if head is None else head,)

    def forward(
        self, outputs: Mapping[str, ContrastiveOutput], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Loss of a batch, a scalar: outputs per head, LongTensor ``[N]`` per attribute."""
        weights = {attribute: self.weights[attribute] for attribute in self.attributes}
        matrix = soft_label_matrix(labels, weights)
        return self._loss(outputs, self.heads[0], matrix, labels)


class EmoCLAPObjective(SoftLabelObjective):
    """Emo-CLAP: one loss against the emotion label matrix ``M_e``.

    The baseline of the paper: `SoftLabelObjective` with ``{emotion: 1.0}``.

    Parameters
    ----------
    attribute : str
        The attribute whose labels make the matrix.
    similarity, reduction, target : str
        See `similarity_logits`, `kl_contrastive_loss`, `target_distribution`.
    intra_weight : float
        Of `audio_contrastive_loss`, for ``similarity: both``.
    cross_entropy_weight : float
        Of the cross-entropy of class scores, for a joint loss; see `GEmoCLAP.add_classifiers`.

    Examples
    --------
    >>> EmoCLAPObjective().weights
    {'emotion': 1.0}
    """

    def __init__(
        self,
        attribute: str = "emotion",
        similarity: str = "cross",
        reduction: str = "batchmean",
        target: str = "softmax",
        intra_weight: float = 0.5,
        cross_entropy_weight: float = 0.0,
    ) -> None:
        options = similarity, reduction, target, intra_weight, cross_entropy_weight
        super().__init__({attribute: 1.0}, None, *options)


class MultiTaskObjective(_LabelObjective):
    """ML-GEmo-CLAP: a weighted sum of one loss per attribute.

    ``L = alpha_e L_emotion + (1 - alpha_e) L_gender``. Each attribute has its own
    projection head and its own prompts; the encoders run once for all.

    Parameters
    ----------
    weights : Mapping[str, float]
        Weight of each attribute's loss; they sum to 1. One that weighs 0 needs neither labels nor
        a head.
    similarity, reduction, target : str
        See `similarity_logits`, `kl_contrastive_loss`, `target_distribution`.
    intra_weight : float
        Of `audio_contrastive_loss`, for ``similarity: both``.
    cross_entropy_weight : float
        Of the cross-entropy of class scores, for a joint loss; see `GEmoCLAP.add_classifiers`.

    Examples
    --------
    >>> objective = MultiTaskObjective({"emotion": 0.8, "gender": 0.2})
    >>> objective.heads
    ('emotion', 'gender')
    """

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the outputs the objective reads: one per attribute."""
        return self.attributes

    def forward(
        self, outputs: Mapping[str, ContrastiveOutput], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Loss of a batch, a scalar: outputs per head, LongTensor ``[N]`` per attribute."""
        return sum(
            self.weights[attribute]
            * self._loss(outputs, attribute, label_matrix(labels_of(labels, attribute)), labels)
            for attribute in self.attributes
        )
