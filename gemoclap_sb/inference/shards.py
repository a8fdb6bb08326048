"""A part of a manifest to a Parquet file: the unit of bulk work, whoever calls it.

`embed_shard` can be called again at any time and by anybody: a part that is there is not made
again, one that is not is written whole or not at all. So a run that was killed is given again, and
processes and machines that share a file system share the work without speaking to each other.

A folder of embeddings holds ``part-00000-of-00012.parquet`` and so on, and in ``__about__``,
which pandas, DuckDB and `datasets` do not look into, what it is of (``embeddings.json``) and for
each part with recordings that could not be embedded a list of them (``errors/part-....csv``).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechbrain.utils.logger import get_logger

from gemoclap_sb.data import parquet
from gemoclap_sb.data.parts import Part, PartedManifest
from gemoclap_sb.files import atomic_path, harmless_cell, harmless_path, read_json, write_json
from gemoclap_sb.inference.failures import in_one_line

if TYPE_CHECKING:
    import numpy as np

    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
    from gemoclap_sb.inference.speaker_encoder import SpeakerEncoder

logger = get_logger(__name__)

ABOUT = "__about__"
_DESCRIPTION, _ERRORS = "embeddings.json", "errors"
_COLUMNS = ("ID", "wav", "error")
_ATTRIBUTE, _ROWS, _SIZE, _FAILED = "attribute", "rows", "size", "errors"
_ATTEMPTS = 5
# Lists in Arrow are told by 32 bits.
_MOST_NUMBERS = 2**31 - 1
_DAMAGED = (OSError, ValueError, KeyError, TypeError)


class ShardError(ValueError):
    """A folder of embeddings that holds something else; the message says what to do."""


class DamagedPartError(ShardError):
    """A part's file cannot be read."""


@dataclass(frozen=True)
class Failure:
    """An utterance without an embedding, and why."""

    ID: str
    wav: str
    error: str


