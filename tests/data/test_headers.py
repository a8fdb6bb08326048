"""Headers written by libsndfile, whole, cut, forged and piped."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.audio import AudioError, AudioReader, check_audio, read_audio
from gemoclap_sb.data.headers import cut_short
from gemoclap_sb.inference.bulk import read_recording

RATE, SECONDS = 16000, 2.0
WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, int(RATE * SECONDS))
# Format, subtype, bytes of audio.
KINDS = {
    "wav": ("WAV", "PCM_16", 64000),
    "wavex": ("WAVEX", "PCM_24", 96000),
    "adpcm": ("WAV", "MS_ADPCM", None),
    "rifx": ("WAV", "PCM_16", 64000),
    "rf64": ("RF64", "FLOAT", 128000),
    "w64": ("W64", "PCM_16", 64000),
    "aiff": ("AIFF", "PCM_16", 64008),
    "au": ("AU", "PCM_16", 64000),
    "caf": ("CAF", "PCM_16", 64004),
    "sph": ("NIST", "PCM_16", 64000),
    "ogg": ("OGG", "VORBIS", None),
    "opus": ("OGG", "OPUS", None),
    "mp3": ("MP3", "MPEG_LAYER_III", None),
    "flac": ("FLAC", "PCM_16", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind, (format, subtype, _) in KINDS.items():
        endian = "BIG" if kind == "rifx" else "FILE"
        soundfile.write(folder / kind, WAVE, RATE, subtype, endian, format)
    return {kind: (folder / kind).read_bytes() for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_holds_what_it_promises(written, tmp_path, kind):
    data = written[kind]
    assert cut_short(io.BytesIO(data)) is None
    if (stated := KINDS[kind][2]) is not None:
        # The sound stands at the end.
        kept = stated - stated // 2
        assert cut_short(io.BytesIO(data[: -(stated // 2)])) == (stated, kept)
    path = tmp_path / f"a.{kind}"
    # Bytes after the sound are no sound.
    path.write_bytes(data + (b"\0" * 500 if kind not in ("mp3", "flac") else b""))
    assert len(read_audio(path)) == pytest.approx(RATE * SECONDS, abs=1200)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_is_an_error(written, tmp_path, kind, share):
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(written[kind][: int(share * len(written[kind]))])
    with pytest.raises(AudioError, match="ends early|is unreadable") as caught:
        check_audio(path, decode=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind != "flac":
        assert "ends early" in str(caught.value)
    if kind in ("wav", "w64", "rf64", "aiff", "au"):
        # The header alone tells, and how much.
        with pytest.raises(AudioError, match=rf"\(2\.00 s and {2 * share:.1f}"):
            AudioReader(path)


@pytest.mark.parametrize("stated", [0xFFFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFD8])
def test_what_was_written_to_a_pipe_is_taken_as_it_is(written, tmp_path, stated):
    data = bytearray(written["wav"])
    data[4:8] = data[40:44] = struct.pack("<I", stated)
    path = tmp_path / "piped.wav"
    path.write_bytes(data[: 44 + 2 * 10000])
    np.testing.assert_allclose(read_audio(path).numpy(), WAVE[:10000], atol=1e-4)


@pytest.mark.parametrize("kind", ["wav", "wavex"])
def test_a_recorder_that_was_not_closed_left_what_it_left(written, tmp_path, kind):
    data = bytearray(written[kind])
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = bytes(4)
    path = tmp_path / "unclosed.wav"
    path.write_bytes(data)
    np.testing.assert_allclose(read_audio(path).numpy(), WAVE, atol=1e-4)
    with AudioReader(path, 8000) as audio:
        whole = audio.read()
        torch.testing.assert_close(audio.read(900, 1900), whole[900:1900], rtol=0, atol=1e-6)
    # Notes on nothing are no sound.
    path.write_bytes(data[: at + 4] + b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(AudioError, match=r"unclosed\.wav is zero-length"):
        AudioReader(path)


def test_metadata_before_and_after_the_sound_are_no_matter(written, tmp_path):
    data = written["wav"]
    note = b"LIST" + struct.pack("<I", 5) + b"INFO!\0"
    path = tmp_path / "notes.wav"
    path.write_bytes(data[:36] + note + data[36:] + note)
    np.testing.assert_allclose(read_audio(path).numpy(), WAVE, atol=1e-4)
    # A note that was cut leaves the sound whole.
    path.write_bytes(data[:36] + note + data[36:] + note[:-4])
    assert len(read_audio(path)) == len(WAVE)


def forged(data, rate=RATE, channels=1):
    data = bytearray(data)
    data[22:24] = struct.pack("<H", channels)
    data[24:28] = struct.pack("<I", rate)
    data[32:34] = struct.pack("<H", 2 * channels & 0xFFFF)
    return data


@pytest.mark.parametrize("rate", [0, 1, 8, 999, 10_000_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_rate_that_no_recorder_has_is_an_error(written, tmp_path, rate):
    path = tmp_path / "rate.wav"
    path.write_bytes(forged(written["wav"], rate=rate))
    with pytest.raises(AudioError, match="sample rate of|is unreadable"):
        AudioReader(path)


@pytest.mark.parametrize("channels", [0, 1025, 65535])
def test_a_number_of_channels_that_nobody_has_is_an_error(written, tmp_path, channels):
    path = tmp_path / "channels.wav"
    path.write_bytes(forged(written["wav"], channels=channels))
    with pytest.raises(AudioError, match="is unreadable"):
        AudioReader(path)


def test_a_length_that_the_file_cannot_hold_is_an_error(written, tmp_path):
    data = bytearray(written["flac"])
    data[21] |= 0x0F
    path = tmp_path / "long.flac"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"long\.flac states .* which its .* bytes cannot hold"):
        AudioReader(path)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(set(KINDS) - {"opus"})),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, 3000)),
)
def test_no_header_breaks_the_reader(written, tmp_path_factory, kind, changes, length):
    data = bytearray(written[kind][:8000])
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data if length is None else data[:length])
    found = read_recording(path, RATE, 60 * RATE)
    if found.error is not None:
        assert str(path) in found.error
        assert "cannot be read" not in found.error, "no AudioError"
    elif found.reader is not None:
        assert found.reader.num_samples > 60 * RATE
        found.reader.close()
    else:
        assert np.isfinite(found.wav.numpy()).all()


def asf(size):
    """The beginning of a WMA: its header, and in it the object that states the file's size."""
    start = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(14)
    return start + bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + bytes(24) + size


@pytest.mark.parametrize(
    "start",
    [
        b"RIFF" + (992).to_bytes(4, "little") + b"AVI LIST",
        asf((1000).to_bytes(8, "little")),
        b"FLV\x01" + bytes(30) + b"\0\x08filesize\0" + struct.pack(">d", 1000),
    ],
)
def test_containers_that_ffmpeg_takes_for_whole(start):
    assert cut_short(io.BytesIO(start.ljust(1000, b"\0"))) is None
    promised, held = cut_short(io.BytesIO(start.ljust(500, b"\0")))
    assert promised - held == 500


@pytest.mark.parametrize(
    "start",
    [
        b"RIFF" + bytes([255] * 4) + b"AVI LIST",
        asf(bytes(8)),
        b"FLV\x01" + bytes(30) + b"\0\x08filesize\0" + struct.pack(">d", float("nan")),
        b"FLV\x01" + bytes(30) + b"\0\x08filesize\0",
        b"FLV\x01",
    ],
)
def test_containers_that_state_no_size(start):
    assert cut_short(io.BytesIO(start)) is None
