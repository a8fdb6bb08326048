import math

import numpy as np
import pytest
import soundfile
import torch

from gemoclap_sb.data.audio import (
    AudioError,
    AudioReader,
    audio_info,
    check_audio,
    read_audio,
)


def tone(frequency, sample_rate, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate)


@pytest.fixture
def truncated_flac(tmp_path):
    """A FLAC file cut in the middle: its header is whole, its samples are not."""
    path = tmp_path / "cut.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    soundfile.write(path, noise, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "FLOAT", 1e-7),
        ("a.flac", "PCM_16", 1e-4),
        ("a.aiff", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats(tmp_path, name, subtype, tolerance):
    wave = tone(300, 16000)
    soundfile.write(tmp_path / name, wave, 16000, subtype=subtype)
    info = audio_info(tmp_path / name)
    assert (info.sample_rate, info.num_channels, info.subtype) == (16000, 1, subtype)
    assert info.num_frames == len(wave)
    assert info.duration == 0.5
    read = read_audio(tmp_path / name)
    assert read.dtype == torch.float32
    assert read.shape == (8000,)
    # Lossy codecs ring at the ends.
    np.testing.assert_allclose(read.numpy()[800:-800], wave[800:-800], atol=tolerance)


def test_info_comes_from_the_header_alone(truncated_flac):
    assert audio_info(truncated_flac).num_frames == 32000


def test_channels_are_averaged(tmp_path):
    channels = np.random.default_rng(1).uniform(-1, 1, (1000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels, 16000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(read.numpy(), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("source_rate", [8000, 11025, 22050, 44100, 48000])
def test_resampled_tone_is_the_tone_at_the_new_rate(tmp_path, source_rate):
    soundfile.write(tmp_path / "a.wav", tone(440, source_rate), source_rate, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav").numpy()
    expected = tone(440, 16000)
    assert abs(len(read) - len(expected)) <= 2
    middle = slice(1000, 7000)
    np.testing.assert_allclose(read[middle], expected[middle], atol=2e-3)


def test_resampling_removes_what_lies_above_the_new_nyquist_frequency(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(12000, 48000), 48000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav").numpy()
    assert np.abs(read[1000:7000]).max() < 0.005


def test_sample_rate_of_the_result_can_be_chosen(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, 16000), 16000)
    assert read_audio(tmp_path / "a.wav", sample_rate=8000).shape == (4000,)


def write_noise(path, rate, frames, channels=1):
    noise = np.random.default_rng(rate).uniform(-0.9, 0.9, (frames, channels))
    soundfile.write(path, noise, rate, subtype=None if path.suffix != ".wav" else "FLOAT")
    return path


@pytest.mark.parametrize("seconds", [0.003, 0.37, 100.0])
@pytest.mark.parametrize(
    ("rate", "frames", "channels"),
    [(16000, 20011, 2), (8000, 9001, 1), (11025, 15013, 2), (44100, 50001, 1), (48000, 60002, 2)],
)
def test_parts_joined_are_the_whole_file(tmp_path, rate, frames, channels, seconds):
    path = write_noise(tmp_path / "noise.wav", rate, frames, channels)
    step = max(1, round(seconds * 16000))
    with AudioReader(path, 16000) as audio:
        starts = range(0, audio.num_samples, step)
        parts = [audio.read(start, min(start + step, audio.num_samples)) for start in starts]
    assert all(len(part) == step for part in parts[:-1])
    torch.testing.assert_close(torch.cat(parts), read_audio(path), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_parts_in_any_order_are_those_of_the_whole(tmp_path, name):
    path = write_noise(tmp_path / name, 22050, 30000)
    whole = read_audio(path)
    with AudioReader(path, 16000) as audio:
        assert audio.num_samples == len(whole)
        for start, stop in ((9000, 9500), (100, 350), (300, 400), (21000, None), (0, 1)):
            torch.testing.assert_close(
                audio.read(start, stop), whole[start:stop], rtol=0, atol=1e-5
            )


def test_resampled_length_is_exact(tmp_path):
    # In float32, as torchaudio reckons, this is one sample less.
    path = write_noise(tmp_path / "a.wav", 11025, 45505)
    with AudioReader(path, 16000) as audio:
        assert len(audio.read()) == audio.num_samples == math.ceil(45505 * 16000 / 11025)
        torch.testing.assert_close(audio.read(66000), audio.read()[66000:], rtol=0, atol=1e-5)


def test_parts_neither_click_nor_drift(tmp_path):
    pitch, seconds = 997.0, 30
    sine = 0.5 * np.sin(2 * np.pi * pitch * np.arange(44100 * seconds) / 44100)
    soundfile.write(tmp_path / "a.wav", sine, 44100, "FLOAT")
    with AudioReader(tmp_path / "a.wav", 16000) as audio:
        parts = [audio.read(i * 16000, (i + 1) * 16000) for i in range(seconds)]
    wav = torch.cat(parts).numpy()
    expected = 0.5 * np.sin(2 * np.pi * pitch * np.arange(len(wav)) / 16000)
    # The filter's own ripple; a lost sample would be an error of 0.2.
    assert np.abs(wav - expected)[100:-100].max() < 2e-3


def test_parts_that_follow_each_other_are_decoded_once(tmp_path, monkeypatch):
    path = write_noise(tmp_path / "a.flac", 44100, 441000)
    original = soundfile.SoundFile.seek
    monkeypatch.setattr(
        soundfile.SoundFile,
        "seek",
        lambda self, frames, whence: original(self, frames, whence),  # tell() alone names whence
    )
    with AudioReader(path, 16000) as audio:
        for start in range(0, audio.num_samples - 32000, 8000):
            assert len(audio.read(start, start + 32000)) == 32000


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (500, None), (200, 200), (0, 501)])
def test_part_outside_the_file_is_an_error(tmp_path, start, stop):
    soundfile.write(tmp_path / "a.wav", np.zeros(500), 16000)
    with (
        AudioReader(tmp_path / "a.wav") as audio,
        pytest.raises(AudioError, match=r"a\.wav has 500 samples"),
    ):
        audio.read(start, stop)


def test_unusable_part_is_named_with_its_place(tmp_path):
    wav = np.zeros(48000, np.float32)
    wav[32005] = np.nan
    soundfile.write(tmp_path / "nan.wav", wav, 16000, "FLOAT")
    with AudioReader(tmp_path / "nan.wav") as audio:
        assert len(audio.read(0, 32000)) == 32000
        with pytest.raises(AudioError, match=r"nan\.wav has 1 NaN.*between 2\.0 s and 3\.0 s"):
            audio.read(32000)


def test_reader_goes_on_after_an_error(tmp_path):
    wav = np.linspace(0, 0.5, 8000, dtype=np.float32)
    wav[5000] = np.nan
    soundfile.write(tmp_path / "nan.wav", wav, 16000, "FLOAT")
    with AudioReader(tmp_path / "nan.wav") as audio:
        audio.read(0, 1000)
        with pytest.raises(AudioError):
            audio.read(1000, 6000)
        torch.testing.assert_close(audio.read(1000, 2000), torch.from_numpy(wav[1000:2000]))


def test_place_that_cannot_be_reached_is_an_audio_error(tmp_path):
    path = write_noise(tmp_path / "cut.flac", 16000, 160000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with AudioReader(path) as audio, pytest.raises(AudioError, match=r"cut\.flac is unreadable"):
        audio.read(150000, 151000)


def test_name_that_is_too_long_is_an_audio_error(tmp_path):
    with pytest.raises(AudioError, match="File name too long"):
        AudioReader(tmp_path / ("a" * 300))


def test_mp3_whose_header_only_estimates_its_length(tmp_path):
    path = tmp_path / "a.mp3"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8 * 44100)
    soundfile.write(path, noise, 44100, bitrate_mode="CONSTANT", compression_level=0.7)
    whole = path.read_bytes()
    # A stream of constant bit rate without the first frame, which states the length.
    marker = max(whole.find(b"Xing"), whole.find(b"Info"))
    sync = whole[whole.rfind(b"\xff", 0, marker) :][:2]
    path.write_bytes(whole[whole.find(sync, marker) :])
    with soundfile.SoundFile(path) as file:
        stated, decoded = file.frames, len(file.read())
    assert stated > decoded
    with AudioReader(path) as audio:
        assert audio.num_samples == len(audio.read()) == decoded


def test_file_that_ends_before_its_header_says(tmp_path):
    path = write_noise(tmp_path / "cut.mp3", 16000, 160000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"cut\.mp3 ends early: its header states 160000 samples"):
        read_audio(path)


def test_wav_can_be_written_to(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, 16000), 16000)
    wav = read_audio(tmp_path / "a.wav")
    wav *= 0
    assert read_audio(tmp_path / "a.wav").abs().max() > 0.4


def write_bad_file(path, kind):
    if kind == "text":
        path.write_text("this is no audio")
    elif kind == "nothing":
        path.write_bytes(b"")
    elif kind == "zero-length":
        soundfile.write(path, np.zeros(0), 16000)
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize("function", [audio_info, check_audio, read_audio])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "missing"),
        ("folder", "is a folder"),
        ("text", "unreadable"),
        ("nothing", "is empty: it has 0 bytes"),
        ("zero-length", "zero-length"),
    ],
)
def test_bad_file_is_named(tmp_path, function, kind, said):
    path = tmp_path / "bad.wav"
    write_bad_file(path, kind)
    with pytest.raises(AudioError, match=said) as caught:
        function(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [check_audio, read_audio])
def test_sample_that_is_no_number_is_an_error(tmp_path, function, value):
    wave = np.zeros(300000, dtype=np.float32)
    wave[290000] = value
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav has 1 NaN or infinite samples between"):
        function(tmp_path / "a.wav")


def test_damage_behind_the_header_is_found_by_decoding(truncated_flac):
    assert check_audio(truncated_flac).num_frames == 32000
    with pytest.raises(AudioError, match=r"cut\.flac is unreadable"):
        check_audio(truncated_flac, decode=True)
    with pytest.raises(AudioError, match=r"cut\.flac is unreadable"):
        read_audio(truncated_flac)


def test_flac_written_to_a_pipe_states_no_length(tmp_path, monkeypatch):
    # Without ffmpeg, which would read it to its end.
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "piped.flac"
    soundfile.write(path, tone(440, 16000), 16000)
    data = bytearray(path.read_bytes())
    # STREAMINFO begins at byte 8; the low half of its byte 13 and the next four
    # hold the number of samples, which an encoder leaves at 0 if it cannot seek.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"piped\.flac does not state its length"):
        audio_info(path)
