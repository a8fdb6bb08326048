"""A folder of clusters, file by file: the unit of the work, whoever does it.

`ClusterJob.cluster` can be called again at any time and by anybody: a file that is there is not
made again, one that is not is written whole or not at all. So a run that was killed is given again,
and processes and machines that share a file system share the files without speaking to each other.
Who finds all of them writes ``clusters.json``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.speaker_clusters import (
    ABOUT,
    COLUMNS,
    LEFT_OUT,
    PATH,
    RECORD,
    clusters_file,
    clusters_schema,
    write_clusters_file,
)
from gemoclap_sb.files import harmless_cell, read_json, write_json, write_text
from gemoclap_sb.inference.embedded_manifest import EmbeddedManifest
from gemoclap_sb.inference.failures import in_one_line
from gemoclap_sb.inference.speaker_clustering import (
    ClusteringError,
    ClusteringOptions,
    cluster_speaker,
    in_random_order,
)
from gemoclap_sb.inference.speaker_shuffle import Speaker, read_speakers

logger = get_logger(__name__)

FILE_BYTES, FILE_ROWS = 64 * 2**20, 2**18
"""Of embeddings, in a file of the shuffle, which a process reads as a whole."""
_DESCRIPTION, _SHUFFLED, _ATTEMPTS = "clustering.json", "shuffled", "attempts"
_METADATA = b"gemoclap_sb.clusters"
_DAMAGED = (OSError, ValueError, KeyError, TypeError)


class LeftOut(NamedTuple):
    """A speaker without clusters, how many utterances with an embedding it has, and why."""

    speaker: str
    utterances: int
    reason: str


@dataclass(frozen=True)
class FileResult:
    """What became of a file's speakers.

    Attributes
    ----------
    number : int
        Of the file.
    utterances, speakers, clusters : int
        In it.
    left_out : tuple of LeftOut
        Speakers that are not, in the order of their names.
    """

    number: int
    utterances: int
    speakers: int
    clusters: int
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class ClusterJob:
    r"""All that decides what a folder of clusters holds; plain data, small, to send to workers.

    Parameters
    ----------
    embedded : EmbeddedManifest
        The utterances.
    folder : str
        Where the files go; made if it is missing.
    options : ClusteringOptions
        How.
    files : int
        How many; see `files_for`. A speaker's clusters are the same whatever it is.

    Examples
    --------
    >>> from gemoclap_sb.data.parts import cut_manifest
    >>> from gemoclap_sb.data.speaker_clusters import read_clusters
    >>> from gemoclap_sb.inference.embedded_manifest import open_embedded
    >>> from gemoclap_sb.inference.shards import EmbeddingJob
    >>> from gemoclap_sb.inference.speaker_shuffle import shuffle
    >>> folder = getfixture("tmp_path")
    >>> csv, out = folder / "all.csv", str(folder / "embeddings")
    >>> rows = [f"{name},{name}.wav,Ann" for name in "abcde"]
    >>> _ = csv.write_text("\n".join(["ID,wav,spk_id", *rows]))
    >>> manifest = cut_manifest(csv)
    >>> embedding = EmbeddingJob(manifest, out, model="a digest", attribute="emotion")
    >>> embedding.open_folder()
    >>> embedding.write(manifest.parts[0], "abcde", np.float32(np.eye(2)[[0, 1, 0, 0, 1]]), [])
    >>> options = ClusteringOptions(clusters=2, least_utterances=2)
    >>> job = ClusterJob(open_embedded(csv, out), str(folder / "clusters"), options, files=1)
    >>> job.open_folder()
    >>> rows = shuffle(job.embedded, job.shuffled((1, 1)), job.files, [0], lambda rows: None)
    >>> job.cluster(0, job.shuffled((1, 1)))
    FileResult(number=0, utterances=5, speakers=1, clusters=2, left_out=())
    >>> record = job.finish()
    >>> clusters = read_clusters(job.folder)
    >>> sorted((row["ID"], row["cluster"]) for row in map(clusters.row, range(5)))
    [('a', 0), ('b', 1), ('c', 0), ('d', 0), ('e', 1)]
    """

    embedded: EmbeddedManifest
    folder: str
    options: ClusteringOptions
    files: int

    def file(self, number: int) -> Path:
        """Where some of the speakers are, or will be."""
        return clusters_file(self.folder, number, self.files)

    def name(self, number: int) -> str:
        """Of a file, without its ending."""
        return self.file(number).stem

    @property
    def attempts(self) -> Path:
        """A folder for counting attempts."""
        return Path(self.folder, ABOUT, _ATTEMPTS)

    def shuffled(self, shard: tuple[int, int]) -> Path:
        """Name the folder of the shuffled rows that the K-th of N processes works on."""
        return Path(self.folder, ABOUT, _SHUFFLED, f"{shard[0]}-of-{shard[1]}")

    def open_folder(self) -> None:
        """Make the folder if it is missing, and say in it what it is of.

        ClusteringError if it holds anything but this job's files.
        """
        folder, description = Path(self.folder), Path(self.folder, ABOUT, _DESCRIPTION)
        if description.exists():
            self.check_folder()
        ours = re.compile(rf"speakers-\d{{5,}}-of-{self.files:05d}\.arrow")
        for name in sorted(os.listdir(folder)) if folder.exists() else ():
            last = name in (LEFT_OUT, RECORD) and description.exists()
            if not (name.startswith(".") or name == ABOUT or last or ours.fullmatch(name)):
                raise ClusteringError(
                    f"{folder}: expected a new folder, or clusters of the same in {self.files} "
                    f"files, found {name}. Name another folder."
                )
        if not description.exists():
            write_json(description, self._description())

    def check_folder(self) -> None:
        """ClusteringError if the folder is of other embeddings or options."""
        description = Path(self.folder, ABOUT, _DESCRIPTION)
        try:
            told = dict(read_json(description))
        except _DAMAGED as error:
            raise ClusteringError(
                f"{description} cannot be read ({in_one_line(error)}). Name another folder, or "
                "remove this one."
            ) from error
        for key, expected in self._description().items():
            if (found := told.get(key)) != expected:
                raise ClusteringError(
                    f"{self.folder}: expected clusters with {_said(key, expected)}, found "
                    f"those with {_said(key, found)}. Name another folder, or remove "
                    "this one."
                )

    def finished(self, number: int) -> FileResult | None:
        """Tell what became of a file that is there; None if it is still to be made."""
        import pyarrow as pa

        file = self.file(number)
        if not file.exists():
            return None
        try:
            with pa.OSFile(str(file)) as opened:
                told = json.loads(pa.ipc.open_file(opened).schema.metadata[_METADATA])
            if told.pop("of") != self._digest():
                raise ClusteringError("of other embeddings or options")
            left_out = tuple(LeftOut(*of) for of in told.pop("left_out"))
            return FileResult(**told, left_out=left_out)
        except _DAMAGED as error:
            logger.warning("%s is damaged and is made again (%s).", file, in_one_line(error))
            return None

    def cluster(
        self, number: int, shuffled: Path, on_rows: Callable[[int], object] | None = None
    ) -> FileResult:
        """Cluster a file's speakers, if that has not been done.

        ``on_rows`` is told how many rows of the manifest are done. ClusteringError if the folder
        is of something else, or the method does not take a speaker; OSError if the file cannot be
        written.
        """
        # Loads what is to be limited.
        import sklearn.cluster  # noqa: F401
        from threadpoolctl import threadpool_limits

        self.check_folder()
        if (result := self.finished(number)) is not None:
            return result
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        left_out, speakers, clusters = [], 0, 0
        with threadpool_limits(1):
            for speaker in read_speakers(shuffled, number):
                labels, reason = self._cluster(speaker)
                if labels is None:
                    left_out.append(LeftOut(speaker.name, len(speaker.ids), reason))
                else:
                    order = in_random_order(speaker.ids, self.options.seed)
                    order = order[np.argsort(labels[order], kind="stable")]
                    columns["ID"] += speaker.ids[order].tolist()
                    columns["wav"] += speaker.wavs[order].tolist()
                    columns["spk_id"] += [speaker.name] * len(order)
                    columns["cluster"] += labels[order].tolist()
                    speakers += 1
                    clusters += int(labels.max()) + 1
                if on_rows is not None:
                    on_rows(len(speaker.ids) + speaker.without)
        found = FileResult(number, len(columns["ID"]), speakers, clusters, tuple(left_out))
        self._write(found, columns)
        return found

    def _cluster(self, speaker: Speaker) -> tuple[np.ndarray | None, str]:
        if not len(speaker.ids):
            return None, f"none of {speaker.without} utterances has an embedding"
        return cluster_speaker(speaker.vectors, speaker.name, self.options)

    def _write(self, result: FileResult, columns: dict[str, list]) -> None:
        import pyarrow as pa

        told = json.dumps({"of": self._digest(), **asdict(result)})
        schema = clusters_schema().with_metadata({_METADATA: told.encode()})
        table = pa.table(columns, schema=schema)
        # Somebody else may have opened the folder at the same time.
        self.check_folder()
        write_clusters_file(self.file(result.number), table)

    def finish(self) -> dict[str, Any] | None:
        """Write ``left_out.csv`` and ``clusters.json`` if all files are there; give the latter.

        None if they are not. ClusteringError if all speakers are left out: the folder, in which
        there is nothing, may then be begun with other options.
        """
        results = []
        for number in range(self.files):
            if (result := self.finished(number)) is None:
                return None
            results.append(result)
        left_out = sorted(one for result in results for one in result.left_out)
        if not any(result.speakers for result in results):
            self._empty()
            raise ClusteringError(self._all_left_out(left_out))
        folder, description = Path(self.folder), self._description()
        record = {
            "files": self.files,
            "utterances": sum(result.utterances for result in results),
            "speakers": sum(result.speakers for result in results),
            "clusters": sum(result.clusters for result in results),
            "left_out": {
                "speakers": len(left_out),
                "utterances": sum(one.utterances for one in left_out),
            },
            "without_embedding": self.embedded.manifest.rows - self.embedded.embedded,
            "options": {key: description[key] for key in self._options()},
            "embeddings": {key: description[key] for key in self._embeddings()},
            PATH: self.embedded.manifest.path,
        }
        _write_changed(folder / LEFT_OUT, _csv(left_out))
        if not (folder / RECORD).exists() or _read(folder / RECORD) != record:
            write_json(folder / RECORD, record)
        for name in (_SHUFFLED, _ATTEMPTS):
            shutil.rmtree(folder / ABOUT / name, ignore_errors=True)
        for left in folder.glob(".tmp-*-speakers-*.arrow"):
            # Of a process that was killed.
            left.unlink(missing_ok=True)
        return record

    def left_out(self) -> list[LeftOut]:
        """List all speakers without clusters, of a folder that is finished."""
        results = [self.finished(number) for number in range(self.files)]
        return sorted(one for result in results if result for one in result.left_out)

    def _all_left_out(self, left_out: list[LeftOut]) -> str:
        [(reason, count), *others] = Counter(one.reason for one in left_out).most_common()
        rest = f"; {sum(count for _, count in others)}: others" if others else ""
        most = max(one.utterances for one in left_out)
        return (
            f"all {len(left_out)} speakers are left out ({count}: {reason}{rest}); the largest "
            f"has {most} utterances. Lower --least-utterances or --clusters, or look whether the "
            "column of the speakers is the right one."
        )

    def _empty(self) -> None:
        for number in range(self.files):
            self.file(number).unlink(missing_ok=True)
        shutil.rmtree(Path(self.folder, ABOUT), ignore_errors=True)

    def _options(self) -> dict[str, Any]:
        [column] = self.embedded.manifest.more
        return {**self.options.described(), "speaker_column": column}

    def _embeddings(self) -> dict[str, Any]:
        job = self.embedded.job
        return {
            "model": job.model,
            "attribute": job.attribute,
            "rows_per_part": job.manifest.rows_per_part,
            "parts": len(job.manifest.parts),
            "manifest": job.manifest.digest,
            "speakers": job.manifest.more_digest,
        }

    def _description(self) -> dict[str, Any]:
        return {**self._embeddings(), **self._options(), "files": self.files}

    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self._description()).encode()).hexdigest()


def files_for(embedded: EmbeddedManifest) -> int:
    """Choose a number of files, so that one's speakers have 64 MB of embeddings, more or less.

    Of short embeddings it is 262,144, whose IDs and wavs are then what fills the memory.
    """
    rows = min(FILE_ROWS, max(1, FILE_BYTES // (4 * embedded.size)))
    return max(1, -(-embedded.embedded // rows))


def _said(key: str, value: object) -> str:
    """Name what clusters are of; of a digest, its beginning."""
    value = value[:12] if isinstance(value, str) else value
    return f"{key.replace('_', ' ')} {value}"


def _csv(left_out: list[LeftOut]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("spk_id", "utterances", "reason"))
    writer.writerows((harmless_cell(name), *rest) for name, *rest in left_out)
    return buffer.getvalue()


def _write_changed(path: Path, text: str) -> None:
    """Write a file, if it does not say that already."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except _DAMAGED:
        return None
