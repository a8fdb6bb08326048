"""A folder of clusters against its speakers one by one; who makes which file changes nothing."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from gemoclap_sb.data.speaker_clusters import ClustersError, read_clusters
from gemoclap_sb.inference import cluster_job
from gemoclap_sb.inference.cluster_job import ClusterJob, FileResult, files_for
from gemoclap_sb.inference.embedded_manifest import open_embedded
from gemoclap_sb.inference.ray_clusters import Worker
from gemoclap_sb.inference.ray_pool import Pool
from gemoclap_sb.inference.speaker_clustering import ClusteringError, ClusteringOptions
from gemoclap_sb.inference.speaker_shuffle import shuffle
from tests.embedded_speakers import MODEL, blobs, write_embedded

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
SIZES = {"Ann": [9, 5, 4], "Bob, Jr.": [12, 10], "=C": [3, 2], "Żółć": [6, 6, 6, 6], "Eve": [1]}
FILES = 3


def write(folder: Path, order: int = 0, rows_per_part: int = 7):
    vectors = {name: blobs(sizes, seed=i) for i, (name, sizes) in enumerate(SIZES.items())}
    return write_embedded(folder, vectors, rows_per_part, {"Ann": 2, "unheard": 3}, order)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpus"))


def job_of(written, folder: Path, files: int = FILES, **options) -> ClusterJob:
    embedded = open_embedded(written.csv, written.folder)
    return ClusterJob(embedded, str(folder), ClusteringOptions(**options), files)


@pytest.fixture
def job(written, tmp_path) -> ClusterJob:
    return job_of(written, tmp_path / "out")


def cluster_all(job: ClusterJob, numbers=None, shard=(1, 1)) -> list[FileResult]:
    job.open_folder()
    numbers = range(job.files) if numbers is None else numbers
    shuffle(job.embedded, job.shuffled(shard), job.files, numbers, lambda rows: None)
    return [job.cluster(number, job.shuffled(shard)) for number in numbers]


def content(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def rows_of(folder: str | Path) -> list[tuple[str, str, str, int]]:
    clusters = read_clusters(folder)
    return [tuple(clusters.row(place).values()) for place in range(len(clusters))]


def test_each_utterance_of_a_kept_speaker_is_there_once(job, written):
    results = cluster_all(job)
    record = job.finish()
    rows = rows_of(job.folder)
    kept = ("Ann", "Bob, Jr.", "Żółć")
    assert sorted(name for name, *_ in rows) == sorted(
        name for name in written.vectors if written.speakers[name] in kept
    )
    for name, wav, speaker, _ in rows:
        assert (wav, speaker) == (f"{name}.wav", written.speakers[name])
    for speaker in kept:
        places = [i for i, row in enumerate(rows) if row[2] == speaker]
        assert places == list(range(places[0], places[0] + len(places)))
        labels = [rows[i][3] for i in places]
        sizes = np.bincount(labels)
        assert labels == np.repeat(np.arange(len(sizes)), sizes).tolist()
        assert sizes.tolist() == sorted(SIZES[speaker], reverse=True)
        # The groups that the vectors were made of.
        vectors = np.array([written.vectors[rows[i][0]] for i in places])
        groups = np.unique((vectors @ vectors.T > 0.5), axis=0, return_inverse=True)[1]
        assert adjusted_rand_score(groups, labels) == 1
    assert record == json.loads((Path(job.folder) / "clusters.json").read_text())
    assert record["files"] == FILES == len(results)
    assert (record["utterances"], record["speakers"], record["clusters"]) == (64, 3, 9)
    assert record["left_out"] == {"speakers": 3, "utterances": 6}
    assert record["without_embedding"] == 5
    assert record["options"] == {
        "method": "kmeans", "clusters": "auto", "most_clusters": 8, "least_utterances": 8,
        "seed": 1, "speaker_column": "spk_id",
    }  # fmt: skip
    told = json.loads((written.folder / "__about__" / "embeddings.json").read_text())
    assert {key: record["embeddings"][key] for key in told} == told
    assert record["embeddings"]["model"] == MODEL
    with open(Path(job.folder) / "left_out.csv", newline="", encoding="utf-8") as file:
        left_out = list(csv.DictReader(file))
    # A name that a spreadsheet takes for a formula does not stay one.
    assert [tuple(row.values()) for row in left_out] == [
        ("'=C", "5", "fewer than 8 utterances"),
        ("Eve", "1", "fewer than 8 utterances"),
        ("unheard", "0", "none of 3 utterances has an embedding"),
    ]
    assert sorted(path.name for path in Path(job.folder, "__about__").iterdir()) == [
        "clustering.json"
    ]


def test_the_rows_of_a_cluster_are_in_an_order_of_seed_and_id(job, written, tmp_path):
    cluster_all(job)
    job.finish()
    other = job_of(written, tmp_path / "other", seed=2)
    cluster_all(other)
    other.finish()
    first, second = rows_of(job.folder), rows_of(other.folder)
    assert first != second and sorted(first) == sorted(second)
    ids = [name for name, *_, speaker, cluster in first if (speaker, cluster) == ("Ann", 0)]
    assert ids != sorted(ids)


@pytest.mark.parametrize("options", [{}, {"clusters": 3}, {"method": "agglomerative"}])
def test_the_order_of_the_manifest_and_the_files_change_nothing(options, written, tmp_path):
    one = job_of(written, tmp_path / "one", **options)
    cluster_all(one)
    one.finish()
    again = write(tmp_path / "again", order=5, rows_per_part=11)
    assert again.csv.read_text() != written.csv.read_text()
    other = job_of(again, tmp_path / "other", files=1, **options)
    cluster_all(other)
    other.finish()
    assert sorted(rows_of(one.folder)) == sorted(rows_of(other.folder))
    assert {row[2] for row in rows_of(one.folder)} >= {"Ann", "Bob, Jr.", "Żółć"}


def test_a_speaker_depends_on_nobody_else(job, written, tmp_path):
    cluster_all(job)
    job.finish()
    vectors = {"Ann": blobs(SIZES["Ann"], seed=0)}
    alone = job_of(write_embedded(tmp_path / "alone", vectors), tmp_path / "alone_out")
    cluster_all(alone)
    alone.finish()
    assert rows_of(alone.folder) == [row for row in rows_of(job.folder) if row[2] == "Ann"]


def test_shares_make_the_same_bytes_in_any_order(job, written, tmp_path):
    cluster_all(job)
    job.finish()
    shared = replace(job, folder=str(tmp_path / "shared"))
    order = [1, 2, 3]
    random.Random(1).shuffle(order)
    for k in order:
        assert shared.finish() is None if k != order[0] else True
        cluster_all(shared, range(k - 1, FILES, 3), (k, 3))
    shared.finish()
    assert content(shared.folder) == content(job.folder)
    # The same at the same moment.
    shared.finish()
    assert content(shared.folder) == content(job.folder)


def test_a_worker_of_ray_makes_the_same_bytes(job, tmp_path):
    cluster_all(job)
    other = replace(job, folder=str(tmp_path / "other"))
    other.open_folder()
    shuffled = other.shuffled((1, 1))
    shuffle(other.embedded, shuffled, FILES, range(FILES), lambda rows: None)
    worker = Worker(other, shuffled, Pool(1, 1))
    rows = [worker({"number": number}) for number in range(FILES)]
    assert [row["stopped"] for row in rows] == [""] * FILES
    assert sum(json.loads(row["result"])["speakers"] for row in rows) == 3
    assert content(other.folder) == content(job.folder)


def test_files_that_are_there_are_not_made_again(job, monkeypatch):
    results = cluster_all(job)
    job.finish()
    before = {path: path.stat().st_mtime_ns for path in Path(job.folder).rglob("*")}
    monkeypatch.setattr(cluster_job, "cluster_speaker", None)
    job.open_folder()
    assert [job.cluster(number, Path("none")) for number in range(FILES)] == results
    job.finish()
    assert {path: path.stat().st_mtime_ns for path in Path(job.folder).rglob("*")} == before


@pytest.mark.parametrize("damage", ["half", "nothing", "missing"])
def test_what_is_damaged_or_missing_is_made_again(damage, job):
    cluster_all(job)
    job.finish()
    whole = content(job.folder)
    file = job.file(1)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[file.name][:100] if damage == "half" else b"")
    (Path(job.folder) / ".tmp-1-0123abcd-speakers-00001-of-00003.arrow").write_bytes(b"half")
    assert job.finish() is None
    cluster_all(job)
    job.finish()
    assert content(job.folder) == whole


@pytest.mark.parametrize("name", ["left_out.csv", "clusters.json"])
def test_what_is_said_last_is_said_again_if_it_is_damaged(name, job):
    cluster_all(job)
    job.finish()
    whole = content(job.folder)
    Path(job.folder, name).write_bytes(b"\xff")
    job.finish()
    assert content(job.folder) == whole


def test_the_reader_tells_of_an_unfinished_folder(job):
    cluster_all(job)
    with pytest.raises(ClustersError, match=r"has no clusters.json"):
        read_clusters(job.folder)
    job.finish()
    job.file(1).unlink()
    with pytest.raises(ClustersError, match="speakers-00001-of-00003.arrow is missing"):
        read_clusters(job.folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"options": {"seed": 2}}, "expected clusters with seed 2, found those with seed 1"),
        ({"options": {"clusters": 4}}, "with clusters 4, found those with clusters auto"),
        ({"options": {"most_clusters": 5}}, "with most clusters 5"),
        ({"files": 4}, "expected clusters with files 4"),
        ({"speakers": "Eve"}, "expected clusters with speakers "),
        ({"rows_per_part": 5}, "expected clusters with rows per part 5"),
    ],
)
def test_a_folder_of_something_else_is_refused(change, told, job, tmp_path):
    cluster_all(job)
    before = content(job.folder)
    other = write(tmp_path / "again", rows_per_part=change.get("rows_per_part", 7))
    if "speakers" in change:
        text = other.csv.read_text()
        other.csv.write_text(text.replace('"Ann"', '"Eve"', 1))
    wrong = job_of(other, job.folder, change.get("files", FILES), **change.get("options", {}))
    for attempt in (wrong.open_folder, lambda: wrong.cluster(0, job.shuffled((1, 1)))):
        with pytest.raises(ClusteringError) as error:
            attempt()
        assert told in str(error.value) and "Name another folder" in str(error.value)
    assert content(job.folder) == before


@pytest.mark.parametrize(
    "name", ["notes.txt", "speakers-00000-of-00009.arrow", "clusters.json", "left_out.csv"]
)
def test_a_folder_with_anything_else_in_it_is_refused(name, job):
    Path(job.folder).mkdir()
    Path(job.folder, name).touch()
    with pytest.raises(ClusteringError, match=f"found {name}. Name another folder"):
        job.open_folder()
    assert [path.name for path in Path(job.folder).iterdir()] == [name]


def test_all_left_out_is_told_and_the_folder_is_free_again(written, tmp_path):
    job = job_of(written, tmp_path / "out", least_utterances=30)
    cluster_all(job)
    with pytest.raises(ClusteringError) as error:
        job.finish()
    told = str(error.value)
    assert "all 6 speakers are left out (5: fewer than 30 utterances; 1: others)" in told
    assert "the largest has 24 utterances. Lower --least-utterances" in told
    lower = job_of(written, tmp_path / "out")
    cluster_all(lower)
    assert lower.finish()["speakers"] == 3


def test_a_speaker_of_too_many_stops_the_work(job, monkeypatch):
    monkeypatch.setattr("gemoclap_sb.inference.speaker_clustering.MOST_AGGLOMERATED", 20)
    job = replace(job, options=ClusteringOptions("agglomerative"))
    with pytest.raises(ClusteringError, match="Take --method kmeans"):
        cluster_all(job)
    assert job.finish() is None


def test_files_are_of_64_mb_of_embeddings(job):
    embedded = job.embedded
    assert files_for(embedded) == 1
    # 64 MB are 87,381 embeddings of 192 numbers.
    assert files_for(replace(embedded, size=192, embedded=87_381)) == 1
    assert files_for(replace(embedded, size=192, embedded=87_382)) == 2
    assert files_for(replace(embedded, size=192, embedded=10**6)) == 12
    # And no more than a process holds the names of.
    assert files_for(replace(embedded, size=2, embedded=10**6)) == 4
