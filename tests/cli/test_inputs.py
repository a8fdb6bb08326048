"""Recordings that are found, and one that comes in on standard input."""

from __future__ import annotations

import io
import os
import sys
import tempfile

import numpy as np
import pandas as pd
import pytest

from gemoclap_sb.cli import inputs
from gemoclap_sb.data.decoding import FFMPEG_SUFFIXES
from tests.cli.printed import names, one_line, parsed
from tests.run_folders import write_tone


@pytest.fixture
def folder(audio, tmp_path):
    """Two recordings, two that need ffmpeg, a link to a folder and one that cannot be read."""
    folder = tmp_path / "in"
    write_tone(folder / "a.wav", 0.5)
    write_tone(folder / "locked" / "b.wav", 0.5)
    for name in ("c.m4a", "d.WEBM", "notes.txt", ".hidden.m4a"):
        (folder / name).write_bytes(b"")
    (folder / "linked").symlink_to(audio)
    return folder


@pytest.fixture
def locked(monkeypatch):
    """Nobody, whoever runs the tests, can list a folder of this name."""
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.parametrize("ffmpeg", [False, True])
def test_what_is_left_out_of_folders_is_counted(ffmpeg, folder, locked, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "has_ffmpeg", lambda: ffmpeg)
    taken = ["a.wav", "c.m4a", "d.WEBM"] if ffmpeg else ["a.wav"]
    assert inputs.find_audio([folder]) == [str(folder / name) for name in taken]
    locked, told = capsys.readouterr().err.splitlines()
    assert locked == f"folder {folder / 'locked'} cannot be read: Permission denied."
    assert told.startswith("Left out: ") and "1 links to folders" in told
    assert ("1 .m4a, 1 .webm" in told) == (not ffmpeg)
    assert {".m4a", ".webm"} <= set(FFMPEG_SUFFIXES)


@pytest.mark.parametrize("name", ["classify", "embed"])
def test_a_folder_that_cannot_be_read_is_an_input_that_failed(
    name, folder, locked, monkeypatch, command, tmp_path, model
):
    monkeypatch.setattr(inputs, "has_ffmpeg", lambda: False)
    options = ["--output", tmp_path / "x.npy"] if name == "embed" else []
    status, out, err = command(name, folder, "--model", model, *options)
    assert status == 1
    assert "locked cannot be read: Permission denied" in err
    assert "a.wav" in out or np.load(tmp_path / "x.npy").shape[0] == 1


def test_a_folder_of_nothing_else_says_so(folder, locked, monkeypatch):
    monkeypatch.setattr(inputs, "has_ffmpeg", lambda: False)
    (folder / "a.wav").unlink()
    with pytest.raises(inputs.UsageError, match="found none .*need ffmpeg.*1 .m4a"):
        inputs.find_audio([folder])
    with pytest.raises(inputs.UsageError, match="locked cannot be read: Permission denied"):
        inputs.find_audio([folder / "locked"])


def test_names_that_are_not_utf_8_are_found_and_written(model, tmp_path, command, classifier):
    name = os.fsdecode(b"\xff\xfe.wav")
    write_tone(tmp_path / "in" / "a.wav", 0.5)
    os.rename(tmp_path / "in" / "a.wav", tmp_path / "in" / name)
    assert inputs.find_audio([tmp_path / "in"]) == [str(tmp_path / "in" / name)]
    from gemoclap_sb.cli import embedding_files

    target = tmp_path / "x.npy"
    rows = np.eye(2, dtype=np.float32)
    embedding_files.write(target, [([name, "=b"], rows)], 2, 2, "")
    lines = target.with_name("x.ids.csv").read_bytes().splitlines()
    assert [line.partition(b",")[0] for line in lines] == [b"ID", b"\xff\xfe.wav", b"./=b"]
    _, blocks = embedding_files.read(target)
    assert [of for names, _ in blocks for of in names] == [name, "./=b"]


@pytest.fixture
def stdin(monkeypatch):
    def give(content: bytes, is_terminal: bool = False) -> None:
        stream = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
        monkeypatch.setattr(sys, "stdin", stream)

    return give


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def test_standard_input_is_a_recording(audio, model, tmp_path, command, stdin, temporary):
    given, other = names(audio)[0], names(audio)[1]
    with open(given, "rb") as file:
        content = file.read()
    plain = parsed(command("classify", other, given, "--model", model, "--format", "csv")[1])
    stdin(content)
    piped = command("classify", other, "-", "--model", model, "--format", "csv")[1]
    assert parsed(piped) == [plain[0], {**plain[1], "path": "-"}]

    arguments = ["--model", model, "--format", "csv", "--window", 0.4]
    plain = command("timeline", given, *arguments)
    stdin(content)
    assert command("timeline", "-", *arguments) == plain

    for name, path in (("x", given), ("y", "-")):
        stdin(content)
        command("embed", path, "--model", model, "--output", tmp_path / f"{name}.npy")
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert pd.read_csv(tmp_path / "y.ids.csv")["ID"].tolist() == ["-"]


def test_standard_input_that_is_no_recording(model, command, stdin, temporary):
    stdin(b"RIFF of nothing")
    status, out, err = command("classify", "-", "--model", model, "--format", "csv")
    assert status == 1
    assert "standard input" in one_line(err) and str(temporary) not in err + out


@pytest.mark.parametrize("kind", ["empty", "a terminal", "closed", "twice", "endless"])
@pytest.mark.parametrize("name", ["classify", "timeline", "embed"])
def test_standard_input_that_cannot_be(
    kind, name, tmp_path, command, stdin, temporary, monkeypatch
):
    if kind == "twice" and name == "timeline":
        pytest.skip("timeline takes one recording")
    stdin(b"" if kind == "empty" else bytes(100), is_terminal=kind == "a terminal")
    if kind == "closed":
        monkeypatch.setattr(sys, "stdin", None)
    if kind == "endless":
        monkeypatch.setattr(inputs, "_MOST_BYTES", 99)
    arguments = ["-", "-"] if kind == "twice" else ["-"]
    if name == "embed":
        arguments += ["--output", tmp_path / "x.npy"]
    status, out, err = command(name, *arguments, "--model", "none")
    assert (status, out) == (2, "")
    assert one_line(err).startswith(f"gemoclap {name}: -: expected ")
