from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference.bulk import (
    BulkOptions,
    embed_batch,
    embed_files,
    logger,
    make_batches,
    read_recording,
)
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.results import Classification
from gemoclap_sb.models.towers import AudioTower
from tests.run_folders import LABELS, RATE, write_tone

KINDS = ("scratch", "pretrained")


@pytest.fixture(scope="module")
def classifiers(exported):
    return {k: GEmoCLAPClassifier.from_pretrained(exported[k], device="cpu") for k in KINDS}


@pytest.fixture
def classifier(exported):
    """A fresh one, with nothing cached."""
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [
    {}, {"batch_size": 1}, {"batch_size": 4, "workers": 1}, {"window": 3, "workers": 3},
    {"first_window": 7},
])  # fmt: skip
def test_classify_files_in_order(classifiers, tones, kind, options):
    rows = list(classifiers[kind].classify_files(map(str, tones), progress=False, **options))
    assert [row.path for row in rows] == [str(path) for path in tones]
    for row, path in zip(rows, tones, strict=True):
        out_prob, score, _, label = classifiers[kind].classify_file(path)
        assert row.label == label[0]
        assert row.score == pytest.approx(score.exp().item(), abs=1e-4)
        assert list(row.probabilities) == LABELS
        assert list(row.probabilities.values()) == pytest.approx(
            out_prob[0].exp().tolist(), abs=1e-4
        )


def test_bad_files_are_rows_and_the_rest_go_on(classifier, tones, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), RATE)
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.array([0.0, np.nan] * 4000), RATE, subtype="FLOAT")
    cut = tmp_path / "cut.flac"
    write_tone(cut, 2.0)
    cut.write_bytes(cut.read_bytes()[:3000])
    bad = [text, empty, nan, cut, tmp_path / "missing.wav", tmp_path]
    paths = [tones[0], *bad[:3], tones[1], *bad[3:], tones[2]]
    rows = list(classifier.classify_files(paths, window=4, progress=False))
    assert [row.path for row in rows] == [str(path) for path in paths]
    for path, row in zip(paths, rows, strict=True):
        if path in bad:
            assert str(path) in row.error
            assert row == Classification(str(path), error=row.error)
        else:
            assert row.error is None
            assert row.label == classifier.classify_file(path)[3][0]


def test_nothing_and_nothing_but_errors(classifier):
    assert list(classifier.classify_files([], progress=False)) == []
    rows = list(classifier.classify_files(["a.wav", "b.wav", "c.wav"], window=2, progress=False))
    assert [row.path for row in rows] == ["a.wav", "b.wav", "c.wav"]
    assert all(row.error for row in rows)


def test_results_come_as_they_are_ready(classifier, tones):
    """From an endless stream of tones the first results come, and little is read ahead."""
    taken = []

    def endless():
        while True:
            taken.append(tones[len(taken) % 3])
            yield taken[-1]

    rows = classifier.classify_files(endless(), window=4, workers=1, progress=False)
    first = [next(rows) for _ in range(6)]
    assert [row.path for row in first] == [str(tones[i % 3]) for i in range(6)]
    assert len(taken) <= 6 + 3 * 4
    rows.close()


def test_leaving_early_leaves_no_threads(classifier, tones):
    before = threading.active_count()
    rows = classifier.classify_files(tones * 5, progress=False)
    next(rows)
    rows.close()
    del rows
    assert threading.active_count() == before


def test_threads_of_the_caller_are_left_alone(classifier, tones):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        rows = classifier.classify_files(tones, workers=3, progress=False)
        next(rows)
        assert torch.get_num_threads() == 3
        list(rows)
        assert torch.get_num_threads() == 3
        counts = []
        thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert counts == [3]
    finally:
        torch.set_num_threads(before)


