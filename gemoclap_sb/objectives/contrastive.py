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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gemoclap_sb.objectives.label_matrices import (
    TARGETS,
    check_choice,
    label_matrix,
    labels_of,
    soft_label_matrix,
    target_distribution,
)

SIMILARITIES = ("cross", "intra", "both")
REDUCTIONS = ("batchmean", "sum")


class ContrastiveOutput(NamedTuple):
    """What one projection head gives for a batch of N (waveform, text) pairs.

    Attributes
    ----------
    audio, text : Tensor
        ``[N, D]``, L2-normalised embeddings ``Ea`` and ``Et``.
    audio_scale, text_scale : Tensor
        Scalars, the paper's temperatures ``eps_a`` and ``eps_t``.
    logits : Tensor, optional
        ``[N, C]``, class scores of the pooled audio, from a model with classifiers.
    """

    audio: Tensor
    text: Tensor
    audio_scale: Tensor
    text_scale: Tensor
    logits: Tensor | None = None


def similarity_logits(
    output: ContrastiveOutput, similarity: str = "cross"
) -> tuple[Tensor, Tensor]:
    """Scaled similarity matrices ``C_a`` and ``C_t`` of a batch, each ``[N, N]``.

    ``cross`` and ``both``: ``C_a = eps_a Ea Et^T``, ``C_t = eps_t Et Ea^T``. ``intra``:
    ``C_a = eps_a Ea Ea^T``, ``C_t = eps_t Et Et^T``, as the paper prints it. That form never
    ties the two modalities together, whereas classification compares audio with text; it
    is here for the record. ValueError if ``similarity`` is none of these. What ``both`` adds
    is `audio_contrastive_loss`.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> output = ContrastiveOutput(eye, eye.flip(0), torch.tensor(2.0), torch.tensor(3.0))
    >>> similarity_logits(output)[0]
    tensor([[0., 2.],
            [2., 0.]])
    """
    check_choice("similarity", similarity, SIMILARITIES)
    audio, text = output.audio, output.text
    of_audio, of_text = (audio, text) if similarity == "intra" else (text, audio)
    # Under autocast the products would be rounded to three digits.
    with torch.autocast(audio.device.type, enabled=False):
        return output.audio_scale * audio @ of_audio.T, output.text_scale * text @ of_text.T


def kl_contrastive_loss(
    audio_logits: Tensor,
    text_logits: Tensor,
    target_matrix: Tensor,
    reduction: str = "batchmean",
    target: str = "softmax",
) -> Tensor:
    """Kullback-Leibler contrastive loss (equation 5 of the paper).

    ``L = 1/2 (KL(log_softmax(C_a), q) + KL(log_softmax(C_t), q))`` with ``q = softmax(M)``
    by rows, and KL as ``torch.nn.functional.kl_div(log_p, q)`` has it:
    ``sum q (log q - log p)``. Computed in float32 even under autocast: the rows of a
    log-softmax lose their small differences in half precision.

    Parameters
    ----------
    audio_logits, text_logits : Tensor
        ``C_a`` and ``C_t``, ``[N, N]``.
    target_matrix : Tensor
        Label matrix ``M``, ``[N, N]``, values in [0, 1].
    reduction : str
        ``batchmean`` divides the sum by N; ``sum`` is the equation to the letter.
    target : str
        ``softmax`` or ``normalized``; see `target_distribution`.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        If the shapes differ, or an option is unknown.

    Examples
    --------
    >>> matrix = label_matrix(torch.tensor([0, 1, 0]))
    >>> loss = kl_contrastive_loss(matrix, matrix, matrix)
    >>> abs(loss.item()) < 1e-6
    True
    """
    if not audio_logits.shape == text_logits.shape == target_matrix.shape:
        raise ValueError(
            "audio_logits, text_logits and target_matrix must share one shape [N, N]; "
            f"found {list(audio_logits.shape)}, {list(text_logits.shape)}, "
            f"{list(target_matrix.shape)}."
        )
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(audio_logits.device.type, enabled=False):
        wide = torch.promote_types(audio_logits.dtype, torch.float32)
        q = target_distribution(target_matrix.to(wide), target)
        divergence = [
            F.kl_div(F.log_softmax(logits.to(wide), dim=-1), q, reduction=reduction)
            for logits in (audio_logits, text_logits)
        ]
        return 0.5 * (divergence[0] + divergence[1])


def audio_contrastive_loss(
    audio: Tensor,
    scale: Tensor,
    target_matrix: Tensor,
    reduction: str = "batchmean",
    target: str = "softmax",
) -> Tensor:
    """Kullback-Leibler loss between the similarities of audio with audio and a label matrix.

    As `kl_contrastive_loss` of ``eps_a Ea Ea^T`` with the self-pairs left out: an utterance is
    no positive of its own. With ``target: normalized`` and one attribute, this is the supervised
    contrastive loss (Khosla et al., arXiv 2004.11362, equation 2) up to a constant. An
    utterance that shares no label with another has no positive there, and is left out too.

    Parameters
    ----------
    audio : Tensor
        ``[N, D]``, L2-normalised.
    scale : Tensor
        Scalar, ``eps_a``.
    target_matrix, reduction, target
        As for `kl_contrastive_loss`.

    Returns
    -------
    Tensor
        Scalar, at least 0; 0 where no two utterances share a label.

    Examples
    --------
    >>> matrix = label_matrix(torch.tensor([0, 0, 1]))
    >>> audio = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = audio_contrastive_loss(audio, torch.tensor(30.0), matrix, target="normalized")
    >>> abs(loss.item()) < 1e-6
    True
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("target", target, TARGETS)
    count = len(audio)
    others = ~torch.eye(count, dtype=torch.bool, device=audio.device)
    with torch.autocast(audio.device.type, enabled=False):
        matrix = target_matrix.to(torch.promote_types(audio.dtype, torch.float32))
        matrix = matrix[others].view(count, count - 1)
        rows = (matrix.sum(dim=1) > 0).nonzero().squeeze(1) if target == "normalized" else ...
        cosines = (audio @ audio.T)[others].view(count, count - 1)[rows].to(matrix.dtype)
        q = target_distribution(matrix[rows], target)
        loss = F.kl_div(F.log_softmax(scale * cosines, dim=-1), q, reduction="sum")
        return loss / max(len(q), 1) if reduction == "batchmean" else loss


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
        for attribute, weight in weights.items():
            if not (math.isfinite(weight) and 0.0 <= weight <= 1.0):
                raise ValueError(
                    f"weights[{attribute!r}]: expected a number in [0, 1], found {weight!r}."
                )
        if not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6):
            raise ValueError(
                "weights: expected one {attribute: weight} or more with a sum of 1, found "
                f"{sum(weights.values()):g} in {dict(weights)}."
            )
        # Here too, and not with the first batch only: the encoders take long to load.
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("target", target, TARGETS)
        self.weights = {attribute: float(weight) for attribute, weight in weights.items()}
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
        """Attributes whose labels the objective reads."""
        return tuple(self.weights)

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
        ``{emotion: 0.8 or 0.9, gender: 0.2 or 0.1}``.
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
        matrix = soft_label_matrix(labels, self.weights)
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
        Weight of each attribute's loss; they sum to 1.
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
            weight
            * self._loss(outputs, attribute, label_matrix(labels_of(labels, attribute)), labels)
            for attribute, weight in self.weights.items()
        )
