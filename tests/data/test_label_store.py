"""Labels of frames come back as they were written, and a damaged store is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gemoclap_sb.data.label_store import INDEX, LABELS, LabelStoreError, read_labels, write_labels


def random_blocks(num_classes: list[int], seed: int = 0) -> list[tuple]:
    draw = np.random.default_rng(seed)
    blocks = []
    for block in range(3):
        lengths = draw.integers(1, 9, size=4)
        ids = [f"utterance {block}/{place}" for place in range(4)]
        labels = np.stack([draw.integers(0, n, lengths.sum()) for n in num_classes], axis=1)
        blocks.append((ids, lengths, labels))
    return blocks


@pytest.mark.parametrize(
    ("num_classes", "kind"),
    [([2, 256], "uint8"), ([2, 257], "uint16"), ([8, 2**16], "uint16"), ([2**16 + 1], "uint32")],
)
def test_labels_come_back_and_take_no_more_bytes_than_they_need(tmp_path, num_classes, kind):
    blocks = random_blocks(num_classes)
    # The largest label there can be.
    blocks[0][2][0] = np.array(num_classes) - 1
    frames = sum(len(labels) for _, _, labels in blocks)
    write_labels(tmp_path, blocks, frames, num_classes, {"a": [1]})
    store = read_labels(tmp_path)
    assert store.labels.dtype == kind
    assert store.num_classes == num_classes
    assert store.record == {"a": [1]}
    for ids, lengths, labels in blocks:
        for name, of in zip(ids, np.split(labels, np.cumsum(lengths)[:-1]), strict=True):
            assert np.array_equal(store.of(name).numpy(), of)
    # What NumPy itself reads of the file.
    assert np.array_equal(np.load(tmp_path / LABELS), np.concatenate([of[2] for of in blocks]))


def written(folder):
    write_labels(folder, [(["a"], [2], np.array([[1], [0]]))], 2, [2], {})
    return folder


def test_an_utterance_without_labels_is_named(tmp_path):
    with pytest.raises(LabelStoreError, match="'b'"):
        read_labels(written(tmp_path)).of("b")


def test_a_count_that_does_not_fit_writes_no_index(tmp_path):
    with pytest.raises(LabelStoreError, match="expected 3 frames, found 2"):
        write_labels(tmp_path, [(["a"], [2], np.zeros((2, 1)))], 3, [2], {})
    assert not (tmp_path / INDEX).exists()


def damage_labels(folder):
    path = folder / LABELS
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def cut_labels(folder):
    path = folder / LABELS
    path.write_bytes(path.read_bytes()[:-1])


def damage_index(folder):
    (folder / INDEX).write_text("{")


def empty_index(folder):
    (folder / INDEX).write_text(json.dumps({}))


@pytest.mark.parametrize(
    "damage",
    [damage_labels, cut_labels, damage_index, empty_index, lambda of: (of / LABELS).unlink()],
)
def test_a_damaged_store_is_refused(tmp_path, damage):
    damage(written(tmp_path))
    with pytest.raises(LabelStoreError, match="cannot be read"):
        read_labels(tmp_path)
