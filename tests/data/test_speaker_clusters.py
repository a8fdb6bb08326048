"""A folder of clusters: what is read is what was written, and what is no such folder is told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from gemoclap_sb.data.speaker_clusters import (
    ClustersError,
    SpeakerClusters,
    clusters_digest,
    clusters_file,
    clusters_schema,
    read_clusters,
    utterances_of,
    write_clusters_file,
)
from gemoclap_sb.files import write_json

# Speaker and cluster of each utterance. One speaker's last cluster has the number of the next's
# first; the last file begins with the number that the first ends with; one is empty.
FILES = [[("ann", 0), ("ann", 0), ("bob", 0), ("bob", 1), ("bob", 1)], [], [("cid", 1)] * 3]
RECORD = {"files": len(FILES), "path": "/corpus/all.csv", "embeddings": {"manifest": "one"}}


def write(folder: Path, files: list[list[tuple[str, int]]] = FILES) -> Path:
    number = 0
    for i, rows in enumerate(files):
        ids = [f"u{number + n}" for n in range(len(rows))]
        number += len(rows)
        speakers, clusters = [speaker for speaker, _ in rows], [cluster for _, cluster in rows]
        columns = [ids, [f"{name}.wav" for name in ids], speakers, clusters]
        table = pa.Table.from_arrays(
            [pa.array(of, kind) for of, kind in zip(columns, clusters_schema().types, strict=True)],
            schema=clusters_schema(),
        )
        write_clusters_file(clusters_file(folder, i, len(files)), table)
    write_json(folder / "clusters.json", {**RECORD, "files": len(files)})
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "clusters")


def test_what_is_read_is_what_was_written(folder):
    clusters = read_clusters(folder)
    rows = [row for file in FILES for row in file]
    assert len(clusters) == len(rows) == 8 and clusters.record["path"] == "/corpus/all.csv"
    for place, (speaker, cluster) in enumerate(rows):
        own = {"ID": f"u{place}", "wav": f"u{place}.wav", "spk_id": speaker, "cluster": cluster}
        assert clusters.row(place) == own
    assert clusters.speakers == ["ann", "bob", "cid"]
    assert clusters.sizes.tolist() == [2, 1, 2, 3]
    assert clusters.speaker_starts.tolist() == [0, 1, 3, 4]
    assert clusters.cluster_starts.tolist() == [0, 2, 3, 5, 8]
    speakers, numbers = clusters.of(range(8))
    assert [clusters.speakers[of] for of in speakers] == [speaker for speaker, _ in rows]
    assert numbers.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    for place in (-1, 8):
        with pytest.raises(IndexError, match=f"expected 0 to 7, found {place}"):
            clusters.row(place)
    heard = {f"u{n}": {"wav": f"u{n}.wav", "spk_id": of} for n, (of, _) in enumerate(rows)}
    assert utterances_of(folder) == heard


def test_files_are_mapped_and_not_read(tmp_path):
    folder = write(tmp_path / "clusters", [[("ann", n // 1000) for n in range(50_000)]])
    [file] = folder.glob("*.arrow")
    before = pa.total_allocated_bytes()
    clusters = read_clusters(folder)
    assert clusters.row(49_999)["cluster"] == 49 and len(clusters.sizes) == 50
    assert pa.total_allocated_bytes() - before < file.stat().st_size / 10


def test_the_digest_is_of_contents_wherever_they_lie():
    def digest(**told: object) -> str:
        return clusters_digest(SpeakerClusters([], None, None, {**RECORD, **told}, []))

    assert digest(path="/elsewhere/all.csv") == digest()
    assert digest(embeddings={"manifest": "two"}) != digest()


def test_what_is_no_finished_folder_is_told(folder, tmp_path):
    with pytest.raises(ClustersError, match=r"has no clusters.json: expected a folder that"):
        read_clusters(tmp_path / "nowhere")
    for text in ("{", "[]", "{}", json.dumps({**RECORD, "files": "3"})):
        (folder / "clusters.json").write_text(text)
        with pytest.raises(ClustersError, match=r"is damaged \("):
            read_clusters(folder)
    write_json(folder / "clusters.json", {**RECORD, "files": 4})
    with pytest.raises(ClustersError, match="00000-of-00004.arrow is missing"):
        read_clusters(folder)


def test_what_is_no_file_of_clusters_is_told(folder):
    file = clusters_file(folder, 2, 3)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"ARROW1" * 20):
        file.write_bytes(damaged)
        with pytest.raises(ClustersError, match="is damaged"):
            read_clusters(folder)
    write_clusters_file(file, pa.table({"ID": ["a"], "wav": ["a.wav"]}))
    with pytest.raises(ClustersError, match="expected the columns ID, wav, spk_id, cluster"):
        read_clusters(folder)
