"""Names that are no audio file: each an error at once, in one line."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import numpy as np
import pytest
import soundfile

from gemoclap_sb.data.audio import AudioError, AudioReader, read_audio
from gemoclap_sb.data.opening import shown
from gemoclap_sb.inference.bulk import read_recording

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's kinds of files")
WAVE = np.linspace(-0.5, 0.5, 8000)


@contextlib.contextmanager
def nobody():
    """Without the rights of root, which may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def refused(path):
    """What is said of a path; a reader that waited would hang the thread."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(read_recording(path, 16000, 960000)), daemon=True
    )
    thread.start()
    thread.join(5)
    assert found, "still waiting"
    assert found[0].path == os.fsdecode(path)
    assert found[0].error is not None and found[0].error.isprintable()
    return found[0].error


def test_kinds_of_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.wav"))
        assert refused(tmp_path / "s.wav") == f"{tmp_path / 's.wav'} is a socket; expected an " \
            "audio file."  # fmt: skip
    os.symlink(tmp_path / "fifo.wav", tmp_path / "link.wav")
    assert "fifo.wav is a pipe; expected" in refused(tmp_path / "fifo.wav")
    assert "link.wav is a pipe; expected" in refused(tmp_path / "link.wav")
    assert "/dev/zero is a device; expected" in refused("/dev/zero")
    assert "is a folder; expected" in refused(tmp_path)


def test_links_that_lead_nowhere(tmp_path):
    os.symlink("no\x1bwhere", tmp_path / "broken.wav")
    said = refused(tmp_path / "broken.wav")
    assert said.endswith(r"broken.wav is missing: it is a link to no\x1bwhere, where nothing is.")
    os.symlink("circle.wav", tmp_path / "circle.wav")
    assert "circle.wav cannot be opened: Too many levels of symbolic links." in refused(
        tmp_path / "circle.wav"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 300, "cannot be opened: File name too long."),
        ("a" + "/a" * 3000, "cannot be opened: File name too long."),
        ("a\0b.wav", r"a\x00b.wav cannot be opened: its name holds a byte of zero."),
        ("", "is a folder"),
        ("a\nb\x1b[31m.wav", r"a\nb\x1b[31m.wav is missing."),
        ("text.wav/a.wav", "cannot be opened: Not a directory."),
    ],
)
def test_names_that_no_file_can_have(tmp_path, name, said):
    (tmp_path / "text.wav").write_text("text")
    assert said in refused(os.path.join(tmp_path, name))


def test_an_address_is_no_file():
    said = "is missing: no address is opened here. Download it first."
    assert said in refused("https://example.org/a.wav")


def test_what_may_not_be_read(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    for path in (tmp_path / "locked.wav", folder / "a.wav"):
        soundfile.write(path, WAVE, 16000)
    (tmp_path / "locked.wav").chmod(0)
    folder.chmod(0)
    try:
        with nobody():
            assert "cannot be opened: Permission denied." in refused(tmp_path / "locked.wav")
            assert "cannot be opened: Permission denied." in refused(folder / "a.wav")
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(sys.platform == "darwin", reason="whose names are UTF-8")
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"\xff\xfe.flac", b"-\x80 .ogg"])
def test_names_that_are_no_utf8_are_read(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    good = tmp_path / ("good." + name.decode("latin-1").rpartition(".")[2])
    soundfile.write(good, WAVE, 16000)
    os.rename(good, path)
    for given in (path, os.fsdecode(path)):
        np.testing.assert_allclose(read_audio(given).numpy(), WAVE, atol=0.05)
    found = read_recording(path, 16000, 960000)
    assert found.error is None and found.path == os.fsdecode(path)
    # And when they hold no audio, they are named with what a terminal shows.
    with open(path, "wb") as file:
        file.write(b"no audio")
    assert shown(os.fsdecode(path)) in refused(path)
    assert shown(os.fsdecode(path)).encode().isascii()


def test_a_file_that_cannot_be_used_is_closed_again(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), 16000)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    for _ in range(3):
        with pytest.raises(AudioError, match="zero-length"):
            AudioReader(path)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
