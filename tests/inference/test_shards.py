"""`embed_shard` against `encode_batch`, and what it takes for a part that is there."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.inference.loading import head_of
from gemoclap_sb.inference.shards import ABOUT, EmbeddingJob, ShardError, embed_shard
from gemoclap_sb.models.digest import model_digest
from tests.run_folders import write_tone, write_tones

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
ROWS_PER_PART = 4


@pytest.fixture(scope="module")
def classifier(exported) -> GEmoCLAPClassifier:
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Ten recordings of different lengths, one that is read in pieces, and one that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = [path.name for path in write_tones(folder)]
    paths.insert(2, write_tone(folder / "long.wav", 61, 90, rate=8000).name)
    (folder / "broken.wav").write_bytes(b"RIFF of nothing")
    paths.insert(5, "broken.wav")
    rows = "".join(f"utterance {name[:-4]},$data_root/{name}\n" for name in paths)
    (folder / "all.csv").write_text(f"ID,wav\n{rows}")
    return folder


@pytest.fixture
def job(corpus, exported, tmp_path) -> EmbeddingJob:
    model = exported["scratch"]
    manifest = cut_manifest(corpus / "all.csv", corpus, ROWS_PER_PART)
    job = EmbeddingJob(manifest, str(tmp_path / "out"), model_digest(model), head_of(model))
    job.open_folder()
    return job


def embed_all(classifier, job):
    return [embed_shard(classifier, job, part) for part in job.manifest.parts]


def times(folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def test_the_parts_hold_what_encode_batch_gives(classifier, job, corpus):
    calls = []
    results = [embed_shard(classifier, job, p, lambda: calls.append(1)) for p in job.manifest.parts]
    assert [result.rows for result in results] == [4, 3, 4]
    assert len(calls) == 12
    frame = pd.read_parquet(job.folder)
    rows = [row for row in pd.read_csv(corpus / "all.csv").itertuples() if "broken" not in row.wav]
    assert frame["ID"].tolist() == [row.ID for row in rows]
    paths = [row.wav.replace("$data_root", str(corpus)) for row in rows]
    wavs = [classifier.load_audio(path) for path in paths if "long" not in path]
    expected = [classifier.encode_batch(wav)[0, 0].numpy() for wav in wavs]
    # The long one is read in pieces.
    [long] = classifier.encode_files([corpus / "long.wav"], progress=False)
    expected.insert(2, long.embedding.numpy())
    np.testing.assert_allclose(np.stack(frame["embedding"]), np.stack(expected), atol=1e-4)

    [failure] = results[1].failures
    assert (failure.ID, failure.wav) == ("utterance broken", "$data_root/broken.wav")
    [listed] = job.errors.iterdir()
    with open(listed, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"ID": failure.ID, "wav": failure.wav, "error": failure.error}]
    assert "broken.wav" in failure.error


def test_others_read_the_folder(classifier, job, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    datasets = pytest.importorskip("datasets")
    results = embed_all(classifier, job)
    # What a process that was killed leaves is in nobody's way.
    Path(job.folder, ABOUT, ".tmp-1-part-00000-of-00003.parquet").write_bytes(b"PAR1")
    frame = pd.read_parquet(job.folder)
    assert len(frame) == sum(result.rows for result in results) == 11
    found = duckdb.sql(f"select ID, embedding from '{job.folder}/*.parquet' order by ID").fetchall()
    frame = frame.sort_values("ID")
    assert [name for name, _ in found] == frame["ID"].tolist()
    np.testing.assert_array_equal(
        np.array([vector for _, vector in found], np.float32), np.stack(frame["embedding"])
    )
    loaded = datasets.load_dataset(
        job.folder, split="train", cache_dir=str(tmp_path / "cache")
    ).sort("ID")
    assert loaded["ID"][:] == frame["ID"].tolist()
    np.testing.assert_array_equal(
        np.array(loaded["embedding"][:], np.float32), np.stack(frame["embedding"])
    )


def test_a_part_that_is_there_is_not_written_again(classifier, job):
    results = embed_all(classifier, job)
    before = times(job.folder)
    # Nothing is embedded for it either.
    assert embed_all(None, job) == results
    assert times(job.folder) == before
    [listed] = job.errors.iterdir()
    told = listed.read_bytes()
    listed.unlink()
    assert embed_all(None, job) == results
    assert listed.read_bytes() == told


def test_only_what_is_missing_is_made(classifier, job):
    results = embed_all(classifier, job)
    part, *others = job.manifest.parts
    before, whole = times(job.folder), job.file(part).read_bytes()
    job.file(part).unlink()
    assert embed_shard(classifier, job, part) == results[0]
    assert job.file(part).read_bytes() == whole
    after = times(job.folder)
    assert [after[str(job.file(p))] for p in others] == [before[str(job.file(p))] for p in others]


@pytest.mark.parametrize("left", ["half", "nothing", "elsewhere"])
def test_half_a_file_is_no_part(left, classifier, job):
    results = embed_all(classifier, job)
    part = job.manifest.parts[0]
    whole = job.file(part).read_bytes()
    if left == "elsewhere":
        job.file(part).unlink()
        stale = Path(job.folder, ABOUT, f".tmp-1-abcd-{job.file(part).name}")
        stale.write_bytes(whole[: len(whole) // 2])
    else:
        job.file(part).write_bytes(whole[: len(whole) // 2] if left == "half" else b"")
    assert job.finished(part) is None
    assert embed_shard(classifier, job, part) == results[0]
    assert job.file(part).read_bytes() == whole
    assert list(Path(job.folder).rglob(".tmp*")) == []


def test_what_stops_in_the_middle_leaves_nothing(classifier, job, monkeypatch):
    original = GEmoCLAPClassifier.encode_files

    def stopping(self, paths, **options):
        for i, row in enumerate(original(self, paths, **options)):
            if i == 2:
                raise KeyboardInterrupt
            yield row

    before = times(job.folder)
    with monkeypatch.context() as patch:
        patch.setattr(GEmoCLAPClassifier, "encode_files", stopping)
        with pytest.raises(KeyboardInterrupt):
            embed_shard(classifier, job, job.manifest.parts[0])
    assert times(job.folder) == before
    assert embed_shard(classifier, job, job.manifest.parts[0]).rows == 4


@pytest.mark.parametrize("differs", ["model", "attribute", "manifest", "rows_per_part"])
def test_a_folder_of_something_else_is_refused(differs, classifier, job, corpus, tmp_path):
    embed_shard(classifier, job, job.manifest.parts[0])
    other = tmp_path / "other.csv"
    other.write_text((corpus / "all.csv").read_text().replace("utterance 1", "utterance one"))
    changed = {
        "model": {"model": "f" * 64},
        "attribute": {"attribute": "gender"},
        "manifest": {"manifest": cut_manifest(other, corpus, ROWS_PER_PART)},
        "rows_per_part": {"manifest": cut_manifest(corpus / "all.csv", corpus, 5)},
    }[differs]
    wrong = replace(job, **changed)
    before = times(job.folder)
    for attempt in (
        wrong.open_folder,
        lambda: embed_shard(classifier, wrong, job.manifest.parts[1]),
    ):
        with pytest.raises(ShardError) as error:
            attempt()
        assert differs.replace("_", " ") in str(error.value)
        assert "Name another folder" in str(error.value)
    assert times(job.folder) == before


def test_a_part_of_another_model_in_the_folder_is_refused(classifier, job, tmp_path):
    """As when somebody copies it there."""
    part = job.manifest.parts[0]
    foreign = replace(job, folder=str(tmp_path / "foreign"), model="f" * 64)
    foreign.open_folder()
    embed_shard(classifier, foreign, part)
    foreign.file(part).rename(job.file(part))
    with pytest.raises(ShardError, match=r"part-00000-of-00003.parquet: expected .* model"):
        embed_shard(classifier, job, part)
    job.file(part).unlink()
    Path(job.folder, "part-00000-of-00009.parquet").touch()
    with pytest.raises(ShardError, match="found part-00000-of-00009.parquet"):
        job.open_folder()


def test_two_writers_of_one_part_are_both_served(classifier, job, monkeypatch):
    """While one writes, another finishes the same part, and takes its file for a leftover."""
    part = job.manifest.parts[0]
    vectors = np.ones((2, 3), np.float32)
    written, real = [], pq.write_table

    def interrupted(table, path, **options):
        real(table, path, **options)
        written.append(Path(path))
        if len(written) == 1:
            # Killed meanwhile, by one that is about to write too.
            for left in Path(job.folder, ABOUT).glob("*.parquet"):
                left.unlink()

    monkeypatch.setattr(pq, "write_table", interrupted)
    job.write(part, ["a", "b"], vectors, [])
    assert len(written) == 2 and written[0] != written[1]
    assert pq.read_table(job.file(part))["ID"].to_pylist() == ["a", "b"]
    assert not list(Path(job.folder, ABOUT).glob("*.parquet"))


def test_what_a_killed_writer_left_goes_with_the_part(classifier, job):
    left = Path(job.folder, ABOUT, f"0123abcd-{job.file(job.manifest.parts[0]).name}")
    left.write_bytes(b"half")
    other = left.with_name(f"0123abcd-{job.file(job.manifest.parts[1]).name}")
    other.write_bytes(b"half")
    embed_shard(classifier, job, job.manifest.parts[0])
    assert not left.exists() and other.exists()


def test_a_part_that_no_file_takes_is_refused_before_the_work(classifier, job, monkeypatch):
    monkeypatch.setattr("gemoclap_sb.inference.shards._MOST_NUMBERS", 90)
    monkeypatch.setattr(classifier, "encode_files", None)
    with pytest.raises(ShardError, match="4 embeddings of 24 numbers are more .* --rows-per-part"):
        embed_shard(classifier, job, job.manifest.parts[0])
