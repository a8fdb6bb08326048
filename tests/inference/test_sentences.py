"""Sentences: each encoded once, few at a time, by any number of threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gemoclap_sb.inference import sentences as module
from gemoclap_sb.inference.sentences import SentenceCache, checked_sentences


class Encoder:
    """Sentences that are numbers, to them; what was asked together."""

    def __init__(self):
        self.calls = []

    def __call__(self, new):
        self.calls.append(list(new))
        return torch.tensor([[float(sentence)] for sentence in new])


def test_many_sentences_are_encoded_in_chunks_of_like_lengths():
    encoder, asked = Encoder(), [str(i % 15000) for i in range(20000)]
    found = SentenceCache().embed(asked, encoder)
    assert found.flatten().tolist() == [float(sentence) for sentence in asked]
    assert max(map(len, encoder.calls)) <= 64
    assert sorted(sum(encoder.calls, [])) == sorted(set(asked))
    spans = [len(call[-1]) - len(call[0]) for call in encoder.calls]
    assert sum(spans) <= 4


def test_what_was_asked_last_is_kept(monkeypatch):
    monkeypatch.setattr(module, "CACHED_SENTENCES", 3)
    cache, encoder = SentenceCache(), Encoder()
    cache.embed(["1", "2", "3"], encoder)
    cache.embed(["1"], encoder)
    cache.embed(["4"], encoder)
    encoder.calls.clear()
    assert cache.embed(["1", "4", "3"], encoder).flatten().tolist() == [1, 4, 3]
    assert encoder.calls == []
    # More than are kept, some of which push each other out.
    assert cache.embed([str(i) for i in range(9)], encoder).flatten().tolist() == list(range(9))
    assert len(cache) == 3


def test_ten_threads_at_once(monkeypatch):
    monkeypatch.setattr(module, "CACHED_SENTENCES", 5)
    cache = SentenceCache()

    def ask(thread):
        return all(
            cache.embed(asked, Encoder()).flatten().tolist() == [float(s) for s in asked]
            for step in range(200)
            for asked in [[str((thread + step + i) % 12) for i in range(4)]]
        )

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(ask, range(10)))
    assert len(cache) == 5


def test_a_copy_begins_empty():
    cache = SentenceCache()
    cache.embed(["1"], Encoder())
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert len(other) == 0
        assert other.embed(["2"], Encoder()).item() == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["so sad", 5], r"sentences\[1\]: expected some words, found 5"),
        (["so sad", " "], r"sentences\[1\]: expected some words, found ' '"),
        ([""], r"sentences\[0\]: expected some words"),
        (["\ud800"], r"sentences\[0\]: .* no UTF-8"),
        (b"so sad", "expected a list"),
        (None, "expected a list"),
        (iter(()), "expected a list"),
    ],
)
def test_what_is_no_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        checked_sentences(given)


def test_any_iterable_of_sentences():
    assert checked_sentences(word for word in ("a", "b")) == ["a", "b"]
