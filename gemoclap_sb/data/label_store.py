"""Labels of frames on disk: a few bytes for each, found by the utterance's ID.

labels.npy    the labels of all utterances one after the other, [frames, scales], read as they are
              needed
labels.json   whose they are and what they were made from; written last

Nothing in it is a pickle.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import LongTensor

from gemoclap_sb.files import atomic_path, file_digest, read_json, write_json

LABELS, INDEX = "labels.npy", "labels.json"


class LabelStoreError(ValueError):
    """A store of labels is damaged, or has no labels for an utterance."""


@dataclass(frozen=True)
class LabelStore:
    """Labels of frames by utterance.

    Attributes
    ----------
    labels : np.ndarray
        ``[frames, scales]``, on disk.
    spans : Mapping[str, tuple of int and int]
        First frame of each utterance, and the one after its last.
    num_classes : Sequence[int]
        How many classes each scale has.
    record : Mapping[str, Any]
        What the labels were made from.
    """

    labels: np.ndarray
    spans: Mapping[str, tuple[int, int]]
    num_classes: Sequence[int]
    record: Mapping[str, Any]

    def of(self, utterance: str) -> LongTensor:
        """Read the labels of an utterance, ``[F, scales]``; LabelStoreError if there are none."""
        if utterance not in self.spans:
            raise LabelStoreError(f"no frame labels for the utterance {utterance!r}.")
        start, stop = self.spans[utterance]
        return torch.from_numpy(self.labels[start:stop].astype(np.int64))


def write_labels(
    folder: str | os.PathLike,
    blocks: Iterable[tuple[Sequence[str], Sequence[int], np.ndarray]],
    num_frames: int,
    num_classes: Sequence[int],
    record: Mapping[str, Any],
) -> None:
    """Write a store, block by block, each the IDs, their numbers of frames, and their labels.

    Parameters
    ----------
    folder : str or os.PathLike
        Made if it is missing.
    blocks : Iterable
        IDs, frames of each, and labels ``[frames of all, scales]``, of one block after the other.
    num_frames : int
        Frames of all blocks.
    num_classes : Sequence[int]
        Classes of each scale: labels are from 0 to one less.
    record : Mapping[str, Any]
        What the labels are made from, for JSON.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> blocks = [(["a", "b"], [2, 1], np.array([[0, 7], [1, 5], [3, 6]]))]
    >>> write_labels(folder, blocks, 3, [4, 8], {"seed": 1})
    >>> store = read_labels(folder)
    >>> store.of("a"), store.labels.dtype, store.record
    (tensor([[0, 7],
            [1, 5]]), dtype('uint8'), {'seed': 1})
    """
    folder = Path(folder)
    kind = np.min_scalar_type(max(num_classes) - 1)
    utterances: dict[str, int] = {}
    with atomic_path(folder / LABELS) as temporary, open(temporary, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": (num_frames, len(num_classes)),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for ids, lengths, labels in blocks:
            utterances.update(zip(ids, map(int, lengths), strict=True))
            file.write(np.ascontiguousarray(labels, dtype=kind).tobytes())
    written = sum(utterances.values())
    if written != num_frames:
        raise LabelStoreError(f"{folder}: expected {num_frames} frames, found {written}.")
    index = {
        "record": dict(record),
        "num_classes": list(num_classes),
        "sha256": file_digest(folder / LABELS),
        "frames": utterances,
    }
    write_json(folder / INDEX, index)


def read_labels(folder: str | os.PathLike) -> LabelStore:
    """Open a store; LabelStoreError if it is damaged or not there."""
    folder = Path(folder)
    try:
        index = read_json(folder / INDEX)
        if file_digest(folder / LABELS) != index["sha256"]:
            raise ValueError(f"{LABELS} does not hold what was written")
        labels = np.load(folder / LABELS, mmap_mode="r", allow_pickle=False)
        stops = np.cumsum(list(index["frames"].values())).tolist()
        spans = zip([0, *stops[:-1]], stops, strict=True)
        named = dict(zip(index["frames"], spans, strict=True))
        return LabelStore(labels, named, index["num_classes"], index["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelStoreError(f"the frame labels in {folder} cannot be read: {error}.") from error