@dataclass(frozen=True)
class ShardResult:
    """What became of a part.

    Attributes
    ----------
    part : int
        Its number.
    rows : int
        Embeddings in its file.
    size : int
        Numbers in each.
    failures : tuple of Failure
        Utterances that are not in it, as many as the part has rows besides.
    """

    part: int
    rows: int
    size: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class EmbeddingJob:
    """All that decides what a folder of embeddings holds; plain data, small, to send to workers.

    Recordings are told by the manifest's IDs and paths: one that has changed in its place is not
    noticed. How many are in a batch changes rounding only, and is not part of what a folder is of.

    Parameters
    ----------
    manifest : PartedManifest
        The recordings, in parts.
    folder : str
        Where the Parquet files go; made if it is missing.
    model : str
        `gemoclap_sb.models.digest.model_digest` of the model.
    attribute : str
        Its head; empty for a speaker encoder.
    batch_size : int or "auto"
        As `gemoclap_sb.inference.bulk.BulkOptions` has it.
    """

    manifest: PartedManifest
    folder: str
    model: str
    attribute: str
    batch_size: int | str = "auto"

    def name(self, part: Part) -> str:
        """Of a part's file, without its ending."""
        return f"part-{part.number:05d}-of-{len(self.manifest.parts):05d}"

    def file(self, part: Part) -> Path:
        """Where a part's embeddings are, or will be."""
        return Path(self.folder, f"{self.name(part)}.parquet")

    @property
    def errors(self) -> Path:
        """The folder of the lists of failures."""
        return Path(self.folder, ABOUT, _ERRORS)

    def open_folder(self) -> None:
        """Make the folder if it is missing, and say in it what it is of.

        ShardError if it holds anything but this job's parts.
        """
        folder = Path(self.folder)
        description = folder / ABOUT / _DESCRIPTION
        if description.exists():
            self.check_folder()
        ours = re.compile(rf"part-\d{{5,}}-of-{len(self.manifest.parts):05d}\.parquet")
        for name in sorted(os.listdir(folder)) if folder.exists() else ():
            if not (name.startswith(".") or name == ABOUT or ours.fullmatch(name)):
                raise ShardError(
                    f"{folder}: expected a new folder, or embeddings of this manifest in "
                    f"{len(self.manifest.parts)} parts, found {name}. Name another folder."
                )
        if not description.exists():
            write_json(description, self._description())

    def check_folder(self) -> None:
        """ShardError if the folder is of another model, manifest or cut."""
        description = Path(self.folder, ABOUT, _DESCRIPTION)
        try:
            found = dict(read_json(description))
        except _DAMAGED as error:
            raise ShardError(
                f"{description} cannot be read ({error}). Name another folder, or remove this file."
            ) from error
        for key, expected in self._description().items():
            if found.get(key) != expected:
                raise ShardError(
                    f"{self.folder}: expected embeddings of {_said(key, expected)}, found those of "
                    f"{_said(key, found.get(key))}. Name another folder, or remove this one."
                )

    def finished(self, part: Part) -> ShardResult | None:
        """Tell what became of a part that is there; None if it is still to be made.

        ShardError if its file is of another model or of other rows.
        """
        try:
            return self.found(part)
        except DamagedPartError as error:
            logger.warning("%s It is made again.", error)
            return None

    def found(self, part: Part) -> ShardResult | None:
        """Tell what became of a part as `finished` does; DamagedPartError if it is damaged."""
        import pyarrow.parquet as pq

        file = self.file(part)
        if not file.exists():
            return None
        try:
            with open(file, "rb") as opened:
                found = pq.read_metadata(opened)
            held = parquet.metadata_of(found.schema.to_arrow_schema())
        except _DAMAGED as error:
            raise DamagedPartError(f"{file} is damaged ({in_one_line(error)}).") from error
        for key, expected in self._of_part(part).items():
            if held.get(key) != expected:
                raise ShardError(
                    f"{file}: expected embeddings of {_said(key, expected)}, found those of "
                    f"{_said(key, held.get(key))}. Name another folder, or remove this file."
                )
        try:
            failures = tuple(Failure(*cells) for cells in json.loads(held[_FAILED]))
            result = ShardResult(part.number, found.num_rows, int(held[_SIZE]), failures)
            if result.size < 1 or result.rows + len(failures) != part.rows:
                raise ValueError(f"{result.rows} embeddings of {part.rows} rows")
        except _DAMAGED as error:
            raise DamagedPartError(f"{file} is damaged ({in_one_line(error)}).") from error
        return result

    def write_failures(self, part: Part, failures: Sequence[Failure]) -> None:
        """List the failures of a part, if the list is not there; remove that of another attempt."""
        file = self.errors / f"{self.name(part)}.csv"
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for one in failures:
            writer.writerow([harmless_cell(one.ID), harmless_path(one.wav), one.error])
        told = buffer.getvalue().encode("utf-8", "backslashreplace")
        if not failures:
            file.unlink(missing_ok=True)
        elif not file.exists() or file.read_bytes() != told:
            with atomic_path(file) as temporary:
                temporary.write_bytes(told)

    def write(
        self, part: Part, names: Sequence[str], vectors: np.ndarray, failures: Sequence[Failure]
    ) -> None:
        """Write a part: embeddings ``[N, D]`` of N names, and the failures."""
        import pyarrow.parquet as pq

        told = json.dumps([[one.ID, one.wav, one.error] for one in failures])
        held = {**self._of_part(part), _SIZE: str(vectors.shape[1]), _FAILED: told}
        # Before the part: one that is there has its list too.
        self.write_failures(part, failures)
        table = parquet.table(names, vectors, parquet.schema(held))
        file = self.file(part)
        for attempt in range(_ATTEMPTS):
            # Not beside the parts: the * of DuckDB takes hidden files too.
            unfinished = Path(self.folder, ABOUT, f"{secrets.token_hex(8)}-{file.name}")
            try:
                pq.write_table(table, unfinished, **parquet.OPTIONS)
                # Somebody else may have opened the folder at the same time.
                self.check_folder()
                os.replace(unfinished, file)
                break
            except FileNotFoundError:
                # Another process has written the same part at the same moment, and tidied up.
                if file.exists():
                    break
                if attempt == _ATTEMPTS - 1:
                    raise
            finally:
                unfinished.unlink(missing_ok=True)
        for left in Path(self.folder, ABOUT).glob(f"*-{file.name}"):
            # Of a process that was killed.
            left.unlink(missing_ok=True)

    def _of_part(self, part: Part) -> dict[str, str]:
        return {parquet.MODEL: self.model, _ATTRIBUTE: self.attribute, _ROWS: part.digest}

    def _description(self) -> dict[str, str | int]:
        return {
            "model": self.model,
            "attribute": self.attribute,
            "rows_per_part": self.manifest.rows_per_part,
            "parts": len(self.manifest.parts),
            "manifest": self.manifest.digest,
        }


