"""`gemoclap cluster`: whoever does how much of it, the folder is the same."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemoclap_sb.cli.parser import main
from gemoclap_sb.data.speaker_clusters import read_clusters
from gemoclap_sb.inference.embedded_manifest import EmbeddedManifest
from tests.cli.printed import one_line
from tests.embedded_speakers import Embedded, blobs, write_embedded
from tests.run_folders import ROOT

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

FILES = 12
COMMAND = [sys.executable, "-m", "gemoclap_sb.cli", "cluster"]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> Embedded:
    """A hundred speakers of up to thirty utterances, among them some of very few."""
    vectors = {f"s{i:02d}": blobs([1 + i % 16, 1 + i % 15], seed=i) for i in range(100)}
    without = {"s07": 2, "unheard": 1}
    return write_embedded(tmp_path_factory.mktemp("speakers"), vectors, 256, without)


@pytest.fixture(scope="session")
def arguments(embedded) -> list[str]:
    given = [str(embedded.csv), "--embeddings", str(embedded.folder)]
    return [*given, "--clusters", "2", "--files", str(FILES)]


@pytest.fixture(scope="session")
def whole(arguments, tmp_path_factory) -> Path:
    """The folder that one process makes without being disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert main(["cluster", *arguments, "--output", str(folder)]) == 0
    return folder


def check_same(folder: Path, whole: Path) -> None:
    """The same files, byte for byte, and no others."""
    found, expected = (
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (folder, whole)
    )
    assert found.keys() == expected.keys()
    assert found == expected


def test_one_process_clusters_all(arguments, whole, tmp_path, command):
    status, out, err = command("cluster", *arguments, "--output", tmp_path / "out")
    assert (status, out) == (0, "")
    clusters = read_clusters(whole)
    assert clusters.record["files"] == FILES
    speakers, left_out = clusters.record["speakers"], clusters.record["left_out"]["speakers"]
    # Of s00 to s99 two have fewer than four, and of one nothing was heard.
    assert (speakers, left_out) == (98, 3)
    lines = err.splitlines()
    assert lines[0].endswith(
        f": {len(clusters)} utterances of {speakers} speakers in {2 * speakers} clusters"
    )
    assert lines[1] == "3 utterances of the manifest have no embedding, and so no cluster."
    assert lines[2].startswith(f"{left_out} speakers with ")
    assert "s00 (fewer than 4 utterances), " in lines[2] and "left_out.csv" in lines[2]
    assert len(lines) == 3
    check_same(tmp_path / "out", whole)


def test_shards_make_the_same(arguments, whole, tmp_path, command):
    folder = tmp_path / "out"
    run = ["cluster", *arguments, "--output", folder, "--shard"]
    for k in ("2/3", "3/3"):
        status, _, err = command(*run, k)
        assert status == 0
        assert f"the share {k} is finished; the one that finishes last" in one_line(err)
        assert not (folder / "clusters.json").exists()
    assert len(list(folder.glob("speakers-*"))) == 8
    status, _, err = command(*run, "1/3")
    assert status == 0 and "utterances of" in err
    check_same(folder, whole)


