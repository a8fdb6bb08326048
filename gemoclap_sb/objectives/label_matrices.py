"""Which pairs of a batch belong together: label matrices and the distributions they ask for.

Source: Pan et al., arXiv 2306.07848, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch.nn.functional as F
from torch import Tensor

TARGETS = ("softmax", "normalized")


def label_matrix(labels: Tensor) -> Tensor:
    """Say which pairs of a batch share a label (the paper's ``M_e``, ``M_g``).

    Parameters
    ----------
    labels : Tensor
        Integer class indices, ``[N]``; anything else is a ValueError.

    Returns
    -------
    Tensor
        float32 ``[N, N]``: 1 where labels i and j agree, else 0.

    Examples
    --------
    >>> import torch
    >>> label_matrix(torch.tensor([0, 1, 0]))
    tensor([[1., 0., 1.],
            [0., 1., 0.],
            [1., 0., 1.]])
    """
    if labels.dim() != 1:
        raise ValueError(f"labels: expected shape [N], found {list(labels.shape)}.")
    return (labels.unsqueeze(0) == labels.unsqueeze(1)).float()


def soft_label_matrix(labels: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mix the label matrices of several attributes, ``M = sum_k weight_k * M_k``: ``[N, N]``.

    With emotion and gender that is SL-GEmo-CLAP's ``alpha_e * M_e + (1 - alpha_e) * M_g``.
    KeyError if an attribute has no labels.

    Examples
    --------
    >>> import torch
    >>> labels = {"emotion": torch.tensor([0, 1]), "gender": torch.tensor([0, 0])}
    >>> soft_label_matrix(labels, {"emotion": 0.75, "gender": 0.25})
    tensor([[1.0000, 0.2500],
            [0.2500, 1.0000]])
    """
    return sum(
        weight * label_matrix(labels_of(labels, attribute)) for attribute, weight in weights.items()
    )


def target_distribution(matrix: Tensor, target: str = "softmax") -> Tensor:
    """Turn a label matrix ``[N, N]`` in [0, 1] into one probability distribution per row.

    ``softmax`` is the paper's; that of zeros and ones is flat, a match weighs only e times
    a mismatch. ``normalized`` divides each row by its sum, so that a mismatch weighs
    nothing. ValueError if ``target`` is neither, or a row to be normalised sums to 0.

    Examples
    --------
    >>> import torch
    >>> target_distribution(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "normalized")
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    check_choice("target", target, TARGETS)
    if target == "softmax":
        return F.softmax(matrix, dim=-1)
    mass = matrix.sum(dim=-1, keepdim=True)
    if not bool((mass > 0).all()):
        raise ValueError(
            "target 'normalized': a row of the label matrix sums to 0; "
            "each utterance must at least agree with itself."
        )
    return matrix / mass


def labels_of(labels: Mapping[str, Tensor], attribute: str) -> Tensor:
    """Labels ``[N]`` of an attribute; KeyError if there are none."""
    if attribute not in labels:
        raise KeyError(
            f"the objective needs labels for attribute {attribute!r}; found {sorted(labels)}."
        )
    return labels[attribute]


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse an option that is not one of those allowed, with a ValueError that names it."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, found {value!r}.")


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Return attributes' weights, in [0, 1] with a sum of 1, as floats; else ValueError."""
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
    return {attribute: float(weight) for attribute, weight in weights.items()}
