"""Blocks of frames: whose they are, that they resume, and that they hold what the model gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.lobes import ResNetEncoder
from gemoclap_sb.models import FrameClassifier
from gemoclap_sb.training.frame_features import (
    Block,
    extract_frames,
    plan_blocks,
)

LAYERS = [1, 2]


@pytest.fixture
def rows(small_manifests):
    found = read_manifest(small_manifests["train_csv"], small_manifests["data_root"])
    return dict(list(found.items())[:9])


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = ResNetEncoder(n_mels=16, channels=[4, 8], strides=[1, 2], output_size=8)
    return FrameClassifier(encoder, trim_db=40)


def extract(folder, rows, model, seconds=5.0, seed=1, batch_size=4):
    blocks = plan_blocks(folder, "train", rows, seconds, seed)
    extract_frames(blocks, build_dataset(rows, {}), rows, model, LAYERS, batch_size)
    return blocks


def test_blocks_share_the_utterances_and_last_as_long_as_asked():
    rows = {f"u{place}": {"duration": 1.0 + place % 3} for place in range(50)}
    blocks = plan_blocks("x", "train", rows, 10.0, seed=1)
    assert sorted(name for block in blocks for name in block.ids) == sorted(rows)
    seconds = [sum(rows[name]["duration"] for name in block.ids) for block in blocks]
    assert min(seconds[:-1]) >= 10.0 and max(seconds) < 13.0
    assert blocks == plan_blocks("x", "train", rows, 10.0, seed=1)
    # Dealt at random, by the seed: corpora are sorted by speaker.
    assert blocks[0].ids != plan_blocks("x", "train", rows, 10.0, seed=2)[0].ids
    assert list(blocks[0].ids) != list(rows)[: len(blocks[0].ids)]


def test_a_block_holds_each_utterances_frames_as_it_has_them_alone(tmp_path, rows, model):
    blocks = extract(tmp_path, rows, model)
    assert len(blocks) > 1
    dataset = build_dataset(rows, {})
    sig = {name: dataset[place]["sig"] for place, name in enumerate(rows)}
    model.eval()
    for block in blocks:
        frames, lengths = block.read()
        assert frames.dtype == np.float32
        for name, of in zip(block.ids, np.split(frames, np.cumsum(lengths)[:-1]), strict=True):
            with torch.no_grad():
                alone, count = model.encode_layer_frames(sig[name][None], torch.ones(1), LAYERS)
            assert len(of) == int(count) == alone.shape[1]
            np.testing.assert_allclose(of, alone[0].numpy(), atol=2e-5)
    assert [block.count() for block in blocks] == [len(block.read()[0]) for block in blocks]


def test_only_what_is_missing_is_extracted(tmp_path, rows, model, monkeypatch):
    blocks = extract(tmp_path, rows, model)
    before = {block.path: block.path.read_bytes() for block in blocks}
    blocks[0].path.unlink()
    embedded = []
    encode = model.encode_layer_frames

    def watched(wavs, wav_lens, layers):
        embedded.append(len(wavs))
        return encode(wavs, wav_lens, layers)

    monkeypatch.setattr(model, "encode_layer_frames", watched)
    extract(tmp_path, rows, model)
    assert sum(embedded) == len(blocks[0].ids)
    assert {block.path: block.path.read_bytes() for block in blocks} == before


def test_a_block_of_other_utterances_is_refused(tmp_path, rows, model):
    block, *_ = extract(tmp_path, rows, model)
    with pytest.raises(ValueError, match=r"train_000000.npz is not of its 1 utterances"):
        Block(block.path, ("another",)).read()


def test_a_damaged_block_is_named(tmp_path, rows, model):
    block, *_ = extract(tmp_path, rows, model)
    block.path.write_bytes(block.path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"train_000000.npz is damaged .*: delete it"):
        block.read()
