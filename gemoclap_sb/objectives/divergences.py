"""The divergences that contrastive objectives are made of, for one projection head.

Source: Pan et al., arXiv 2306.07848, section 2, equation 5; for the audio-audio term Khosla
et al., "Supervised Contrastive Learning", arXiv 2004.11362.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gemoclap_sb.objectives.label_matrices import TARGETS, check_choice, target_distribution

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
    >>> from gemoclap_sb.objectives.label_matrices import label_matrix
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
    >>> from gemoclap_sb.objectives.label_matrices import label_matrix
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
