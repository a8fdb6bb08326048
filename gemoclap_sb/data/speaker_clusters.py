"""Clusters of each speaker's utterances on disk: what is drawn from, whatever their number.

speakers-00000-of-00012.arrow   utterances of some speakers, columns as in `COLUMNS`: a speaker's
                                rows follow each other, of them a cluster's, and these are in
                                random order
left_out.csv                    speakers that have no clusters, and why
clusters.json                   how the clusters were made, and of what; written last
__about__/                      what the writers tell each other; nobody else looks into it

The files are Arrow's own format, mapped into memory and not read: a row costs a look at its place,
and what is held for all rows is where each speaker and each cluster begins.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemoclap_sb.files import atomic_path, read_json

if TYPE_CHECKING:
    import pyarrow as pa

RECORD, LEFT_OUT, ABOUT = "clusters.json", "left_out.csv", "__about__"
PATH = "path"
"""Key of the record: where the manifest was, from whose folder a relative ``wav`` begins."""
COLUMNS = ("ID", "wav", "spk_id", "cluster")
"""Strings, but for the cluster: int32, from 0 for each speaker. ``wav`` is as it stands in the
manifest."""


class ClustersError(ValueError):
    """A folder of clusters is unfinished, damaged, or no such folder; the message says which."""


def clusters_file(folder: str | os.PathLike, number: int, of: int) -> Path:
    """Name the file of some of the speakers."""
    return Path(folder, f"speakers-{number:05d}-of-{of:05d}.arrow")


def clusters_schema() -> pa.Schema:
    """Describe the columns of a file."""
    import pyarrow as pa

    kinds = (pa.string(), pa.string(), pa.string(), pa.int32())
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))


def write_clusters_file(path: Path, table: pa.Table) -> None:
    """Write a file, whole or not at all; its rows are in order already."""
    import pyarrow as pa

    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        # One chunk, so that a row is found at once.
        writer.write_table(table.combine_chunks())


@dataclass(frozen=True)
class SpeakerClusters:
    """Utterances in the order of their speakers and clusters, by place from 0.

    Attributes
    ----------
    speakers : Sequence[str]
        Names, of S speakers.
    speaker_starts : np.ndarray
        int64 ``[S + 1]``: speaker s has the clusters from ``[s]`` to before ``[s + 1]``, of all.
    cluster_starts : np.ndarray
        int64 ``[C + 1]``: cluster c has the utterances from ``[c]`` to before ``[c + 1]``.
    record : Mapping[str, Any]
        What ``clusters.json`` says.
    tables : Sequence[pa.Table]
        The files, mapped.
    """

    speakers: Sequence[str]
    speaker_starts: np.ndarray
    cluster_starts: np.ndarray
    record: Mapping[str, Any]
    tables: Sequence[pa.Table]

    def __len__(self) -> int:
        """How many utterances there are."""
        return int(self.cluster_starts[-1])

    @property
    def sizes(self) -> np.ndarray:
        """Utterances of each cluster, int64 ``[C]``."""
        return np.diff(self.cluster_starts)

    def row(self, place: int) -> dict[str, Any]:
        """Give the columns of an utterance; IndexError if there is none."""
        if not 0 <= place < len(self):
            raise IndexError(f"expected 0 to {len(self) - 1}, found {place}.")
        for table in self.tables:
            if place < table.num_rows:
                return {name: table.column(name)[place].as_py() for name in COLUMNS}
            place -= table.num_rows
        raise AssertionError

    def of(self, places: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell the speaker and the cluster of utterances, numbers of all, int64 each."""
        clusters = np.searchsorted(self.cluster_starts, places, side="right") - 1
        return np.searchsorted(self.speaker_starts, clusters, side="right") - 1, clusters


def clusters_digest(clusters: SpeakerClusters) -> str:
    """Digest of what clusters are of and how they were made; hexadecimal."""
    told = {key: of for key, of in clusters.record.items() if key != PATH}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_clusters(folder: str | os.PathLike) -> SpeakerClusters:
    """Open a folder of clusters; ClustersError if it is not one, or not finished."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ClustersError("pyarrow is not installed: pip install 'gemoclap_sb[parquet]'.")
    import pyarrow as pa

    folder = Path(folder)
    record_file = folder / RECORD
    if not record_file.is_file():
        raise ClustersError(
            f"{folder} has no {RECORD}: expected a folder that `gemoclap cluster` has finished."
        )
    try:
        record = read_json(record_file)
        files = [clusters_file(folder, i, record["files"]) for i in range(record["files"])]
        tables = []
        for file in files:
            if not file.is_file():
                raise ClustersError(f"{file} is missing: give `gemoclap cluster` again.")
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            if table.column_names != list(COLUMNS):
                raise ClustersError(f"{file}: expected the columns {', '.join(COLUMNS)}.")
            tables.append(table)
    except ClustersError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ClustersError(
            f"{folder} is damaged ({error}): delete it and cluster again."
        ) from error
    return _indexed(record, tables)


def utterances_of(folder: str | os.PathLike) -> dict[str, dict[str, str]]:
    """Read ``wav`` and ``spk_id`` of all utterances by ID; ClustersError as of `read_clusters`."""
    names = ("ID", "wav", "spk_id")
    return {
        name: {"wav": wav, "spk_id": speaker}
        for table in read_clusters(folder).tables
        for name, wav, speaker in zip(*(table.column(of).to_pylist() for of in names), strict=True)
    }


def _indexed(record: Mapping[str, Any], tables: Sequence[pa.Table]) -> SpeakerClusters:
    """Find where speakers and clusters begin."""
    speakers: list[str] = []
    speaker_starts, cluster_starts, before = [], [], 0
    for table in tables:
        if not table.num_rows:
            continue
        names = table.column("spk_id").combine_chunks()
        of_speaker = _begins(names)
        of_cluster = of_speaker | _begins(table.column("cluster").combine_chunks())
        at = np.flatnonzero(of_cluster)
        speaker_starts.append(len(cluster_starts) + np.flatnonzero(of_speaker[at]))
        cluster_starts.extend((before + at).tolist())
        speakers += names.take(np.flatnonzero(of_speaker)).to_pylist()
        before += table.num_rows
    return SpeakerClusters(
        speakers,
        np.array([*np.concatenate([[], *speaker_starts]), len(cluster_starts)], np.int64),
        np.array([*cluster_starts, before], np.int64),
        record,
        tables,
    )


def _begins(column: pa.Array) -> np.ndarray:
    """Tell of each row whether its value is another than that of the row before; ``[N]``."""
    import pyarrow.compute as pc

    differs = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return np.concatenate([[True], differs.to_numpy(zero_copy_only=False)])
