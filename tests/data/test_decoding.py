"""ffmpeg, played by a script of that name which notes how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gemoclap_sb.data.audio import AudioError, AudioReader, check_audio, read_audio
from gemoclap_sb.data.decoding import FFMPEG_SUFFIXES, DecodingError, decode, has_ffmpeg
from gemoclap_sb.inference.bulk import read_recording
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
# Half a second of a ramp at 22,050 Hz in two channels, as ffmpeg writes it into a pipe.
_SCRIPT = """#!{python} -S
import array, json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as file:
    file.write(json.dumps([sys.argv[1:], os.getpid()]) + "\\n")
source = sys.argv[sys.argv.index("-i") + 1]
assert source.startswith("file:/"), source
with open(source[5:], "rb") as file:
    said = file.read()
if b"slow" in said:
    time.sleep(30)
if b"bad" in said:
    print("first line\\n" + source + ": Invalid data found when processing input", file=sys.stderr)
    sys.exit(1)
if b"cut" in said:
    print("File ended prematurely at pos. 7", file=sys.stderr)
if b"silent" in said:
    sys.exit(3)
ramp = array.array("h", [value for i in range(11025) for value in (i, i // 2)])
size = (2**32 - 1).to_bytes(4, "little")
rate, each = (22050).to_bytes(4, "little"), (88200).to_bytes(4, "little")
fmt = bytes([16, 0, 0, 0, 1, 0, 2, 0]) + rate + each + bytes([4, 0, 16, 0])
sys.stdout.buffer.write(b"RIFF" + size + b"WAVEfmt " + fmt + b"data" + size + ramp.tobytes())
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Put the script on the path; gives the calls that it noted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text(_SCRIPT.format(python=sys.executable))
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def calls():
        path = folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return calls


@pytest.fixture
def no_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


def expected():
    ramp = np.arange(11025)
    return torch.from_numpy((np.stack([ramp, ramp // 2]).mean(axis=0) / 32768).astype(np.float32))


@pytest.mark.parametrize("name", ["a.m4a", "-i.webm", "concat:a|b.mp4", "a.txt", "with space.wma"])
def test_what_libsndfile_does_not_know_is_decoded(ffmpeg, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"some other format")
    assert has_ffmpeg()
    monkeypatch.chdir(tmp_path)
    with AudioReader(name) as audio:
        assert (audio.info.sample_rate, audio.info.num_channels) == (22050, 2)
        assert audio.is_copy
        torch.testing.assert_close(audio.read(), expected(), rtol=0, atol=1e-6)
        torch.testing.assert_close(audio.read(50, 90), expected()[50:90], rtol=0, atol=1e-6)
    assert check_audio(tmp_path / name, decode=True).duration == 0.5
    found = read_recording(tmp_path / name, 16000, 960000)
    torch.testing.assert_close(found.wav, read_audio(tmp_path / name), rtol=0, atol=0)
    command, _ = ffmpeg()[0]
    assert command[command.index("-i") + 1] == f"file:{tmp_path / name}"
    # Neither an address nor a playlist is followed, wherever it stands in a file.
    assert command[command.index("-protocol_whitelist") + 1] == "file,pipe"
    demuxers = command[command.index("-format_whitelist") + 1].split(",")
    assert not {"concat", "hls", "dash", "sdp", "image2"} & set(demuxers)
    assert command.index("-format_whitelist") < command.index("-i")
    assert "-nostdin" in command


def test_what_libsndfile_reads_is_left_to_it(ffmpeg, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    read_audio(tmp_path / "a.wav")
    assert ffmpeg() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"bad", "is unreadable: ffmpeg: file:.* Invalid data found when processing input"),
        (b"cut", "is unreadable: ffmpeg: File ended prematurely at pos. 7"),
        (b"silent", "is unreadable: ffmpeg: exit code 3"),
    ],
)
def test_what_ffmpeg_says_is_the_error(ffmpeg, tmp_path, content, said):
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(AudioError, match=said) as caught:
        read_audio(tmp_path / "a.m4a")
    assert "\n" not in str(caught.value)


def test_without_ffmpeg_the_error_says_what_would_do(no_ffmpeg, tmp_path):
    for suffix in FFMPEG_SUFFIXES:
        (tmp_path / f"a{suffix}").write_bytes(b"some other format")
        with pytest.raises(AudioError, match="install ffmpeg, or convert it to WAV or FLAC"):
            AudioReader(tmp_path / f"a{suffix}")
    (tmp_path / "a.wav").write_bytes(b"some other format")
    with pytest.raises(AudioError, match="convert it to WAV or FLAC") as caught:
        AudioReader(tmp_path / "a.wav")
    assert "install" not in str(caught.value)
    assert not has_ffmpeg()
    with pytest.raises(DecodingError, match="not installed"):
        decode(tmp_path / "a.wav")


def test_no_ffmpeg_is_left_when_nobody_waits(ffmpeg, tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"slow")
    stopped = threading.Event()
    timer = threading.Timer(0.5, stopped.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(AudioError, match="decoding was stopped"):
        AudioReader(tmp_path / "a.m4a", is_stopped=stopped.is_set)
    assert time.monotonic() - began < 2
    for _, process in ffmpeg():
        assert not Path("/proc", str(process)).exists()


def test_more_than_a_disk_should_hold_is_an_error(ffmpeg, tmp_path, monkeypatch):
    monkeypatch.setattr("gemoclap_sb.data.decoding._MOST_BYTES", 40000)
    (tmp_path / "a.m4a").write_bytes(b"long")
    with pytest.raises(AudioError, match="longer than 40000 bytes of WAV; cut it"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.slow
def test_neither_torch_nor_soundfile_is_imported():
    script = "import sys, gemoclap_sb.data.decoding; print({'torch', 'soundfile'} & {*sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "set()"
