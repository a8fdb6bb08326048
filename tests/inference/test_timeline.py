"""Long recordings: blocks against the whole file, windows against their definition."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.data.audio_blocks import audio_blocks
from gemoclap_sb.export.folder import export
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.timeline import Timeline, _windows, draw_timeline, timeline
from tests.conftest import ROOT
from tests.run_folders import LABELS, RATE, make_run, write_tone
from tests.telling_models import telling_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timeline")
    return export(make_run(folder / "run", telling_model()), folder / "exported")


@pytest.fixture(scope="module")
def classifier(exported):
    return GEmoCLAPClassifier.from_pretrained(exported, device="cpu")


@pytest.mark.parametrize("block_seconds", [0.003, 0.37, 100.0])
@pytest.mark.parametrize(
    ("rate", "frames", "channels"),
    [(16000, 20011, 2), (8000, 9001, 1), (11025, 15013, 2), (44100, 50001, 1), (48000, 60002, 2)],
)
def test_blocks_are_the_whole_file(tmp_path, rate, frames, channels, block_seconds):
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(rate).uniform(-0.9, 0.9, (frames, channels))
    soundfile.write(path, noise, rate, subtype="FLOAT")
    blocks = list(audio_blocks(path, RATE, block_seconds))
    expected = read_audio(path, RATE)
    torch.testing.assert_close(torch.cat(blocks), expected, rtol=0, atol=1e-5)
    assert all(len(block) for block in blocks)
    if block_seconds == 0.37:
        assert len(blocks) > 2


def test_resampled_blocks_neither_click_nor_drift(tmp_path):
    pitch, seconds = 997.0, 30
    path = tmp_path / "sine.wav"
    soundfile.write(
        path, 0.5 * np.sin(2 * np.pi * pitch * np.arange(44100 * seconds) / 44100), 44100, "FLOAT"
    )
    wav = torch.cat(list(audio_blocks(path, RATE, 1.0))).numpy()
    assert len(wav) == RATE * seconds
    expected = 0.5 * np.sin(2 * np.pi * pitch * np.arange(len(wav)) / RATE)
    # The filter's own ripple; a lost sample would be an error of 0.2.
    assert np.abs(wav - expected)[100:-100].max() < 2e-3


def test_unusable_audio_is_named_with_its_place(tmp_path):
    wav = np.zeros(3 * RATE, np.float32)
    wav[2 * RATE + 5] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, wav, RATE, "FLOAT")
    blocks = audio_blocks(path, RATE, 1.0)
    assert len(next(blocks)) == RATE
    with pytest.raises(AudioError, match=r"nan\.wav has NaN.*between 2\.0 s and 3\.0 s"):
        list(blocks)
    with pytest.raises(AudioError, match="none.wav is missing"):
        audio_blocks(tmp_path / "none.wav")
    flac = write_tone(tmp_path / "cut.flac", 3.0)
    flac.write_bytes(flac.read_bytes()[:-9000] + b"\xff" * 9000)
    with pytest.raises(AudioError, match=r"cut\.flac is unreadable"):
        list(audio_blocks(flac))
    with pytest.raises(ValueError, match="positive block"):
        audio_blocks(path, RATE, 0.0)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    length=st.integers(1, 50),
    step=st.integers(1, 60),
)
def test_windows_are_as_defined(sizes, length, step):
    signal = torch.arange(sum(sizes))
    found = [(start, w.tolist()) for start, w in _windows(signal.split(sizes), length, step)]
    whole = [s for s in range(0, len(signal), step) if s + length <= len(signal)]
    expected = [(start, list(range(start, start + length))) for start in whole]
    rest = list(range(whole[-1] + step if whole else 0, len(signal)))
    heard = {sample for _, window in expected for sample in window}
    if set(rest) - heard and (not whole or len(rest) >= length / 2):
        expected.append((rest[0], rest))
    assert found == expected


@pytest.mark.parametrize(("window", "hop"), [(2.0, 0.5), (1.0, 1.0), (0.5, 1.25)])
def test_each_window_is_classified_as_a_recording_of_its_own(classifier, tmp_path, window, hop):
    parts = []
    for i in range(10):
        tone = write_tone(tmp_path / "tone.wav", 3.23, 80 + 140 * i, 22050, 2)
        parts.append(soundfile.read(tone)[0])
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate(parts), 22050)
    found = timeline(classifier, path, window, hop, progress=False)
    wav = read_audio(path, RATE)
    assert found.labels == LABELS
    assert found.probabilities.shape == (len(found.times), 4)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.starts, np.arange(len(found.starts)) * hop)
    np.testing.assert_allclose(found.times, (found.starts + found.ends) / 2)
    for i in (0, 1, len(found.times) // 2, -2, -1):
        start, stop = round(found.starts[i] * RATE), round(found.ends[i] * RATE)
        alone = classifier.classify_batch(wav[None, start:stop])[0][0].exp()
        np.testing.assert_allclose(found.probabilities[i], alone.numpy(), atol=1e-4)
    # Different windows sound different, else the above would show nothing.
    assert np.ptp(found.probabilities, axis=0).max() > 0.05


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        (0.01, [0.01]),
        (1.3, [1.3]),
        (2.0, [2.0]),
        (2.5, [2.0, 2.5]),
        (2.7, [2.0, 2.5, 2.7]),
    ],
)
def test_last_window_holds_what_is_left(classifier, tmp_path, seconds, ends):
    path = write_tone(tmp_path / "short.wav", seconds)
    assert timeline(classifier, path).ends.tolist() == pytest.approx(ends)


def test_less_than_half_a_window_is_left_out(classifier, tmp_path):
    found = timeline(classifier, write_tone(tmp_path / "a.wav", 4.9), window=2.0, hop=2.0)
    assert found.ends.tolist() == [2.0, 4.0]
    found = timeline(classifier, write_tone(tmp_path / "b.wav", 5.0), window=2.0, hop=2.0)
    assert found.ends.tolist() == [2.0, 4.0, 5.0]


def test_silence_gets_finite_probabilities(classifier, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(5 * RATE), RATE)
    found = timeline(classifier, path)
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_allclose(found.probabilities, found.probabilities[[0] * 7], atol=1e-5)


def test_words_of_ones_own(classifier, tmp_path):
    path = write_tone(tmp_path / "a.wav", 2.0)
    options = {"labels": {"b": "bored", "a": "afraid"}, "templates": ["so {}"]}
    found = timeline(classifier, path, **options)
    assert found.labels == ["b", "a"]
    expected = classifier.classify_file(path, **options)[0].exp()
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-4)


def test_rows_are_plain_data(classifier, tmp_path):
    found = timeline(classifier, write_tone(tmp_path / "a.wav", 2.6))
    copy = json.loads(json.dumps(found.to_dict()))
    assert (copy["window"], copy["hop"], copy["labels"]) == (2.0, 0.5, LABELS)
    assert [row["start"] for row in copy["windows"]] == [0.0, 0.5, 1.0]
    for row, values in zip(copy["windows"], found.probabilities, strict=True):
        assert row["label"] == LABELS[int(values.argmax())]
        assert row["score"] == pytest.approx(float(values.max()))
        assert list(row["probabilities"]) == LABELS
        assert list(row["probabilities"].values()) == pytest.approx(values.tolist())


@pytest.mark.parametrize("options", [{"window": 0.0}, {"hop": -1.0}, {"hop": float("nan")}])
def test_wrong_seconds_are_named(classifier, tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected a positive number"):
        timeline(classifier, tmp_path / "none.wav", **options)


def test_missing_file_is_named(classifier, tmp_path):
    with pytest.raises(AudioError, match="none.wav is missing"):
        timeline(classifier, tmp_path / "none.wav")


_MEMORY = """
import resource, sys
import torch
torch.set_num_threads(1)
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.timeline import timeline

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model, short, long = sys.argv[1:]
classifier = GEmoCLAPClassifier.from_pretrained(model, device="cpu")
timeline(classifier, short, hop=1.0)
before = peak()
count = len(timeline(classifier, long, hop=20.0).times)
print(count, peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no ru_maxrss on Windows")
def test_memory_does_not_grow_with_the_recording(exported, tmp_path):
    minute = np.random.default_rng(0).integers(-3000, 3000, 60 * 22050).astype(np.int16)
    paths = [tmp_path / "minute.wav", tmp_path / "hour.wav"]
    for path, minutes in zip(paths, (1, 60), strict=True):
        with soundfile.SoundFile(path, "w", 22050, 1) as file:
            for _ in range(minutes):
                file.write(minute)
    printed = subprocess.run(
        [sys.executable, "-c", _MEMORY, exported, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    count, growth = printed.split()
    assert int(count) == 180
    # At 16 kHz the hour alone is 220 MiB.
    assert float(growth) < 40


def png_size(path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def make_timeline(count: int, window: float, hop: float, labels: list[str]) -> Timeline:
    starts = np.arange(count) * hop
    logits = np.random.default_rng(0).normal(size=(count, len(labels))).cumsum(axis=0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Timeline(
        "a.wav", labels, starts, starts + window, probabilities.astype(np.float32), window, hop
    )


@pytest.mark.parametrize(("count", "hop"), [(1, 0.5), (40, 0.5), (7200, 0.5), (9, 5.0)])
def test_picture_of_any_length(tmp_path, count, hop):
    path = tmp_path / "new" / "picture.png"
    assert draw_timeline(make_timeline(count, 2.0, hop, LABELS), path) == path
    width, height = png_size(path)
    assert width > height > 300
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_picture_takes_any_names(tmp_path):
    found = make_timeline(3, 2.0, 0.5, ["$x^{", "a_b", "très triste"])
    found = dataclasses.replace(found, path="/some/where/" + 40 * "$a_ " + ".wav")
    assert png_size(draw_timeline(found, tmp_path / "a.png"))[0] > 1000


def test_picture_grows_with_the_classes(tmp_path):
    sizes = []
    for labels in ("ab", "abcdefghijkl"):
        picture = draw_timeline(make_timeline(9, 2.0, 0.5, list(labels)), tmp_path / "a.png")
        sizes.append(png_size(picture))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 2 * sizes[0][1]
