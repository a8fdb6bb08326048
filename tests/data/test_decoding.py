"""ffmpeg, played by a script of that name which notes how it was called."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
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
    shown = source.replace("\\x1b", "?")
    print("first line\\n" + shown + ": Invalid data found when processing input", file=sys.stderr)
    sys.exit(1)
if b"mute" in said:
    print("Output file #0 does not contain any stream", file=sys.stderr)
    sys.exit(1)
if b"place" in said:
    print("[wmav2 @ 0x55eb373f5500] packet too small", file=sys.stderr)
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
        (b"bad", "is unreadable: ffmpeg: Invalid data found when processing input. It is damaged"),
        (b"cut", "is unreadable: ffmpeg: File ended prematurely at pos. 7"),
        (b"silent", "is unreadable: ffmpeg: exit code 3"),
        (b"mute", "is unreadable: it holds no sound. Expected a recording, or a video with s"),
        (b"place", "is unreadable: ffmpeg: packet too small. .* neither libsndfile nor ffmpeg dec"),
    ],
)
@pytest.mark.parametrize("name", ["a.m4a", "line\nend\x1b[31m.m4a"])
def test_what_ffmpeg_says_is_the_error(ffmpeg, tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=said) as caught:
        read_audio(tmp_path / name)
    assert str(caught.value).isprintable()


def test_no_room_for_the_sound_is_told(ffmpeg, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.m4a").write_bytes(b"some other format")
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(AudioError, match="cannot be kept: .*No space left on device. Free room"):
        read_audio(tmp_path / "a.m4a")
    # ffmpeg ends with an error, and says nothing.
    monkeypatch.undo()
    (tmp_path / "a.m4a").write_bytes(b"silent")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    files = [tempfile.TemporaryFile(), open("/dev/full", "w+b", buffering=0)]  # noqa: SIM115
    monkeypatch.setattr("tempfile.TemporaryFile", files.pop)
    with pytest.raises(AudioError, match="cannot be kept: .*No space left on device. Free room"):
        read_audio(tmp_path / "a.m4a")


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
    with pytest.raises(AudioError, match="longer than 40000 bytes of WAV. Cut it.$"):
        read_audio(tmp_path / "a.m4a")


real_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
# Half a second of stereo.
_NOISE = np.random.default_rng(0).integers(-9000, 9000, (22050, 2)).astype(np.int16)


def made(path, *options):
    """A file of ffmpeg's own making."""
    soundfile.write(path.with_name("noise.wav"), _NOISE, 44100)
    command = ["ffmpeg", "-v", "error", "-y", "-i", path.with_name("noise.wav"), *options, path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@real_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", "-c:a alac -f ipod"),
        ("-i %d.m4a", "-c:a alac -f ipod"),
        ("line\nend.tta", "-f tta"),
        ("a.mkv", "-f lavfi -i testsrc=d=0.5 -c:a pcm_s16le -f matroska"),
    ],
)
def test_ffmpeg_gives_the_samples_that_were_there(tmp_path, name, options):
    path = made(tmp_path / "made", *options.split()).rename(tmp_path / name)
    assert torch.equal(read_audio(path, 44100), read_audio(tmp_path / "noise.wav", 44100))


@real_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.wma", "a.avi", "a.flv", "a.mka"])
def test_what_was_cut_is_no_whole_file(tmp_path, name):
    path = made(tmp_path / name, "-strict", "-2")
    content = path.read_bytes()
    for tenths in range(1, 10):
        path.write_bytes(content[: len(content) * tenths // 10])
        with pytest.raises(AudioError, match="ends early|is unreadable: ffmpeg: "):
            read_audio(path)


@real_ffmpeg
def test_a_video_without_sound(tmp_path):
    path = made(tmp_path / "a.mp4", "-f", "lavfi", "-i", "testsrc=d=0.5", "-map", "1")
    with pytest.raises(AudioError, match="it holds no sound. Expected a recording, or a video wi"):
        read_audio(path)


@real_ffmpeg
def test_no_other_file_is_opened(tmp_path):
    other = made(tmp_path / "other.ts", "-c:a", "mp2")
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{other.name}'\n",
        "svg": f'<svg xmlns:x="http://www.w3.org/1999/xlink"><image x:href="file://{other}"/></svg>',
        "asx": f"[Reference]\nRef1=file://{other}\n",
    }
    for name, content in lists.items():
        (tmp_path / f"{name}.m4a").write_text(content)
        with pytest.raises(AudioError, match="is unreadable: ffmpeg: "):
            read_audio(tmp_path / f"{name}.m4a")


@real_ffmpeg
def test_a_movie_whose_sound_lies_in_another_file(tmp_path):
    movie = made(tmp_path / "a.mov", "-c:a", "pcm_s16le").read_bytes()
    (tmp_path / "other").write_bytes(movie)
    # An alias of QuickTime, by the path of what it stands for, in place of `here`.
    path = os.fsencode(tmp_path / "other")
    alias = bytearray(150)
    alias[4:6], alias[10], alias[11:15], alias[50] = (150).to_bytes(2), 4, b"disk", 5
    alias[51:56], alias[130:134] = b"other", b"\0\1\0\1"
    alias += bytes([0, 2, *len(path).to_bytes(2)]) + path + bytes(len(path) % 2) + b"\xff\xff\0\0"
    entry = (len(alias) + 12).to_bytes(4) + b"alis" + bytes(4) + alias
    table = (len(entry) + 16).to_bytes(4) + b"dref" + bytes(7) + b"\1" + entry
    here = bytes([0, 0, 0, 28]) + b"dref" + bytes(7) + b"\1" + bytes([0, 0, 0, 12])
    at, moved = movie.index(here), movie.replace(movie[movie.index(here) :][:28], table)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = movie.rindex(name, 0, at) - 4
        size = int.from_bytes(movie[place : place + 4]) + len(table) - 28
        moved = moved[:place] + size.to_bytes(4) + moved[place + 4 :]
    (tmp_path / "a.m4a").write_bytes(moved)
    followed = ["ffmpeg", "-v", "error", "-enable_drefs", "1", "-i", tmp_path / "a.m4a"]
    wav = subprocess.run([*followed, "-f", "s16le", "-"], capture_output=True, check=False).stdout
    assert wav == _NOISE.tobytes()
    with pytest.raises(AudioError):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.slow
def test_neither_torch_nor_soundfile_is_imported():
    script = "import sys, gemoclap_sb.data.decoding; print({'torch', 'soundfile'} & {*sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "set()"
