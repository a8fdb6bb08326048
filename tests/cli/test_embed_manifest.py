"""`gemoclap embed MANIFEST`: whoever does how much of it, the folder is the same."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gemoclap_sb.cli.parser import main
from tests.cli.printed import one_line, parsed
from tests.run_folders import ROOT, write_tone

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

PARTS = 6
COMMAND = [sys.executable, "-m", "gemoclap_sb.cli", "embed"]


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Eighteen recordings, one of them long and one none."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(16):
        write_tone(folder / f"in/{i}.wav", 1 + (7 * i) % 5, 100 + 20 * i)
    write_tone(folder / "in/long.wav", 61, 90)
    (folder / "in/broken.wav").write_bytes(b"RIFF of nothing")
    names = [*range(3), "broken", *range(3, 12), "long", *range(12, 16)]
    rows = "".join(f"utterance {name},$data_root/{name}.wav\n" for name in names)
    (folder / "all.csv").write_text(f"ID,wav\n{rows}")
    return folder / "all.csv"


@pytest.fixture(scope="session")
def arguments(manifest, model) -> list[str]:
    root = str(manifest.parent / "in")
    return [str(manifest), "--model", model, "--data-root", root, "--rows-per-part", "3"]


@pytest.fixture(scope="session")
def whole(arguments, tmp_path_factory) -> Path:
    """The folder that one process makes without being disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert main(["embed", *arguments, "--output", str(folder)]) == 1
    return folder


def check_same(folder: Path, whole: Path) -> None:
    """The same files with the same rows; values but for rounding."""
    names = [sorted(str(f.relative_to(top)) for f in top.rglob("*")) for top in (folder, whole)]
    assert names[0] == names[1]
    found, expected = (pd.read_parquet(top).set_index("ID")["embedding"] for top in (folder, whole))
    assert found.index.tolist() == expected.index.tolist()
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=1e-5)
    errors = [next((top / "__about__/errors").iterdir()).read_text() for top in (folder, whole)]
    assert errors[0] == errors[1]


def killed_in_the_middle(process: subprocess.Popen, folder: Path, victim=None) -> None:
    """Send SIGKILL to a process, or what `victim` gives, as soon as a part is there."""
    end = time.monotonic() + 240
    while not (done := len(list(folder.glob("part-*")))):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    (victim or process).send_signal(signal.SIGKILL)
    assert done < PARTS


def test_one_process_embeds_all(whole, manifest, classifier):
    frame = pd.read_parquet(whole)
    rows = [row for row in pd.read_csv(manifest).itertuples() if "broken" not in row.ID]
    assert frame["ID"].tolist() == [row.ID for row in rows]
    assert len(list(whole.glob("part-*-of-00006.parquet"))) == PARTS
    paths = [row.wav.replace("$data_root", str(manifest.parent / "in")) for row in rows]
    expected = classifier.embed_files(paths, progress=False).numpy()
    np.testing.assert_allclose(np.stack(frame["embedding"]), expected, atol=1e-4)


def test_two_shards_make_the_same(whole, arguments, tmp_path, command):
    folder = tmp_path / "out"
    run = ["embed", *arguments, "--output", folder, "--shard"]
    status, out, err = command(*run, "2/2")
    assert (status, out) == (1, "")
    assert "1 of 9 recordings failed" in err
    assert "broken.wav" in err
    assert [path.name[:10] for path in sorted(folder.glob("part*"))] == [
        "part-00001", "part-00003", "part-00005",
    ]  # fmt: skip
    assert command(*run, "1/2")[0] == 0
    check_same(folder, whole)


