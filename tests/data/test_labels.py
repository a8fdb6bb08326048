"""Labels to indices: of attributes with words, and of any other column."""

from __future__ import annotations

import pytest
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.data_pipeline import DynamicItem

from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.labels import label_encoders

WORDS = {"emotion": {"sad": "sad", "ang": "angry"}}


def rows(folder):
    path = folder / "a.wav"
    soundfile.write(path, [0.1] * 800, 16000)
    cells = [("ang", "s2", 3), ("sad", "s10", 5), ("ang", "s2", 4)]
    return {
        str(i): {"wav": str(path), "emotion": emotion, "spk_id": speaker, "frames": frames}
        for i, (emotion, speaker, frames) in enumerate(cells)
    }


def test_words_give_the_order_and_other_columns_are_sorted(tmp_path):
    train, test = rows(tmp_path), {"x": {"emotion": "sad", "spk_id": "s1"}}
    encoders = label_encoders(["emotion", "spk_id"], WORDS, [train, test])
    assert encoders["emotion"].lab2ind == {"sad": 0, "ang": 1}
    # A speaker who is only tested has an index too.
    assert encoders["spk_id"].lab2ind == {"s1": 0, "s10": 1, "s2": 2}


def test_batch_has_texts_and_indices(tmp_path):
    data = rows(tmp_path)
    encoders = label_encoders(["emotion", "spk_id"], WORDS, [data])
    dataset = build_dataset(data, encoders)
    batch = PaddedBatch([dataset[i] for i in range(3)])
    assert batch.emotion == ["ang", "sad", "ang"]
    assert batch.emotion_encoded.tolist() == [1, 0, 1]
    assert batch.spk_id_encoded.tolist() == [1, 0, 1]
    assert batch.spk_id_encoded.dtype == torch.int64


def test_labels_of_frames_are_padded_together(tmp_path):
    data = rows(tmp_path)
    items = [DynamicItem(["frames"], lambda n: torch.arange(n), ["cluster_encoded"])]
    dataset = build_dataset(data, label_encoders(["emotion"], WORDS, [data]), items=items)
    batch = PaddedBatch([dataset[i] for i in range(3)])
    assert batch.cluster_encoded.data.tolist() == [
        [0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 1, 2, 3, 0]
    ]  # fmt: skip


def test_label_without_a_word_is_refused(tmp_path):
    encoders = label_encoders(["emotion"], WORDS)
    data = {"0": {**rows(tmp_path)["0"], "emotion": "fru"}}
    with pytest.raises(KeyError, match="fru"):
        build_dataset(data, encoders)[0]
