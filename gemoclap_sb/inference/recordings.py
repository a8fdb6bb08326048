"""Recordings as callers have them: files here, files elsewhere, samples in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from speechbrain.utils.fetching import FetchSource
from torch import Tensor

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.fetching import fetched, is_remote
from gemoclap_sb.inference.bulk import (
    FileEmbedding,
    Recording,
    embed_batch,
    make_batches,
    read_recording,
)
from gemoclap_sb.inference.memory import memory_advice
from gemoclap_sb.inference.results import embedding_of
from gemoclap_sb.inference.waveforms import as_waveform
from gemoclap_sb.models.towers import AudioTower

_FILES = str, os.PathLike, FetchSource
_IN_MEMORY = bytes, bytearray, memoryview, Mapping, np.ndarray, np.generic, Tensor


def is_one(given: object) -> bool:
    """Whether something is one recording, or nothing that could be several.

    >>> is_one("a.wav"), is_one(np.zeros(3)), is_one(["a.wav"]), is_one(iter(()))
    (True, True, False, False)
    """
    if isinstance(given, _FILES + _IN_MEMORY) or hasattr(given, "get_all_samples"):
        return True
    if hasattr(given, "read") or isinstance(given, set | frozenset):
        what = "an open file; give its bytes, file.read()" if hasattr(given, "read") else "a set"
        raise ValueError(f"expected a recording, or several in an order, found {what}.")
    # A dataset may have the second only.
    return not (hasattr(given, "__iter__") or hasattr(given, "__getitem__"))


@contextmanager
def local_file(
    path: str | os.PathLike | FetchSource, savedir: str | os.PathLike | None = None
) -> Iterator[str | os.PathLike]:
    """Have a recording as a local file; an AudioError inside names it as the caller did."""
    if not is_remote(path):
        scheme, found, _ = str(path).partition("://")
        if found and scheme.isalpha():
            raise AudioError(f"{path}: expected a file, or an address of http or https.")
        yield path
        return
    with fetched(path, savedir) as local:
        try:
            yield local
        except AudioError as error:
            given = path.path if isinstance(path, FetchSource) else path
            raise AudioError(str(error).replace(str(local), str(given))) from error


def read_local(path: str | os.PathLike, tower: AudioTower) -> Recording:
    """Open a local file for a tower; AudioError if it cannot be read."""
    recording = read_recording(path, tower.sample_rate, tower.longest)
    if recording.error is not None:
        raise AudioError(recording.error)
    return recording


def embed_together(
    tower: AudioTower, recordings: Sequence[Recording], device: torch.device | str
) -> list[FileEmbedding]:
    """Embed what was read, in order, what is long by itself; AudioError if one cannot be.

    RuntimeError if it does not fit into memory.
    """
    rows: dict[int, FileEmbedding] = {}
    for batch in make_batches(recordings, tower.sample_rate, len(recordings)):
        with memory_advice("Lower batch_size."):
            of_batch = embed_batch(tower, [recordings[i] for i in batch], device)
        rows.update(zip(batch, of_batch, strict=True))
    for row in rows.values():
        if not torch.isfinite(embedding_of(row)).all():
            raise AudioError(f"{row.path} has no finite embedding; expected samples in [-1, 1].")
    return [rows[i] for i in range(len(recordings))]


def embed_inputs(
    tower: AudioTower,
    inputs: Iterable[tuple[str, Any]],
    device: torch.device | str,
    sampling_rate: int | None = None,
    batch_size: int = 1,
) -> Iterator[FileEmbedding]:
    """Embed recordings of any kind, each with its name for errors, as they come.

    ``sampling_rate`` is that of samples without one, in Hz; by default the tower's. ValueError
    for what is no recording, AudioError for one that cannot be read, RuntimeError if a batch does
    not fit into memory.
    """
    inputs = iter(inputs)
    while True:
        with ExitStack() as stack:
            recordings = []
            for name, given in islice(inputs, min(batch_size, sys.maxsize)):
                if not isinstance(given, _FILES):
                    wav = as_waveform(name, given, sampling_rate, tower.sample_rate)
                    recordings.append(Recording(name, wav))
                elif sampling_rate is None:
                    recordings.append(read_local(stack.enter_context(local_file(given)), tower))
                else:
                    raise ValueError(f"{name}: a file states its rate; leave out sampling_rate.")
            if not recordings:
                return
            rows = embed_together(tower, recordings, device)
        yield from rows