def failing(tower, monkeypatch, error, when):
    """Let a tower fail on batches of which ``when(wavs)``; lists the sizes it was given."""
    forward, sizes = tower.forward, []

    def fail(wavs, wav_lens):
        sizes.append(len(wavs))
        if when(wavs):
            raise error
        return forward(wavs, wav_lens)

    monkeypatch.setattr(tower, "forward", fail)
    return sizes


NO_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory"),
)


@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_batch_that_does_not_fit_is_halved(classifier, tones, monkeypatch, caplog, error):
    expected = classifier.embed_files(tones, progress=False)
    tower = classifier.mods.embedding_model
    sizes = failing(tower, monkeypatch, error, lambda wavs: len(wavs) > 3)
    logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = classifier.embed_files(tones, batch_size=8, progress=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert max(sizes) == 8 and sizes.count(2) >= 4
    assert caplog.text.count("Lower batch_size (--batch-size).") == 1


@pytest.mark.parametrize("error", [*NO_MEMORY[:1], RuntimeError("strange\nshape"), KeyError("x")])
def test_a_file_that_breaks_the_model_is_a_row(classifier, tones, monkeypatch, error):
    longest = max(tones, key=lambda path: soundfile.info(path).frames)
    length = soundfile.info(longest).frames
    tower = classifier.mods.embedding_model
    failing(tower, monkeypatch, error, lambda wavs: wavs.shape[1] == length)
    rows = list(classifier.encode_files(tones, progress=False))
    assert [row.path for row in rows if row.error] == [str(longest)]
    [said] = [row.error for row in rows if row.error]
    assert str(longest) in said and "\n" not in said
    assert ("memory of cpu" in said) == isinstance(error, MemoryError)


def test_a_file_that_breaks_the_decoder_is_a_row(classifier, tones, monkeypatch):
    original = soundfile.SoundFile.read

    def read(self, *arguments, **options):
        if self.name == str(tones[3]):
            raise MemoryError
        return original(self, *arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    rows = list(classifier.encode_files([*tones, 7, "a\0b.wav"], progress=False))
    assert [i for i, row in enumerate(rows) if row.error] == [3, 10, 11]
    assert rows[3].error == f"Audio file {tones[3]} cannot be read: MemoryError:."


def test_what_the_callers_iterator_raises_comes_after_the_rows(classifier, tones):
    def paths():
        yield from tones
        raise OSError("the list is gone")

    rows = classifier.encode_files(paths(), progress=False)
    assert [next(rows).error for _ in tones] == [None] * len(tones)
    with pytest.raises(OSError, match="the list is gone"):
        next(rows)


def test_what_is_not_finite_is_a_row_and_its_batch_is_unharmed(classifier, tones, monkeypatch):
    expected = classifier.embed_files(tones, progress=False)
    tower = classifier.mods.embedding_model
    forward, longest = tower.forward, max(tones, key=lambda path: soundfile.info(path).frames)

    def overflow(wavs, wav_lens):
        return forward(torch.where(wav_lens[:, None] == 1, wavs * 1e30, wavs), wav_lens)

    monkeypatch.setattr(tower, "forward", overflow)
    rows = list(classifier.encode_files(tones, batch_size=len(tones), progress=False))
    for row, path, vector in zip(rows, tones, expected, strict=True):
        if path == longest:
            assert row.embedding is None and str(path) in row.error
            assert "expected float audio in [-1, 1]" in row.error
        else:
            torch.testing.assert_close(row.embedding, vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize("peak", [1e10, 3e38])
def test_a_huge_float_file_is_a_row(classifier, tones, tmp_path, peak):
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.full(RATE, peak, np.float32), RATE, subtype="FLOAT")
    rows = list(classifier.classify_files([tones[0], loud, tones[1]], progress=False))
    assert [row.error is None for row in rows] == [True, False, True]
    assert f"samples up to {peak:.2g}" in rows[1].error
    with pytest.raises(AudioError, match="expected float audio in"):
        classifier.timeline(loud, progress=False)
    # What is unscaled and not absurd is answered, and finite.
    soundfile.write(loud, soundfile.read(tones[0])[0] * 2.0**30, RATE, subtype="FLOAT")
    assert np.isfinite(classifier.classify_file(loud)[1].item())


class SlowLayer(torch.nn.Module):
    """A quarter of a second, not to be interrupted by itself."""

    def __init__(self, began):
        super().__init__()
        self.began = began

    def forward(self, frames):
        self.began.set()
        time.sleep(0.25)
        return frames


class SlowTower(torch.nn.Module):
    """Fifty slow layers: 12 s for a batch or a piece."""

    sample_rate, longest, hears_padding = RATE, 60 * RATE, False
    pieces = AudioTower.pieces

    def __init__(self, began):
        super().__init__()
        self.layers = torch.nn.Sequential(*(SlowLayer(began) for _ in range(50)))

    def forward(self, wavs, wav_lens):
        return self.layers(torch.ones(len(wavs), 1, 4))

    def join(self, wavs, num_samples):
        return sum(self.layers(wav.mean().repeat(1, 4)) for wav in wavs)


@pytest.mark.skipif(sys.platform == "win32", reason="no pthread_kill on Windows")
@pytest.mark.parametrize("kind", ["short", "long"])
def test_stopping_does_not_wait_for_the_model(tones, tmp_path, kind):
    long = write_tone(tmp_path / "long.wav", 200)
    began = threading.Event()
    tower = SlowTower(began).eval()
    rows = embed_files(tower, [long] * 3 if kind == "long" else tones, "cpu")
    before = threading.active_count()

    def interrupt():
        began.wait()
        # A signal, as from a terminal: it wakes a thread that waits.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        try:
            next(rows)
        finally:
            interrupted = time.monotonic()
            helper.join()
    rows.close()
    assert time.monotonic() - interrupted < 1
    assert threading.active_count() == before
    # Nothing is left behind that would stop others.
    assert SlowLayer(began)(torch.ones(1)).item() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 'auto' or 1 and more"),
        ({"batch_size": "all"}, "batch_size: expected 'auto' or 1 and more"),
        ({"window": 0}, "window: expected 1 or more"),
        ({"first_window": 0}, "first_window: expected 1 or more"),
        ({"workers": 0}, "workers: expected 1 or more"),
        ({"window": "all"}, "window: expected 1 or more, found 'all'"),
        ({"workers": 1.5}, "workers: expected 1 or more"),
        ({"batch_size": True}, "batch_size: expected 'auto' or 1 and more"),
    ],
)
def test_options_are_checked_at_the_call(classifier, tones, options, message):
    with pytest.raises(ValueError, match=message):
        classifier.classify_files(tones, **options)


