"""Answers of a classifier about files."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference.bulk import FileEmbedding
from gemoclap_sb.models.towers import class_log_posteriors


@dataclass(frozen=True)
class Classification:
    """What became of one file.

    Attributes
    ----------
    path : str
        As the caller gave it.
    label : str or None
        The most probable class; None where there is an error.
    score : float or None
        Its probability, in [0, 1].
    probabilities : dict
        Probability by label, in the labels' order.
    error : str or None
        Why the file was not classified.
    """

    path: str
    label: str | None = None
    score: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def of(
        cls, row: FileEmbedding, names: list[str], classes: Tensor, scale: Tensor
    ) -> Classification:
        """Classify an embedded file: C names, embeddings ``[C, D]``, the temperature."""
        if row.error is not None:
            return cls(row.path, error=row.error)
        posteriors = class_log_posteriors(row.embedding, classes, scale).exp().tolist()
        probabilities = dict(zip(names, posteriors, strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        return cls(row.path, best, probabilities[best], probabilities)

    def ranked(self, top_k: int | None = None) -> list[dict[str, float | str]]:
        """List ``{"score", "label"}``, the most probable first: as many as asked for, or all."""
        scores = [{"score": score, "label": of} for of, score in self.probabilities.items()]
        return sorted(scores, key=lambda row: -row["score"])[:top_k]


@dataclass(frozen=True)
class Match:
    """A recording, as the caller gave it, and the cosine of it and a description."""

    path: str
    similarity: float


def embedding_of(row: FileEmbedding) -> Tensor:
    """Embedding ``[D]`` of a file; AudioError if it has none."""
    if row.error is not None:
        raise AudioError(row.error)
    return row.embedding