def test_the_ranks_of_torchrun_are_shards(whole, arguments, tmp_path, command, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, status in ((0, 0), (1, 1)):
        monkeypatch.setenv("RANK", str(rank))
        assert command("embed", *arguments, "--output", folder)[0] == status
        assert len(list(folder.glob("part*"))) == PARTS // 2 * (rank + 1)
    check_same(folder, whole)


def test_ranks_that_do_not_fit_are_told(arguments, tmp_path, command, monkeypatch):
    run = ["embed", *arguments, "--output", tmp_path / "out"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    status, _, err = command(*run)
    assert status == 2
    assert "RANK=2 and WORLD_SIZE=2" in one_line(err)
    monkeypatch.setenv("RANK", "1")
    if importlib.util.find_spec("ray") is not None:
        assert "without torchrun" in one_line(command(*run, "--engine", "ray")[2])
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_writes_nothing(whole, arguments, command):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    status, _, err = command("embed", *arguments, "--output", whole)
    # What failed is told, and counts, again.
    assert status == 1
    assert "Going on from 6 of 6 parts" in err and "broken.wav" in err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_ranks_have_their_shares_already(arguments, tmp_path, command, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    given = ["--output", tmp_path / "out", "--shard", "3/64"]
    status, _, err = command("embed", *arguments, *given)
    assert status == 2 and "--shard: torchrun's processes have their shares" in err
    assert not (tmp_path / "out").exists()


def test_more_shards_than_parts(arguments, tmp_path, command):
    status, _, err = command("embed", *arguments, "--output", tmp_path / "out", "--shard", "9/9")
    assert status == 0
    assert "0 embeddings in 0 of 6 parts" in err


def test_another_model_is_refused(whole, arguments, exported, command):
    other = [str(exported["pretrained"]) if a == arguments[2] else a for a in arguments]
    status, _, err = command("embed", *other, "--output", whole)
    assert status == 2
    assert "expected embeddings of model" in one_line(err) and "Name another folder" in err


def test_search_reads_the_folder(whole, model, classifier, command):
    text = "this person sounds angry"
    run = ["search", text, whole, "--model", model, "--format", "csv", "--top-k", 3]
    status, out, err = command(*run)
    assert (status, err) == (0, "")
    frame = pd.read_parquet(whole)
    cosines = np.stack(frame["embedding"]) @ classifier.encode_text([text])[0].numpy()
    best = frame["ID"].to_numpy()[np.argsort(-cosines)[:3]].tolist()
    assert [row["ID"] for row in parsed(out)] == best


def test_search_tells_of_parts_that_are_missing(whole, model, tmp_path, command):
    for path in sorted(whole.glob("part-*"))[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    status, _, err = command("search", "so", tmp_path, "--model", model)
    assert status == 0
    assert "only 2 of 6 parts are there" in one_line(err)
    assert "found none" in one_line(command("search", "so", tmp_path / "..", "--model", model)[2])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["{csv}", "--output", "{out}.npy"], "expected a folder"),
        (["{csv}", "{csv}", "--output", "{out}"], "one manifest"),
        (["{csv}", "--output", "{out}", "--shard", "0/2"], "K from 1 to N"),
        (["{csv}", "--output", "{out}", "--shard", "3/2"], "K from 1 to N"),
        (["{csv}", "--output", "{out}", "--actors", "2"], "--actors: goes with --engine ray"),
        (["{csv}", "--output", "{csv}"], "{csv}"),
        (["{csv}", "--output", "{out}"], "--data-root of gemoclap"),
        (["a.wav", "--output", "{out}.npy", "--shard", "1/2"], "--shard: goes with a manifest"),
        (["a.wav", "--output", "{out}.npy", "--data-root", "."], "--data-root: goes with"),
        (["a.wav", "--output", "{out}"], ".npy or .parquet"),
    ],
)
def test_what_does_not_go_together_is_told(given, told, manifest, model, tmp_path, command):
    names = {"csv": manifest, "out": tmp_path / "out"}
    given = [argument.format(**names) for argument in given]
    status, out, err = command("embed", *given, "--model", model)
    assert (status, out) == (2, "")
    assert told.format(**names) in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_installed_names_the_extra(arguments, tmp_path, command, monkeypatch):
    original = importlib.util.find_spec
    run = ["embed", *arguments, "--output", tmp_path / "out", "--engine", "ray"]
    for missing, extra in (("pyarrow", "parquet"), ("ray", "ray")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a, missing=missing: None if name == missing else original(name, *a),
        )
        status, _, err = command(*run)
        assert status == 2
        assert f"pip install 'gemoclap_sb[{extra}]'" in one_line(err)


def test_a_repeated_id_is_named(model, tmp_path, command):
    path = tmp_path / "all.csv"
    path.write_text("ID,wav\na,1.wav\nb,2.wav\na,3.wav\n")
    status, _, err = command("embed", path, "--model", model, "--output", tmp_path / "out")
    assert status == 2
    assert "row 3, ID 'a': duplicate ID" in one_line(err)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(whole, arguments, tmp_path):
    folder = tmp_path / "out"
    run = [*COMMAND, *arguments, "--output", str(folder)]
    process = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.DEVNULL)
    killed_in_the_middle(process, folder)
    assert process.wait() == -signal.SIGKILL
    made = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    again = subprocess.run(run, cwd=ROOT, stderr=subprocess.PIPE, timeout=300)
    assert again.returncode == 1
    assert b"Going on from" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made
    check_same(folder, whole)


@pytest.mark.slow
def test_torchrun_lets_every_process_finish(whole, arguments, tmp_path):
    """One ends with 1 for a broken recording, for which torchrun would stop the other."""
    folder = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m"]
    run = [*launch, *COMMAND[2:], *arguments, "--output", str(folder)]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, timeout=300)
    assert ended.returncode == 1
    check_same(folder, whole)


@pytest.mark.slow
def test_ray_makes_the_same_when_a_worker_is_killed(whole, arguments, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    folder = tmp_path / "out"
    engine = ["--engine", "ray", "--actors", "2", "--device", "cpu"]
    run = [*COMMAND, *arguments, "--output", str(folder), *engine]
    process = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.PIPE)
    killed_in_the_middle(process, folder, Actor(process.pid))
    err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 1, err
    assert err.splitlines()[-1].startswith("1 of 18 recordings failed")
    # Besides what failed and what became of it, that one was killed.
    assert "Traceback" not in err and len(err.splitlines()) < 10
    check_same(folder, whole)


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


class Actor:
    """A worker of the Ray that a process has started."""

    def __init__(self, driver: int) -> None:
        self.driver = driver

    def send_signal(self, number: int) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            # Others come and go meanwhile.
            with contextlib.suppress(OSError):
                is_actor = b"MapWorker" in (path / "cmdline").read_bytes()
                if is_actor and self.driver in ancestors(int(path.name)):
                    os.kill(int(path.name), number)
                    return
        raise AssertionError("no actor was found")