def test_ranks_of_torchrun_are_shards(arguments, tmp_path, command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert command("cluster", *arguments, "--output", tmp_path / "out")[0] == 0
    assert len(list(tmp_path.glob("out/speakers-*"))) == FILES // 2


def test_the_same_command_again_writes_nothing(arguments, whole, command):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    status, _, err = command("cluster", *arguments, "--output", whole)
    assert status == 0
    assert err.startswith(f"Going on from 12 of 12 files in {whole}.")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.parametrize("stopped", ["shuffle", "cluster"])
def test_what_was_stopped_goes_on(stopped, arguments, whole, tmp_path, command, monkeypatch):
    folder, calls = tmp_path / "out", []

    def stopping(original):
        def call(*given, **options):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return original(*given, **options)

        return call

    with monkeypatch.context() as patch:
        if stopped == "shuffle":
            patch.setattr(EmbeddedManifest, "read", stopping(EmbeddedManifest.read))
        else:
            name = "gemoclap_sb.inference.cluster_job.write_clusters_file"
            from gemoclap_sb.data.speaker_clusters import write_clusters_file

            patch.setattr(name, stopping(write_clusters_file))
        assert command("cluster", *arguments, "--output", folder)[0] == 130
    kept = {"shuffle": 0, "cluster": 2}[stopped]
    assert len(list(folder.glob("speakers-*"))) == kept
    if stopped == "cluster":
        # What was shuffled is there already.
        monkeypatch.setattr(EmbeddedManifest, "read", None)
    status, _, err = command("cluster", *arguments, "--output", folder)
    assert status == 0 and (f"Going on from {kept} of 12" in err) == bool(kept)
    check_same(folder, whole)


def test_another_column_and_number_of_clusters(embedded, tmp_path, command):
    text = embedded.csv.read_text().replace("spk_id", "who", 1)
    (tmp_path / "all.csv").write_text(text)
    given = [tmp_path / "all.csv", "--embeddings", embedded.folder, "--output", tmp_path / "out"]
    assert "missing column spk_id" in one_line(command("cluster", *given)[2])
    given += ["--speaker-column", "who", "--method", "agglomerative", "--most-clusters", "3"]
    status, _, err = command("cluster", *given)
    assert status == 0, err
    record = read_clusters(tmp_path / "out").record
    assert record["files"] == 1
    assert record["options"] == {
        "method": "agglomerative", "clusters": "auto", "most_clusters": 3, "least_utterances": 8,
        "seed": 1, "speaker_column": "who",
    }  # fmt: skip


def test_no_label_of_emotion_is_read(embedded, arguments, whole, tmp_path, command):
    text = embedded.csv.read_text()
    (tmp_path / "all.csv").write_text(text.replace(",emotion", "").replace(",secret", ""))
    given = [tmp_path / "all.csv", *arguments[1:], "--output", tmp_path / "out"]
    assert command("cluster", *given)[0] == 0
    # Which says where the manifest was.
    of_another = (
        (tmp_path / "out" / "clusters.json")
        .read_text()
        .replace(str(tmp_path / "all.csv"), str(embedded.csv))
    )
    (tmp_path / "out" / "clusters.json").write_text(of_another)
    check_same(tmp_path / "out", whole)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--clusters", "1"], "--clusters: expected 2 or more, found 1"),
        (["--clusters", "some"], "expected auto, or 2 and more, found some"),
        (["--clusters", "3", "--most-clusters", "4"], "--most-clusters: goes with clusters that"),
        (["--least-utterances", "2"], "--least-utterances: expected 4 or more, found 2"),
        (["--files", "100000000"], "--files: expected at most "),
        (["--seed", "-1"], "expected 0 to 4294967295, found -1"),
        (["--seed", "4294967296"], "expected 0 to 4294967295"),
        (["--method", "dbscan"], "invalid choice"),
        (["--shard", "3/2"], "K from 1 to N"),
        (["--shard", "1/2", "--engine", "ray"], "--shard: Ray divides the work itself"),
        (["--actors", "2"], "--actors: goes with --engine ray"),
        (["--speaker-column", "age"], "missing column age. Found the columns ID, wav, spk_id"),
        (["--least-utterances", "40"], "all 101 speakers are left out (100: fewer than 40"),
        (["--embeddings", "{csv}"], "expected the folder of a manifest's embeddings"),
        (["--output", "{csv}"], "expected a folder to write into"),
        (["--output", "{embeddings}"], "expected a new folder"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(given, told, embedded, tmp_path, command):
    if "ray" in given and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    places = {"csv": embedded.csv, "embeddings": embedded.folder}
    given = [argument.format(**places) for argument in given]
    start = [embedded.csv, "--embeddings", embedded.folder, "--output", tmp_path / "out"]
    status, out, err = command("cluster", *start, *given)
    assert (status, out) == (2, "")
    assert told in err.splitlines()[-1]
    assert err.startswith("usage:") or one_line(err)
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_of_other_clusters_is_refused(arguments, whole, command):
    given = [*arguments, "--output", whole]
    for other, told in ((["--seed", "2"], "seed 2"), (["--files", "3"], "files 3")):
        status, _, err = command("cluster", *given, *other)
        assert status == 2
        assert f"expected clusters with {told}, found those with" in one_line(err)


def test_damage_found_on_the_way_is_told_in_a_line(embedded, tmp_path, command):
    import pyarrow.parquet as pq

    vectors = {"Ann": blobs([9, 9])}
    written = write_embedded(tmp_path / "corpus", vectors)
    part = sorted(written.folder.glob("part-*"))[1]
    table = pq.read_table(part)
    pq.write_table(table.take([1, 0, *range(2, len(table))]), part)
    given = [written.csv, "--embeddings", written.folder, "--output", tmp_path / "out"]
    status, _, err = command("cluster", *given)
    assert status == 2
    assert f"{part} is damaged (its IDs are not" in one_line(err)
    part.unlink()
    assert "1 of 3 parts are missing" in one_line(command("cluster", *given)[2])


def test_what_is_not_installed_is_named(arguments, tmp_path, command, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "pyarrow" else original(name, *a),
    )
    status, _, err = command("cluster", *arguments, "--output", tmp_path / "out")
    assert status == 2
    assert "pip install 'gemoclap_sb[parquet]'" in one_line(err)


def test_a_lack_of_memory_says_what_helps(arguments, tmp_path, command, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("gemoclap_sb.inference.cluster_job.read_speakers", full)
    status, _, err = command("cluster", *arguments, "--output", tmp_path / "out")
    assert status == 2
    assert "not enough memory" in one_line(err) and "higher --files" in err


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(arguments, whole, tmp_path, command):
    folder = tmp_path / "out"
    run = [*COMMAND, *arguments, "--output", str(folder)]
    process = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not (done := len(list(folder.glob("speakers-*")))):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and done < FILES
    made = {path: path.stat().st_mtime_ns for path in folder.glob("speakers-*")}
    status, _, err = command("cluster", *arguments, "--output", folder)
    assert status == 0 and f"Going on from {len(made)} of {FILES} files" in err
    assert {path: path.stat().st_mtime_ns for path in made} == made
    check_same(folder, whole)


@pytest.mark.slow
def test_ray_makes_the_same(arguments, whole, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    folder = tmp_path / "out"
    run = [*COMMAND, *arguments, "--output", str(folder), "--engine", "ray", "--actors", "2"]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and len(ended.stderr.splitlines()) < 8
    check_same(folder, whole)
    assert json.loads((folder / "clusters.json").read_text())["speakers"] > 80