def test_one_path_is_no_list_of_paths(classifier, tones):
    with pytest.raises(ValueError, match="Put it in a list"):
        classifier.classify_files(str(tones[0]))
    with pytest.raises(ValueError, match="Put it in a list"):
        classifier.classify_files(str(tones[0]).encode())
    for given in (None, 3):
        with pytest.raises(ValueError, match="paths: expected several paths, found (None|int)"):
            classifier.classify_files(given)


def test_batches_are_bounded_by_their_seconds(classifier, tones, monkeypatch):
    tower, shapes = classifier.mods.embedding_model, []
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda w, n: shapes.append(w.shape) or forward(w, n))
    monkeypatch.setattr("gemoclap_sb.inference.bulk.CPU_BATCH_SECONDS", 3.0)
    list(embed_files(tower, tones * 4, "cpu", BulkOptions(progress=False)))
    assert sum(shape[0] for shape in shapes) == 4 * len(tones)
    assert max(shape[0] * shape[1] for shape in shapes) <= 3 * RATE
    assert max(shape[0] for shape in shapes) > 4


def test_steps_can_be_called_by_another_engine(classifier, models, tones, tmp_path):
    """Reading, batching and embedding apart give what the threads give."""
    long = write_tone(tmp_path / "long.wav", 100)
    paths = [*tones, tmp_path / "none.wav", long]
    tower = classifier.mods.embedding_model
    recordings = [read_recording(path, tower.sample_rate, tower.longest) for path in paths]
    batches = make_batches(recordings, tower.sample_rate, batch_size=4)
    assert sorted(i for batch in batches for i in batch) == [*range(10), 11]
    assert [11] in batches and max(map(len, batches)) == 4
    for batch in batches:
        rows = embed_batch(tower, [recordings[i] for i in batch], "cpu")
        for i, row in zip(batch, rows, strict=True):
            assert row.path == str(paths[i])
            wav = classifier.load_audio(paths[i])[None]
            expected = tower(wav, torch.ones(1))[0, 0]
            torch.testing.assert_close(row.embedding, expected, rtol=0, atol=1e-4)