def description_of(folder: str | os.PathLike) -> dict[str, str | int]:
    """Tell what a folder of embeddings is of; ShardError if it is none."""
    file = Path(folder, ABOUT, _DESCRIPTION)
    kinds = {"model": str, "attribute": str, "rows_per_part": int, "parts": int, "manifest": str}
    try:
        found = dict(read_json(file))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ShardError(
            f"{folder}: expected the folder of a manifest's embeddings, as `gemoclap embed` writes "
            f"it, found no {ABOUT}/{_DESCRIPTION} there."
        ) from error
    except _DAMAGED as error:
        raise ShardError(
            f"{file} cannot be read ({error}). Give `gemoclap embed` again."
        ) from error
    for key, kind in kinds.items():
        # A speaker encoder has no attribute.
        is_empty = found.get(key) in ("", 0) and key != _ATTRIBUTE
        if type(found.get(key)) is not kind or is_empty:
            raise ShardError(f"{file}: expected {key}, found {found.get(key)!r}.")
    return found


def embed_shard(
    classifier: GEmoCLAPClassifier | SpeakerEncoder,
    job: EmbeddingJob,
    part: Part,
    on_file: Callable[[], object] | None = None,
) -> ShardResult:
    r"""Embed a part of a manifest into its Parquet file, if that is not there yet.

    Parameters
    ----------
    classifier : GEmoCLAPClassifier or SpeakerEncoder
        The job's model.
    job : EmbeddingJob
        Whose `open_folder` was called, by whomever.
    part : Part
        One of its manifest's.
    on_file : callable, optional
        Called after each recording that is embedded, or fails.

    Raises
    ------
    ShardError
        If the folder is of something else.
    ManifestError
        If the manifest has changed.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy, soundfile
    >>> from gemoclap_sb.data.parts import cut_manifest
    >>> from gemoclap_sb.inference import GEmoCLAPClassifier
    >>> from gemoclap_sb.inference.loading import DEFAULT_FOLDER
    >>> from gemoclap_sb.models.digest import model_digest
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", numpy.sin(numpy.arange(16000) / 20), 16000)
    >>> _ = (folder / "all.csv").write_text("ID,wav\na,a.wav\nb,none.wav\n")
    >>> classifier = GEmoCLAPClassifier.from_pretrained(DEFAULT_FOLDER, device="cpu")
    >>> manifest, model = cut_manifest(folder / "all.csv"), model_digest(DEFAULT_FOLDER)
    >>> job = EmbeddingJob(manifest, str(folder / "out"), model, classifier.attribute)
    >>> job.open_folder()
    >>> result = embed_shard(classifier, job, manifest.parts[0])
    >>> result.rows, [failure.ID for failure in result.failures]
    (1, ['b'])
    >>> [path.name for path in (folder / "out").glob("*.parquet")]
    ['part-00000-of-00001.parquet']
    """
    job.check_folder()
    result = job.finished(part)
    if result is None:
        result = _made(classifier, job, part, on_file)
    else:
        job.write_failures(part, result.failures)
    return result


def _made(
    classifier: GEmoCLAPClassifier | SpeakerEncoder,
    job: EmbeddingJob,
    part: Part,
    on_file: Callable[[], object] | None,
) -> ShardResult:
    import numpy as np

    rows, size = job.manifest.read(part), classifier.embedding_size
    if len(rows) * size > _MOST_NUMBERS:
        raise ShardError(
            f"{job.name(part)}: {len(rows)} embeddings of {size} numbers are more than a file "
            f"takes ({_MOST_NUMBERS:,} numbers). Lower --rows-per-part."
        )
    vectors = np.empty((len(rows), size), np.float32)
    names: list[str] = []
    failures: list[Failure] = []
    paths = [row.path for row in rows]
    # Nobody waits for the first result.
    window = dict.fromkeys(("window", "first_window"), len(paths))
    options = {"batch_size": job.batch_size, "progress": False, **window}
    found = classifier.encode_files(paths, **options)
    for row, one in zip(rows, found, strict=True):
        if one.embedding is None:
            failures.append(Failure(row.ID, row.wav, one.error))
        else:
            vectors[len(names)] = one.embedding.numpy()
            names.append(row.ID)
        if on_file is not None:
            on_file()
    vectors = vectors[: len(names)]
    job.write(part, names, vectors, failures)
    return ShardResult(part.number, *vectors.shape, tuple(failures))


def _said(key: str, value: object) -> str:
    """Name what embeddings are of; of a digest, its beginning."""
    value = value[:12] if isinstance(value, str) else value
    return f"{key.replace('_', ' ')} {value}"
