"""`gemoclap embed` interrupted, and given again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gemoclap_sb.cli import pieces
from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.run_folders import write_tone


@pytest.fixture
def recordings(tmp_path, monkeypatch) -> Path:
    """Nine recordings, of which the third is none, in pieces of two."""
    monkeypatch.setattr(pieces, "MOST_FILES", 2)
    for i in range(9):
        write_tone(tmp_path / f"in/{i}.wav", 0.3 + 0.1 * i, 100 + 50 * i)
    (tmp_path / "in/2.wav").write_bytes(b"nothing")
    return tmp_path / "in"


@pytest.fixture
def interrupted(monkeypatch):
    """Stop the work at a recording; give the paths that were embedded."""
    original = GEmoCLAPClassifier.encode_files
    done = []

    def encode_files(self, paths, **options):
        for row in original(self, paths, **options):
            if encode_files.stop_at is not None and row.path.endswith(encode_files.stop_at):
                raise encode_files.error
            done.append(Path(row.path).name)
            yield row

    encode_files.error, encode_files.stop_at, encode_files.done = KeyboardInterrupt, None, done
    monkeypatch.setattr(GEmoCLAPClassifier, "encode_files", encode_files)
    return encode_files


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_the_result_is_that_of_an_uninterrupted_run(
    suffix, recordings, model, tmp_path, command, interrupted
):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    arguments = ["embed", recordings, "--model", model, "--output"]
    whole = command(*arguments, tmp_path / f"whole/x{suffix}")
    target = tmp_path / f"parts/x{suffix}"
    interrupted.stop_at = "7.wav"
    assert command(*arguments, target)[0] == 130
    assert [path.name for path in target.parent.iterdir()] == [f".x{suffix}.parts"]

    interrupted.done.clear()
    interrupted.stop_at = None
    status, out, err = command(*arguments, target)
    assert (status, out) == (1, "")
    assert interrupted.done == ["6.wav", "7.wav", "8.wav"]
    assert "Going on from 6 recordings" in err
    # What could not be read is told again.
    assert "2.wav" in err and "2.wav" in whole[2]
    assert contents(target.parent) == contents(tmp_path / "whole")
    assert sorted(tmp_path.glob("*/.*")) == []


def test_np_save_would_have_written_the_same(recordings, model, tmp_path, command):
    target = tmp_path / "x.npy"
    command("embed", recordings, "--model", model, "--output", target)
    np.save(tmp_path / "y.npy", np.load(target))
    assert target.read_bytes() == (tmp_path / "y.npy").read_bytes()


@pytest.mark.parametrize("changed", ["recording", "settings", "damaged"])
def test_pieces_of_something_else_are_made_anew(
    changed, recordings, model, tmp_path, command, interrupted
):
    target, expected = tmp_path / "x.npy", tmp_path / "y.npy"
    arguments = ["embed", recordings, "--model", model]
    interrupted.stop_at = "5.wav"
    command(*arguments, "--output", target)
    interrupted.stop_at = None
    interrupted.done.clear()
    held = sorted((tmp_path / ".x.npy.parts").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert len(held) == 2
    if changed == "recording":
        write_tone(recordings / "0.wav", 0.9, 300)
    elif changed == "damaged":
        held[0].write_bytes(held[0].read_bytes()[:-40])
    else:
        arguments += ["--batch-size", 3]
    _, _, err = command(*arguments, "--output", target)
    assert len(interrupted.done) == {"recording": 7, "damaged": 7, "settings": 9}[changed]
    assert ("Begun anew" in err) == (changed == "settings")
    command(*arguments, "--output", expected)
    assert target.read_bytes() == expected.read_bytes()


def test_another_model_takes_nothing(recordings, model, exported, tmp_path, command, interrupted):
    target = tmp_path / "x.npy"
    interrupted.stop_at = "5.wav"
    command("embed", recordings, "--model", model, "--output", target)
    interrupted.stop_at = None
    interrupted.done.clear()
    other = exported["pretrained"]
    _, _, err = command("embed", recordings, "--model", other, "--output", target)
    assert "Begun anew" in err
    assert len(interrupted.done) == 9


def test_memory_that_does_not_suffice_names_the_option(
    recordings, model, tmp_path, command, interrupted
):
    interrupted.stop_at = "5.wav"
    interrupted.error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore")
    arguments = ["--model", model, "--output", tmp_path / "x.npy"]
    status, _, err = command("embed", recordings, *arguments)
    assert status == 2
    assert "not enough memory" in err and "Lower --batch-size (now auto)" in err
    assert len(list((tmp_path / ".x.npy.parts").iterdir())) == 2