def test_every_file_is_opened_once(classifier, tones, tmp_path, monkeypatch):
    long = write_tone(tmp_path / "long.wav", 100)
    opened, original = Counter(), soundfile.SoundFile
    monkeypatch.setattr(
        soundfile,
        "SoundFile",
        lambda path, *a, **k: opened.update([path]) or original(path, *a, **k),
    )
    list(classifier.classify_files([*tones, long], progress=False))
    classifier.classify_file(tones[0])
    assert opened == Counter([str(p) for p in (*tones, long, tones[0])])


def test_windows_end_where_memory_would_grow(classifier, tones, monkeypatch):
    """Of ten recordings of 9 s in all, at most three seconds and one file are held together."""
    monkeypatch.setattr("gemoclap_sb.inference.bulk.WINDOW_SECONDS", 3.0)
    held, original = [], make_batches
    monkeypatch.setattr(
        "gemoclap_sb.inference.bulk.make_batches",
        lambda recordings, *a: (
            held.append([len(r.wav) for r in recordings]) or original(recordings, *a)
        ),
    )
    rows = list(classifier.classify_files(tones, progress=False))
    assert [row.path for row in rows] == [str(path) for path in tones]
    assert len(held) > 2
    assert all(sum(of[:-1]) <= 3 * RATE for of in held)


def test_embed_files(classifier, tones):
    found = classifier.embed_files(tones, progress=False)
    assert found.shape == (len(tones), 24)
    for vector, path in zip(found, tones, strict=True):
        expected = classifier.encode_batch(classifier.load_audio(path))[0, 0]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-4)
    assert classifier.embed_files([]).shape == (0, 24)
    with pytest.raises(AudioError, match="none.wav is missing"):
        classifier.embed_files([tones[0], "none.wav"], progress=False)


def test_retrieve(classifier, tones, caplog):
    text = "this person sounds sad"
    vectors = classifier.embed_files(tones, progress=False).numpy()
    cosines = vectors @ classifier.encode_text([text])[0].numpy()
    order = np.argsort(-cosines)
    with caplog.at_level(logging.WARNING):
        found = classifier.retrieve(text, [*tones, "none.wav"], top_k=3, progress=False)
    assert [match.path for match in found] == [str(tones[i]) for i in order[:3]]
    assert [m.similarity for m in found] == pytest.approx(cosines[order[:3]], abs=1e-5)
    assert "none.wav is missing" in caplog.text
    assert len(classifier.retrieve(text, tones, top_k=99, progress=False)) == len(tones)
    with pytest.raises(ValueError, match="top_k: expected 1 or more, found 0"):
        classifier.retrieve(text, tones, top_k=0)


def test_timeline_follows_the_windows(classifier, tones):
    labels = ["bored", "afraid"]
    found = classifier.timeline(tones[1], window=1.0, hop=0.5, labels=labels, progress=False)
    wav = classifier.load_audio(tones[1])
    assert found.starts.tolist() == [0.0, 0.5, 1.0]
    for start, row in zip(found.starts, found.probabilities, strict=True):
        part = wav[int(start * RATE) : int((start + 1) * RATE)]
        expected = classifier.classify_batch(part, labels=labels)[0][0].exp()
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
