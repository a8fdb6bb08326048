from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import soundfile
import torch

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference.bulk import embed_stream
from gemoclap_sb.inference.classifier import Classification, GEmoCLAPClassifier
from tests.run_folders import (
    LABELS,
    RATE,
    export_models,
    make_models,
    write_tone,
    write_tones,
)

KINDS = ("scratch", "pretrained")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    return export_models(tmp_path_factory.mktemp("exported"), models)


@pytest.fixture(scope="module")
def classifiers(exported):
    return {k: GEmoCLAPClassifier.from_pretrained(exported[k], device="cpu") for k in KINDS}


@pytest.fixture
def classifier(exported):
    """A fresh one, with nothing cached."""
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("audio"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [
    {}, {"batch_size": 1}, {"batch_size": 4, "workers": 1}, {"window": 3, "workers": 3},
])  # fmt: skip
def test_classify_files_in_order(classifiers, files, kind, options):
    rows = list(classifiers[kind].classify_files(map(str, files), progress=False, **options))
    assert [row.path for row in rows] == [str(path) for path in files]
    for row, path in zip(rows, files, strict=True):
        out_prob, score, _, label = classifiers[kind].classify_file(path)
        assert row.label == label[0]
        assert row.score == pytest.approx(score.exp().item(), abs=1e-4)
        assert list(row.probabilities) == LABELS
        assert list(row.probabilities.values()) == pytest.approx(
            out_prob[0].exp().tolist(), abs=1e-4
        )


def test_bad_files_are_rows_and_the_rest_go_on(classifier, files, tmp_path):
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
    paths = [files[0], *bad[:3], files[1], *bad[3:], files[2]]
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


def test_results_come_as_they_are_ready(classifier, files):
    """From an endless stream of files the first results come, and little is read ahead."""
    taken = []

    def endless():
        while True:
            taken.append(files[len(taken) % 3])
            yield taken[-1]

    rows = classifier.classify_files(endless(), window=4, workers=1, progress=False)
    first = [next(rows) for _ in range(6)]
    assert [row.path for row in first] == [str(files[i % 3]) for i in range(6)]
    assert len(taken) <= 6 + 3 * 4
    rows.close()


def test_leaving_early_leaves_no_threads(classifier, files):
    before = threading.active_count()
    rows = classifier.classify_files(files * 5, progress=False)
    next(rows)
    rows.close()
    del rows
    assert threading.active_count() == before


def test_threads_of_the_caller_are_left_alone(classifier, files):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        rows = classifier.classify_files(files, workers=3, progress=False)
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


def test_an_error_that_is_no_bad_file_is_raised(classifier, files, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(classifier.mods.embedding_model.audio_encoder, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(classifier.classify_files(files, progress=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 'auto' or 1 and more"),
        ({"batch_size": "all"}, "batch_size: expected 'auto' or 1 and more"),
        ({"window": 0}, "window: expected 1 or more"),
        ({"workers": 0}, "workers: expected 1 or more"),
    ],
)
def test_options_are_checked_at_the_call(classifier, files, options, message):
    with pytest.raises(ValueError, match=message):
        classifier.classify_files(files, **options)


def test_one_path_is_no_list_of_paths(classifier, files):
    with pytest.raises(ValueError, match="Put it in a list"):
        classifier.classify_files(str(files[0]))


def test_batches_are_bounded_by_their_seconds(classifier, files, monkeypatch):
    tower, shapes = classifier.mods.embedding_model, []
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda w, n: shapes.append(w.shape) or forward(w, n))
    monkeypatch.setattr("gemoclap_sb.inference.bulk.CPU_BATCH_SECONDS", 3.0)
    list(embed_stream(tower, files * 4, "cpu", progress=False))
    assert sum(shape[0] for shape in shapes) == 4 * len(files)
    assert max(shape[0] * shape[1] for shape in shapes) <= 3 * RATE
    assert max(shape[0] for shape in shapes) > 4


def test_embed_files(classifier, files):
    found = classifier.embed_files(files, progress=False)
    assert found.shape == (len(files), 24)
    for vector, path in zip(found, files, strict=True):
        expected = classifier.encode_batch(classifier.load_audio(path))[0, 0]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-4)
    assert classifier.embed_files([]).shape == (0, 24)
    with pytest.raises(AudioError, match="none.wav is missing"):
        classifier.embed_files([files[0], "none.wav"], progress=False)


def test_retrieve(classifier, files, caplog):
    text = "this person sounds sad"
    vectors = classifier.embed_files(files, progress=False).numpy()
    cosines = vectors @ classifier.encode_text([text])[0].numpy()
    order = np.argsort(-cosines)
    with caplog.at_level(logging.WARNING):
        found = classifier.retrieve(text, [*files, "none.wav"], top_k=3, progress=False)
    assert [match.path for match in found] == [str(files[i]) for i in order[:3]]
    assert [m.similarity for m in found] == pytest.approx(cosines[order[:3]], abs=1e-5)
    assert "none.wav is missing" in caplog.text
    assert len(classifier.retrieve(text, files, top_k=99, progress=False)) == len(files)
    with pytest.raises(ValueError, match="top_k: expected 1 or more, found 0"):
        classifier.retrieve(text, files, top_k=0)


def test_timeline_follows_the_windows(classifier, files):
    labels = ["bored", "afraid"]
    found = classifier.timeline(files[1], window=1.0, hop=0.5, labels=labels, progress=False)
    wav = classifier.load_audio(files[1])
    assert found.starts.tolist() == [0.0, 0.5, 1.0]
    for start, row in zip(found.starts, found.probabilities, strict=True):
        part = wav[int(start * RATE) : int((start + 1) * RATE)]
        expected = classifier.classify_batch(part, labels=labels)[0][0].exp()
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
