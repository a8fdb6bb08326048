"""Outputs that cannot be written: found before the work, one line, 2."""

from __future__ import annotations

import io
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.cli.printed import names, one_line


@pytest.fixture
def no_work(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(GEmoCLAPClassifier, "from_pretrained", load)


@pytest.mark.parametrize("where", ["/proc/x", "{a file}/x", "{a file}/x/y", "{a folder}"])
@pytest.mark.parametrize("name", ["embed", "timeline", "evaluate", "plot", "export"])
def test_found_before_the_work(name, where, model, run, audio, tmp_path, command, no_work):
    suffix = {"embed": ".npy", "timeline": ".png"}.get(name, "")
    file, folder = tmp_path / "file", tmp_path / f"folder{suffix}"
    file.touch()
    folder.mkdir()
    target = where.replace("{a file}", str(file)).replace("{a folder}", str(folder))
    target += suffix if "folder" not in where else ""
    if where == "{a folder}" and not suffix:
        target = str(file)
    arguments = {
        "embed": [audio, "--model", model, "--output", target],
        "timeline": [audio / "b.wav", "--model", model, "--output", target],
        "evaluate": ["none.csv", "--model", model, "--output", target],
        "plot": [run, "--output", target],
        "export": [run, target],
    }[name]
    status, out, err = command(name, *arguments)
    assert (status, out) == (2, "")
    assert one_line(err).startswith(f"gemoclap {name}: ")
    assert ("OUT: " if name == "export" else "--output: ") in err
    assert sorted(tmp_path.iterdir()) == [file, folder]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_replaced(there, model, audio, tmp_path, command, no_work):
    """Neither that of the embeddings nor that of their names."""
    target = tmp_path / "target"
    if there:
        target.write_bytes(b"mine")
    for link in ("x.npy", "x.ids.csv"):
        (tmp_path / link).symlink_to(target)
        arguments = ["embed", audio, "--model", model, "--output", tmp_path / "x.npy"]
        status, _, err = command(*arguments)
        assert status == 2
        assert f"{link} is a link, which would be replaced. Name {target}." in one_line(err)
        assert (tmp_path / link).is_symlink() and target.exists() == there
        (tmp_path / link).unlink()


@pytest.mark.parametrize("name", ["x.ids.csv", ".x.npy.parts"])
def test_what_lies_where_a_second_file_goes(name, model, audio, tmp_path, command):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").touch()
    arguments = ["embed", audio, "--model", model, "--output", tmp_path / "x.npy"]
    status, _, err = command(*arguments)
    assert status == 2
    assert name in one_line(err)
    assert (tmp_path / name / "mine.txt").exists()


def test_the_three_files_of_evaluate(model, tmp_path, command, no_work):
    (tmp_path / "confusion.png").mkdir()
    status, _, err = command("evaluate", "none.csv", "--model", model, "--output", tmp_path)
    assert status == 2
    assert "confusion.png" in one_line(err)


@pytest.mark.parametrize("kind", ["full", "closed", "for reading"])
def test_standard_output(kind, model, audio, command, no_work, monkeypatch):
    stream = None
    if kind != "closed":
        path, flags = {"full": ("/dev/full", os.O_WRONLY), "for reading": ("/dev/null", 0)}[kind]
        stream = io.TextIOWrapper(os.fdopen(os.open(path, flags), "wb"))
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, err = command("classify", audio, "--model", model)
    assert status == 2
    assert "standard output" in one_line(err)


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize("arguments", [["--help"], ["classify", "--help"], ["--version"]])
def test_help_that_cannot_be_printed(arguments, is_buffered, command, monkeypatch):
    file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=-1 if is_buffered else 0)
    stream = io.TextIOWrapper(file, write_through=not is_buffered)
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, err = command(*arguments)
    assert status == 2
    assert one_line(err) == "gemoclap: standard output cannot be written: No space left on device."


