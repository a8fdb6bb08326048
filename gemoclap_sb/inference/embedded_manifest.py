"""A manifest and the folder of its embeddings, read side by side: part by part, joined by ID.

Both have the same cut, so that neither is ever in memory as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemoclap_sb.data import parquet
from gemoclap_sb.data.csv_rows import MissingColumnError
from gemoclap_sb.data.parts import Part, PartedManifest, cut_manifest
from gemoclap_sb.inference.shards import DamagedPartError, EmbeddingJob, ShardError, description_of

_ROWS = 2**14
# An embedding has length 1 in float32, or, rounded, in float16.
_TOLERANCE = 1e-2
_AGAIN = "Delete it, and give `gemoclap embed` again."


class Block(NamedTuple):
    """Rows of a manifest that follow each other, in part: IDs, wavs, speakers, embeddings [N, D].

    ``vectors`` is None for those whose recordings could not be embedded.
    """

    ids: Sequence[str]
    wavs: Sequence[str]
    speakers: Sequence[str]
    vectors: np.ndarray | None


@dataclass(frozen=True)
class EmbeddedManifest:
    """A manifest with a column of speakers, and its embeddings; plain data, small.

    Attributes
    ----------
    job : EmbeddingJob
        Which has made the embeddings; its manifest's further column is that of the speakers.
    size : int
        Numbers of an embedding.
    embedded : int
        How many of the manifest's utterances have one.
    """

    job: EmbeddingJob
    size: int
    embedded: int

    @property
    def manifest(self) -> PartedManifest:
        """The rows, in parts."""
        return self.job.manifest

    def read(self, part: Part) -> Iterator[Block]:
        """Read a part: embedded rows in their order, then those without an embedding.

        ShardError if its file is damaged or embeddings have another length than 1, ManifestError
        if the manifest has changed.
        """
        cells = self.manifest.cells(part)
        places = {name: place for place, (name, *_) in enumerate(cells)}
        last = -1
        for names, vectors in self._vectors(part):
            block = [places.pop(name, -1) for name in names]
            if any(place <= before for before, place in zip([last, *block], block, strict=False)):
                raise self._damaged(part, "its IDs are not those of the manifest's rows")
            last = block[-1]
            yield Block(*zip(*(cells[place] for place in block), strict=True), vectors)
        if places:
            yield Block(*zip(*(cells[place] for place in places.values()), strict=True), None)

    def _vectors(self, part: Part) -> Iterator[tuple[list[str], np.ndarray]]:
        file = self.job.file(part)
        try:
            _, blocks = parquet.read(file, _ROWS)
            for names, vectors in blocks:
                vectors = np.asarray(vectors, np.float32)
                if vectors.shape[1] != self.size:
                    raise ValueError(f"{vectors.shape[1]} numbers an embedding, not {self.size}")
                with np.errstate(over="ignore", invalid="ignore"):
                    lengths = np.linalg.norm(vectors, axis=1)
                if not np.isfinite(lengths).all():
                    raise ValueError("embeddings that are not finite")
                if (off := np.abs(lengths - 1)).max() > _TOLERANCE:
                    raise ShardError(
                        f"{file}: expected embeddings of length 1, found {lengths[off.argmax()]:g}."
                        " A classifier with a linear layer has no such embeddings; embed with "
                        "another model."
                    )
                yield names, vectors
        except ShardError:
            raise
        except parquet.DAMAGED as error:
            raise self._damaged(part, " ".join(str(error).split())) from error

    def _damaged(self, part: Part, reason: str) -> DamagedPartError:
        return DamagedPartError(
            f"{self.job.file(part)} is damaged ({reason.rstrip('.')}). {_AGAIN}"
        )


def open_embedded(
    manifest: str | os.PathLike, folder: str | os.PathLike, speakers: str = "spk_id"
) -> EmbeddedManifest:
    """Open a manifest with its embeddings; no part is read yet.

    Parameters
    ----------
    manifest : str or os.PathLike
        The CSV file that ``gemoclap embed`` was given.
    folder : str or os.PathLike
        Where it wrote the embeddings.
    speakers : str
        The column of the speakers.

    Raises
    ------
    ManifestError
        If the manifest cannot be used as it is: without the column, with empty cells in it.
    ShardError
        If the folder is none of embeddings, of another manifest's, unfinished or damaged.
    """
    told = description_of(folder)
    try:
        parted = cut_manifest(manifest, None, told["rows_per_part"], [speakers], audio=False)
    except MissingColumnError as error:
        hint = " Name that of the speakers with --speaker-column."
        raise MissingColumnError(
            f"{error}{hint if speakers in error.missing else ''}", error.missing
        ) from error
    if parted.digest != told["manifest"]:
        raise ShardError(
            f"{folder}: expected embeddings of {manifest}, found those of another manifest, or of "
            "this one before its IDs, wavs or rows were changed. Embed it with `gemoclap embed`."
        )
    job = EmbeddingJob(parted, str(Path(folder).absolute()), told["model"], told["attribute"])
    try:
        found = {part.number: job.found(part) for part in parted.parts}
    except DamagedPartError as error:
        raise DamagedPartError(f"{error} {_AGAIN}") from error
    if missing := [part for part in parted.parts if found[part.number] is None]:
        raise ShardError(
            f"{folder}: {len(missing)} of {len(parted.parts)} parts are missing, as "
            f"{job.file(missing[0]).name}. Finish them: `gemoclap embed {manifest} --output "
            f"{folder} --rows-per-part {parted.rows_per_part}`, with the model's --model."
        )
    sizes = {result.size for result in found.values()}
    if len(sizes) > 1:
        raise ShardError(f"{folder}: expected embeddings of one size, found {sorted(sizes)}.")
    return EmbeddedManifest(job, sizes.pop(), sum(result.rows for result in found.values()))
