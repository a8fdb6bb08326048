"""Called, a classifier answers as transformers' audio classification does."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from torch.utils.data import DataLoader

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference import GEmoCLAPClassifier, recordings
from tests.run_folders import LABELS, RATE


@pytest.fixture(scope="module")
def classifier(exported):
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


def samples(path):
    return soundfile.read(path, dtype="float32")[0]


def expected(classifier, path):
    """By SpeechBrain's method: score and label of each class, the highest first."""
    posteriors = classifier.classify_file(path)[0][0].exp().tolist()
    return sorted(zip(posteriors, LABELS, strict=True), reverse=True)


def check(answer, expected):
    assert [row["label"] for row in answer] == [label for _, label in expected]
    assert all(list(row) == ["score", "label"] for row in answer)
    scores = [score for score, _ in expected]
    assert [row["score"] for row in answer] == pytest.approx(scores, abs=1e-5)


def test_one_recording_has_a_list_of_scores(classifier, tones):
    of_file = expected(classifier, tones[0])
    wav = samples(tones[0])
    for given in (
        tones[0], str(tones[0]), tones[0].read_bytes(), wav, wav[None], wav.astype(float),
        {"array": wav, "sampling_rate": RATE},
        {"raw": torch.from_numpy(wav), "sampling_rate": RATE},
    ):  # fmt: skip
        check(classifier(given), of_file)
    check(classifier(torch.from_numpy(wav), sampling_rate=RATE), of_file)
    check(classifier(wav, top_k=2), of_file[:2])
    check(classifier(wav, top_k=99), of_file)


def test_a_list_has_a_list_of_lists(classifier, tones):
    mixed = [tones[0], samples(tones[1]), {"array": samples(tones[2]), "sampling_rate": RATE}]
    for size in (1, 2, 8):
        answers = classifier(mixed, batch_size=size, top_k=3)
        assert isinstance(answers, list) and len(answers) == 3
        for answer, path in zip(answers, tones, strict=False):
            check(answer, expected(classifier, path)[:3])
    assert classifier(tuple(mixed), top_k=3) == classifier(mixed, top_k=3)
    assert classifier([]) == []


def test_a_generator_is_read_as_its_answers_are(classifier, tones):
    read = []

    def endless():
        while True:
            read.append(1)
            yield tones[len(read) % 2]

    answers = classifier(endless(), batch_size=2)
    assert read == []
    check(next(answers), expected(classifier, tones[1]))
    assert len(read) == 2
    check(next(answers), expected(classifier, tones[0]))
    next(answers)
    assert len(read) == 4


def test_a_dataset_without_an_iterator(classifier, tones):
    class Dataset(torch.utils.data.Dataset):
        def __getitem__(self, i):
            return tones[:2][i]

    assert [answer[0]["label"] for answer in classifier(Dataset())] == [
        expected(classifier, path)[0][1] for path in tones[:2]
    ]


def test_a_rate_is_brought_to_the_models(classifier, tones, tmp_path):
    wav = samples(tones[3])
    soundfile.write(tmp_path / "a.wav", wav, 44100, "FLOAT")
    answer = classifier(wav, sampling_rate=44100)
    check(answer, expected(classifier, tmp_path / "a.wav"))
    content = io.BytesIO((tmp_path / "a.wav").read_bytes()).getvalue()
    assert classifier(content) == answer


def test_other_words(classifier, tones):
    answer = classifier(tones[0], labels=["bored", "afraid"], templates=["so {}"])
    (log_posteriors,) = classifier.classify_file(
        tones[0], labels=["bored", "afraid"], templates=["so {}"]
    )[0]
    found = {row["label"]: row["score"] for row in answer}
    assert [found["bored"], found["afraid"]] == pytest.approx(log_posteriors.exp().tolist())


