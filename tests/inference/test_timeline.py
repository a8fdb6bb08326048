"""Long recordings: windows against their definition."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.timeline import (
    Timeline,
    classify_windows,
    draw_timeline,
    num_windows,
    window_edges,
)
from tests.conftest import ROOT
from tests.run_folders import LABELS, RATE, write_tone


@pytest.fixture(scope="module")
def classifier(exported):
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 240), st.integers(1, 50), st.integers(1, 60))
def test_windows_are_as_defined(count, length, step):
    signal = list(range(count))
    found = [(start, signal[start:stop]) for start, stop in window_edges(count, length, step)]
    whole = [s for s in range(0, count, step) if s + length <= count]
    expected = [(start, list(range(start, start + length))) for start in whole]
    rest = list(range(whole[-1] + step if whole else 0, count))
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
    found = classifier.timeline(path, window, hop, progress=False)
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
    assert classifier.timeline(path).ends.tolist() == pytest.approx(ends)


def test_less_than_half_a_window_is_left_out(classifier, tmp_path):
    found = classifier.timeline(write_tone(tmp_path / "a.wav", 4.9), window=2.0, hop=2.0)
    assert found.ends.tolist() == [2.0, 4.0]
    found = classifier.timeline(write_tone(tmp_path / "b.wav", 5.0), window=2.0, hop=2.0)
    assert found.ends.tolist() == [2.0, 4.0, 5.0]


def test_silence_gets_finite_probabilities(classifier, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(5 * RATE), RATE)
    found = classifier.timeline(path)
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_allclose(found.probabilities, found.probabilities[[0] * 7], atol=1e-5)


def test_words_of_ones_own(classifier, tmp_path):
    path = write_tone(tmp_path / "a.wav", 2.0)
    options = {"labels": {"b": "bored", "a": "afraid"}, "templates": ["so {}"]}
    found = classifier.timeline(path, **options)
    assert found.labels == ["b", "a"]
    expected = classifier.classify_file(path, **options)[0].exp()
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-4)


def test_rows_are_plain_data(classifier, tmp_path):
    found = classifier.timeline(write_tone(tmp_path / "a.wav", 2.6))
    copy = json.loads(json.dumps(found.to_dict()))
    assert (copy["window"], copy["hop"], copy["labels"]) == (2.0, 0.5, LABELS)
    assert [row["start"] for row in copy["windows"]] == [0.0, 0.5, 1.0]
    for row, values in zip(copy["windows"], found.probabilities, strict=True):
        assert row["label"] == LABELS[int(values.argmax())]
        assert row["score"] == pytest.approx(float(values.max()))
        assert list(row["probabilities"]) == LABELS
        assert list(row["probabilities"].values()) == pytest.approx(values.tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0.0}, {"window": 1e-9}, {"window": 1e9}, {"window": float("inf")},
        {"hop": -1.0}, {"hop": 1e-9}, {"hop": float("nan")}, {"hop": float("inf")},
        {"hop": "1"}, {"window": True},
    ],
)  # fmt: skip
def test_wrong_seconds_are_named(classifier, tmp_path, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}: expected 0\.0?1 .*, found"):
        classifier.timeline(tmp_path / "none.wav", **options)


def of_constant(tone, value, **options):
    """A timeline whose model answers with a constant, or fails."""

    def classify(wavs, wav_lens):
        if isinstance(value, Exception):
            raise value
        return torch.full((len(wavs), 2), value)

    asked = {"window": 2.0, "hop": 0.5, **options}
    return classify_windows(classify, ["a", "b"], tone, **asked, sample_rate=RATE, batch_seconds=8)


def test_an_answer_that_is_not_finite_is_an_error(tmp_path):
    tone = write_tone(tmp_path / "a.wav", 3.0)
    assert of_constant(tone, -1.0).probabilities.shape == (3, 2)
    for value in (math.nan, math.inf):
        with pytest.raises(AudioError, match=r"a\.wav: the model makes NaN or infinity"):
            of_constant(tone, value)


def test_windows_that_do_not_fit_name_the_option(tmp_path):
    tone = write_tone(tmp_path / "a.wav", 3.0)
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
    with pytest.raises(AudioError, match=r"3 windows of 2 s do not fit .* \(window, --window\)"):
        of_constant(tone, error)
    with pytest.raises(RuntimeError, match="something else"):
        of_constant(tone, RuntimeError("something else"))


@pytest.mark.skipif(sys.platform == "win32", reason="no pthread_kill on Windows")
def test_an_interrupt_ends_it_at_once(tmp_path):
    tone = write_tone(tmp_path / "a.wav", 30.0)
    main = threading.main_thread().ident
    timer = threading.Timer(0.4, signal.pthread_kill, (main, signal.SIGINT))
    began = time.monotonic()

    def classify(wavs, wav_lens):
        time.sleep(0.25)
        return torch.zeros(len(wavs), 2)

    timer.start()
    with pytest.raises(KeyboardInterrupt):
        classify_windows(classify, ["a", "b"], tone, 2.0, 0.1, RATE, batch_seconds=8)
    assert time.monotonic() - began < 1.4


def test_a_window_of_many_hours_is_never_listed():
    hours = 10**4 * 3600 * RATE
    count = num_windows(hours, 2 * RATE, 160)
    assert count == (hours - 2 * RATE) // 160 + 1
    assert window_edges(hours, 2 * RATE, 160, count - 1, count) == [(hours - 2 * RATE, hours)]


def test_missing_file_is_named(classifier, tmp_path):
    with pytest.raises(AudioError, match="none.wav is missing"):
        classifier.timeline(tmp_path / "none.wav")


_MEMORY = """
import resource, sys
import torch
torch.set_num_threads(1)
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model, short, long = sys.argv[1:]
classifier = GEmoCLAPClassifier.from_pretrained(model, device="cpu")
classifier.timeline(short, hop=1.0)
before = peak()
count = len(classifier.timeline(long, hop=20.0).times)
print(count, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no ru_maxrss on Windows")
def test_memory_does_not_grow_with_the_recording(exported, tmp_path):
    minute = np.random.default_rng(0).integers(-3000, 3000, 60 * 22050).astype(np.int16)
    paths = [tmp_path / "minute.wav", tmp_path / "hour.wav"]
    for path, minutes in zip(paths, (1, 60), strict=True):
        with soundfile.SoundFile(path, "w", 22050, 1) as file:
            for _ in range(minutes):
                file.write(minute)
    printed = subprocess.run(
        [sys.executable, "-c", _MEMORY, exported["scratch"], *paths],
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