def test_embed_needs_no_standard_output(model, audio, tmp_path, command, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    target = tmp_path / "x.npy"
    assert command("embed", audio, "--model", model, "--output", target)[0] == 0
    assert len(np.load(target)) == 3


def test_without_standard_error_messages_are_no_data(model, audio, broken, command, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    status, out, _ = command("classify", audio / "b.wav", broken, "--model", model)
    assert status == 1
    assert len(out.splitlines()) == 3


@pytest.fixture
def small_disk():
    """No file grows beyond some bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_below_the_picture(model, audio, tmp_path, command, small_disk):
    arguments = ["timeline", audio / "b.wav", "--model", model, "--output", tmp_path / "x.png"]
    expected = command(*arguments)[1]
    (tmp_path / "x.png").unlink()
    small_disk(8192)
    status, out, err = command(*arguments)
    assert status == 2
    assert "x.png cannot be written: File too large" in one_line(err)
    assert out == expected
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_below_the_result(
    model, audio, tmp_path, command, small_disk, monkeypatch
):
    """The pieces stay, and the next run goes on from them."""
    target = tmp_path / "x.npy"
    monkeypatch.setattr("gemoclap_sb.cli.pieces.MOST_FILES", 1)
    arguments = ["embed", audio, "--model", model, "--output", target]
    # Each of the three pieces fits, the whole does not: 96 bytes a row besides the names.
    monkeypatch.setattr("gemoclap_sb.cli.embedding_files.csv_rows", _filling)
    status, _, err = command(*arguments)
    assert status == 2
    assert "x.npy cannot be written: No space left on device" in one_line(err)
    assert [path.name for path in tmp_path.iterdir()] == [".x.npy.parts"]
    monkeypatch.undo()
    monkeypatch.setattr("gemoclap_sb.cli.pieces.MOST_FILES", 1)
    monkeypatch.setattr(GEmoCLAPClassifier, "encode_files", None)
    assert command(*arguments)[0] == 0
    assert len(np.load(target)) == 3


def _filling(*_):
    raise OSError(28, "No space left on device")


def test_standard_output_that_fills_up(model, audio, tmp_path, command, small_disk, monkeypatch):
    out = (tmp_path / "out.txt").open("w")
    monkeypatch.setattr(sys, "stdout", out)
    small_disk(40)
    status, _, err = command("classify", names(audio)[0], "--model", model, "--format", "csv")
    assert status == 2
    assert "standard output cannot be written: File too large" in one_line(err)
    out.close()


def test_a_long_name_is_written(model, audio, tmp_path, command):
    target = tmp_path / f"{'x' * 240}.npy"
    assert command("embed", audio, "--model", model, "--output", target)[0] == 0
    status, _, err = command("embed", audio, "--model", model, "--output", f"{'x' * 300}.npy")
    assert status == 2
    assert "File name too long" in one_line(err)
    assert Path(target).exists()


def test_what_is_read_is_not_written_over(audio, model, tmp_path, command):
    """A recording, under another spelling of its name, and a manifest."""
    recording = tmp_path / "a.png"
    recording.write_bytes((audio / "b.wav").read_bytes())
    manifest = tmp_path / "predictions.csv"
    manifest.write_text(f"ID,wav,emotion\na,{audio / 'b.wav'},ang\n")
    odd = tmp_path / "b.npy"
    odd.write_bytes(recording.read_bytes())
    for arguments in (
        ["timeline", recording, "--output", f"{tmp_path}/./a.png"],
        ["evaluate", manifest, "--output", tmp_path],
        ["embed", audio / "b.wav", odd, "--output", odd],
    ):
        status, out, err = command(*arguments, "--model", model)
        assert (status, out) == (2, "")
        assert "is what is read, and would be lost. Name another." in one_line(err)
    assert recording.read_bytes() == odd.read_bytes() == (audio / "b.wav").read_bytes()
    assert manifest.read_text().startswith("ID,wav,emotion")
