"""Embeddings of sentences, each computed once, a bounded number at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

import torch
from torch import Tensor

CACHED_SENTENCES = 10_000
# In a batch: what a large text encoder holds for as many of its longest stays below 1 GB.
_CHUNK = 64


class SentenceCache:
    """The sentences asked for last, and their embeddings ``[D]``; for any number of threads.

    A copy begins empty: embeddings are bound to a device, and a lock to its process.

    Examples
    --------
    >>> cache = SentenceCache()
    >>> cache.embed(["sad", "so sad"], lambda new: torch.tensor([[float(len(s))] for s in new]))
    tensor([[3.],
            [6.]])
    >>> cache.embed(["sad"], lambda new: 1 / 0)
    tensor([[3.]])
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), ()

    def embed(self, sentences: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """Embed N sentences ``[N, D]``; ``encode`` is called for new ones, a chunk at a time."""
        found = dict.fromkeys(sentences)
        with self._lock:
            for sentence in found.keys() & self._kept.keys():
                found[sentence] = self._kept[sentence]
                self._kept.move_to_end(sentence)
        # Like lengths together: a chunk is padded to its longest.
        new = sorted((s for s, embedding in found.items() if embedding is None), key=len)
        for i in range(0, len(new), _CHUNK):
            chunk = new[i : i + _CHUNK]
            # Rows of their own: one that stays must not keep its chunk.
            found.update((s, row.clone()) for s, row in zip(chunk, encode(chunk), strict=True))
        with self._lock:
            self._kept.update((sentence, found[sentence]) for sentence in new[-CACHED_SENTENCES:])
            while len(self._kept) > CACHED_SENTENCES:
                self._kept.popitem(last=False)
        return torch.stack([found[sentence] for sentence in sentences])


def checked_sentences(sentences: Iterable[str]) -> list[str]:
    """List sentences; ValueError if there is none, or one is no text that can be encoded."""
    if isinstance(sentences, str | bytes) or not isinstance(sentences, Iterable):
        raise ValueError(f"sentences: expected a list of one or more, found {sentences!r}.")
    sentences = list(sentences)
    if not sentences:
        raise ValueError("sentences: expected a list of one or more, found none.")
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(f"sentences[{i}]: expected some words, found {sentence!r}.")
        try:
            sentence.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"sentences[{i}]: expected text, found {sentence!r}, which has no UTF-8."
            ) from None
    return sentences