def test_a_tensor_is_speechbrains_batch(classifier, exported):
    stock = EncoderClassifier.from_hparams(source=str(exported["scratch"]))
    wavs, wav_lens = torch.randn(2, 8000) * 0.1, torch.tensor([1.0, 0.5])
    for arguments in ((wavs,), (wavs, wav_lens), (wavs[0],)):
        found, same = classifier(*arguments), stock(*arguments)
        for tensor, other in zip(found[:3], same[:3], strict=True):
            torch.testing.assert_close(tensor, other, rtol=0, atol=1e-5)
        assert found[3] == same[3]
    of_arrays = classifier(wavs.numpy(), wav_lens.tolist())
    torch.testing.assert_close(of_arrays[0], classifier(wavs, wav_lens)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (None, {}, "input: expected a NumPy array"),
        (5, {}, "input: expected a NumPy array"),
        (np.float32(1), {}, "input: expected a NumPy array"),
        ([0.5, 0.5], {}, r"inputs\[0\]: expected a NumPy array"),
        (np.zeros((2, 99)), {}, "one channel"),
        (np.zeros(99), {"top_k": 0}, "top_k: expected 1 or more, found 0"),
        (np.zeros(99), {"top_k": 1.5}, "top_k"),
        (np.zeros(99), {"top_k": True}, "top_k"),
        ([np.zeros(99)], {"batch_size": 0}, "batch_size"),
        (np.zeros(99), {"labels": ["one"]}, "two classes or more"),
        ("a.wav", {"sampling_rate": RATE}, "a file states its rate"),
        (np.zeros(99), {"wav_lens": [1.0], "top_k": 1}, "wav_lens"),
        (np.full(99, 1e30), {}, "no finite embedding|NaN or inf"),
        ("missing.wav", {}, "missing.wav is missing"),
        (["missing.wav"], {}, "missing.wav is missing"),
        ("", {}, "expected the path of an audio file, found an empty one"),
        (torch.zeros(99).to_sparse(), {"top_k": 1}, "expected a dense tensor of samples, found"),
        (torch.zeros(99, device="meta"), {"top_k": 1}, "dense tensor .*found no numbers"),
        (torch.zeros(1, 99).to_sparse(), {}, "expected a dense tensor of samples, found"),
    ],
)
def test_what_cannot_be_is_one_line(classifier, given, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        classifier(given, **options)
    assert "\n" not in str(caught.value)


def test_a_batch_may_be_larger_than_any_list(classifier):
    found = classifier([np.zeros(99), np.zeros(99)], sampling_rate=RATE, batch_size=10**30)
    assert len(found) == 2


@pytest.mark.parametrize("given", [None, 3, np.zeros(99), ["a.wav"]])
def test_what_is_no_path_is_one_line(classifier, given):
    expected = f"expected the path of an audio file, found {type(given).__name__}"
    for call in (classifier.classify_file, classifier.load_audio, classifier.timeline):
        with pytest.raises(AudioError, match=expected) as caught:
            call(given)
        assert "\n" not in str(caught.value)
    [row] = classifier.classify_files([given])
    assert expected in row.error


def test_what_is_asked_wrongly_of_a_generator_is_said_at_the_call(classifier):
    with pytest.raises(ValueError, match="top_k"):
        classifier(iter([]), top_k=0)


def test_samples_far_too_large_have_no_answer(classifier):
    wavs = torch.randn(2, 8000)
    wavs[1] *= 1e30
    with pytest.raises(AudioError, match=r"wavs\[1\] has no finite embedding: its samples reach"):
        classifier.classify_batch(wavs)


def test_a_batch_that_does_not_fit_says_what_to_lower(classifier, tones, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(classifier.mods.embedding_model, "_embed", full)
    advice = "^a batch does not fit into memory. Give fewer or shorter waveforms"
    with pytest.raises(RuntimeError, match=advice):
        classifier.classify_batch(torch.zeros(2, 800))
    # Of a file alone it may also be that file's error.
    with pytest.raises((RuntimeError, AudioError), match="fit into"):
        classifier(tones[0])


def test_what_is_wrong_in_a_fetched_file_names_the_address(classifier, tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(b"<html>")

    class Fetched:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return path

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(recordings, "fetched", Fetched)
    for call in (classifier, classifier.classify_file, classifier.load_audio):
        with pytest.raises(AudioError, match="https://a.b/c.wav.* unreadable") as caught:
            call("https://a.b/c.wav")
        assert str(path) not in str(caught.value)


def test_threads_share_one(exported):
    classifier = GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")
    wavs = [torch.randn(1, 4000 + 500 * i) for i in range(8)]
    alone = [classifier.classify_batch(wav)[0] for wav in wavs]

    def ask(i):
        words = classifier.encode_text([f"so {i}", "so sad"])
        return classifier.classify_batch(wavs[i])[0], words[1]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    for (posteriors, words), expected in zip(found, alone, strict=True):
        torch.testing.assert_close(posteriors, expected, rtol=0, atol=0)
        torch.testing.assert_close(words, found[0][1], rtol=0, atol=1e-6)


def test_copies_answer_alike(classifier):
    wavs = torch.randn(2, 8000)
    classifier.encode_text(["so sad"])
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        torch.testing.assert_close(
            other.classify_batch(wavs)[0], classifier.classify_batch(wavs)[0], rtol=0, atol=0
        )
        torch.testing.assert_close(
            other.encode_text(["so sad"]), classifier.encode_text(["so sad"]), rtol=0, atol=1e-6
        )


@pytest.mark.slow
def test_workers_of_a_data_loader_can_ask_it(classifier, tones):
    wavs = [torch.from_numpy(samples(path)) for path in tones[:3]]

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return len(wavs)

        def __getitem__(self, i):
            return classifier.classify_batch(wavs[i])[0]

    found = list(DataLoader(Dataset(), batch_size=None, num_workers=2, timeout=120))
    for row, wav in zip(found, wavs, strict=True):
        torch.testing.assert_close(row, classifier.classify_batch(wav)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", ["meta", "nonsense", 5])
def test_a_device_that_is_none_is_one_line(exported, device):
    if device == 5 and torch.cuda.device_count() > 5:
        pytest.skip("that is a device here")
    with pytest.raises(ValueError, match="^device: [^\n]* cannot be used: [^\n]*$"):
        GEmoCLAPClassifier.from_pretrained(exported["scratch"], device=device)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, None])
def test_retrieve_wants_a_count(classifier, tones, top_k):
    with pytest.raises(ValueError, match="top_k: expected 1 or more"):
        classifier.retrieve("so sad", tones, top_k=top_k)
