"""Many recordings and long ones: what `GEmoCLAPClassifier` does beyond one short file.

Files are read and computed as `gemoclap_sb.inference.bulk` has it; here rows of embeddings
become rows of answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference.bulk import WINDOW, FileEmbedding, embed_stream
from gemoclap_sb.inference.timeline import Timeline
from gemoclap_sb.inference.timeline import timeline as classify_windows
from gemoclap_sb.models.towers import class_log_posteriors

logger = get_logger(__name__)


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


@dataclass(frozen=True)
class Match:
    """A recording and how close it is to a description.

    Attributes
    ----------
    path : str
        As the caller gave it.
    similarity : float
        Cosine of the recording's and the description's embeddings.
    """

    path: str
    similarity: float


class ManyFiles:
    """The part of `GEmoCLAPClassifier` that takes lists of files, and files of any length."""

    def classify_files(
        self,
        paths: Iterable[str | os.PathLike],
        labels: Sequence[str] | Mapping[str, str] | None = None,
        templates: Sequence[str] | None = None,
        *,
        batch_size: int | str = "auto",
        window: int = WINDOW,
        workers: int | None = None,
        progress: bool = True,
    ) -> Iterator[Classification]:
        """Classify any number of files, in order and as they come.

        Parameters
        ----------
        paths : Iterable
            Audio files; a generator is read as far as needed.
        labels, templates
            See `classify_batch`.
        batch_size, window, workers, progress
            See `gemoclap_sb.inference.bulk.embed_stream`. Files are sorted by length within
            windows of 512.

        Returns
        -------
        Iterator of Classification
            One a path. A file that cannot be read has its error, and the rest go on.

        Raises
        ------
        ValueError
            At the call, if an argument cannot serve.
        """
        names, classes = self._classes(labels, templates)
        rows = self.encode_files(
            paths, batch_size=batch_size, window=window, workers=workers, progress=progress
        )
        classes, scale = classes.cpu(), self.mods.classifier.scale.cpu()
        return (_classification(row, names, classes, scale) for row in rows)

    def encode_files(
        self,
        paths: Iterable[str | os.PathLike],
        *,
        batch_size: int | str = "auto",
        window: int = WINDOW,
        workers: int | None = None,
        progress: bool = True,
    ) -> Iterator[FileEmbedding]:
        """Embed any number of files, in order and as they come.

        Parameters
        ----------
        paths, batch_size, window, workers, progress
            See `classify_files`.

        Returns
        -------
        Iterator of FileEmbedding
            One a path, with its embedding ``[D]`` or its error.
        """
        return embed_stream(
            self.mods.embedding_model,
            paths,
            self.device,
            batch_size=batch_size,
            window=window,
            workers=workers,
            progress=progress,
        )

    def embed_files(self, paths: Iterable[str | os.PathLike], **options: Any) -> Tensor:
        """Embed files that can all be read.

        Parameters
        ----------
        paths : Iterable
            N audio files.
        **options
            For `encode_files`, which goes on after a file that cannot be read.

        Returns
        -------
        Tensor
            ``[N, D]``, L2-normalised, on the CPU.

        Raises
        ------
        AudioError
            Of the first file that cannot be read.
        """
        vectors = []
        for row in self.encode_files(paths, **options):
            if row.error is not None:
                raise AudioError(row.error)
            vectors.append(row.embedding)
        if not vectors:
            return torch.empty(0, self.mods.embedding_model.output_size)
        return torch.stack(vectors)

    def retrieve(
        self,
        text: str,
        paths: Iterable[str | os.PathLike],
        top_k: int = 10,
        **options: Any,
    ) -> list[Match]:
        """Find the recordings closest to a description.

        Parameters
        ----------
        text : str
            A whole sentence, best in the words of the model's prompts.
        paths : Iterable
            Audio files. One that cannot be read is left out, with a warning.
        top_k : int
            How many to return at most.
        **options
            For `encode_files`.

        Returns
        -------
        list of Match
            The closest first.

        Raises
        ------
        ValueError
            If ``top_k`` is not positive.
        """
        if top_k < 1:
            raise ValueError(f"top_k: expected 1 or more, found {top_k!r}.")
        query = self.encode_text([text])[0].cpu()
        matches = []
        for row in self.encode_files(paths, **options):
            if row.error is not None:
                logger.warning("Left out of the search: %s", row.error)
                continue
            matches.append(Match(row.path, float(row.embedding @ query)))
        # A stable sort: of equals, the first given comes first.
        return sorted(matches, key=lambda match: -match.similarity)[:top_k]

    def timeline(
        self,
        path: str | os.PathLike,
        window: float = 2.0,
        hop: float = 0.5,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        templates: Sequence[str] | None = None,
        *,
        progress: bool = True,
    ) -> Timeline:
        """Follow the classes along a recording of any length.

        Parameters
        ----------
        path, window, hop, labels, templates, progress
            See `gemoclap_sb.inference.timeline.timeline`.

        Returns
        -------
        Timeline
        """
        return classify_windows(self, path, window, hop, labels, templates, progress=progress)


def _classification(
    row: FileEmbedding, names: list[str], classes: Tensor, scale: Tensor
) -> Classification:
    if row.error is not None:
        return Classification(row.path, error=row.error)
    posteriors = class_log_posteriors(row.embedding, classes, scale).exp().tolist()
    probabilities = dict(zip(names, posteriors, strict=True))
    best = max(probabilities, key=probabilities.__getitem__)
    return Classification(row.path, best, probabilities[best], probabilities)
