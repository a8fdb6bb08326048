"""Utterances heard at several speeds outside of training, against each speed by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio

from gemoclap_sb.lobes import MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import build_model, heard_speeds, model_config
from gemoclap_sb.models.towers import AudioTower
from tests.run_folders import telling_model

SPEEDS = [80, 100, 125]
SAMPLES = (9000, 16000, 4000)


@pytest.fixture
def model():
    model = telling_model()
    model.tta_speeds, model.trim_db = SPEEDS, 30.0
    return model


@pytest.fixture(scope="module")
def wavs():
    """Three utterances and noise past their ends."""
    generator = torch.Generator().manual_seed(0)
    wavs = torch.randn(len(SAMPLES), max(SAMPLES), generator=generator) * 0.1
    return wavs, torch.tensor(SAMPLES) / max(SAMPLES)


@torch.no_grad()
def test_pooled_vectors_are_the_mean_over_the_speeds_of_each_alone(model, wavs):
    found = model.pool(*wavs)
    model.tta_speeds = None
    for row, wav, samples in zip(found, wavs[0], SAMPLES, strict=True):
        played = [torchaudio.functional.resample(wav[:samples], of, 100) for of in SPEEDS]
        assert [len(of) for of in played] == [-(-samples * 100 // of) for of in SPEEDS]
        each = [model.pool(of[None], torch.ones(1))[0] for of in played]
        torch.testing.assert_close(row, torch.stack(each).mean(dim=0), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(row, each[1], rtol=1e-2)


@torch.no_grad()
def test_training_hears_once(model, wavs):
    natural = model.pool(*wavs)
    model.hears_once = True
    once = model.pool(*wavs)
    model.hears_once, model.tta_speeds = False, None
    assert torch.equal(once, model.pool(*wavs))
    assert not torch.allclose(once, natural, rtol=1e-2)
    # Dropout and masks would tell two passes apart.
    model.pooling = MaskedMeanPooling(model.audio_encoder.output_size)
    model.tta_speeds = SPEEDS
    heard = []
    model.audio_encoder.register_forward_hook(lambda *given: heard.append(len(given[1][0])))
    model.train()
    model.pool(*wavs)
    assert heard == [len(SAMPLES)]


@torch.no_grad()
def test_half_precision_rounds_no_waveform(model, wavs):
    heard = []
    model.audio_encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.pool(*wavs)
    for of, speed in zip(heard, SPEEDS, strict=True):
        assert of.dtype == torch.float32
        expected = torchaudio.functional.resample(wavs[0][1], speed, 100)
        # The longest, whose ends are loud, is trimmed by nothing.
        torch.testing.assert_close(of[1], expected)


@torch.no_grad()
def test_an_exports_description_has_the_speeds(model, wavs):
    config = model_config(model)
    assert config["tta_speeds"] == heard_speeds(config) == SPEEDS
    once = {**config, "tta_speeds": None}
    assert heard_speeds(once) == [100]
    assert heard_speeds({"members": [once, {**config, "tta_speeds": [90]}]}) == [90, 100]
    again = build_model(config).eval()
    again.load_state_dict(model.state_dict())
    tower = AudioTower(config).eval()
    tower.load_state_dict(model.state_dict(), strict=False)
    expected = model.encode_audio(*wavs)
    np.testing.assert_allclose(again.encode_audio(*wavs), expected, atol=1e-5)
    for of in (tower, AudioTower.of(model)):
        np.testing.assert_allclose(of(*wavs)[:, 0], expected, atol=1e-5)
    del config["tta_speeds"]
    assert build_model(config).tta_speeds is None


@torch.no_grad()
def test_the_baseline_averages_its_scores(wavs):
    lobe = ResNetEncoder(n_mels=20, channels=[4], strides=[2])
    pooling = MaskedMeanPooling(lobe.output_size)
    model = AudioClassifier(lobe, pooling, num_classes=3, tta_speeds=SPEEDS).eval()
    found = model(*wavs)["emotion"].logits
    each = []
    for speed in SPEEDS:
        model.tta_speeds = [speed]
        each.append(model(*wavs)["emotion"].logits)
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_of_layers_are_those_of_the_trimmed_lobe(model, wavs):
    padded = wavs[0].clone()
    padded[0, :3000] = 0.0  # silence, which the model leaves out
    lobe = model.audio_encoder
    frames, lengths = model.encode_layer_frames(padded, wavs[1], [1, 2])
    assert torch.equal(lengths, model.encode_frames(padded, wavs[1])[1])
    for row, count in zip(frames, lengths, strict=True):
        assert not row[count:].any()
    trimmed = model.trim(padded[:1, : SAMPLES[0]], torch.ones(1))[0]
    assert trimmed.shape[1] == 7000
    alone = lobe.layer_frames(trimmed, None, [1, 2])[0]
    torch.testing.assert_close(frames[0, : lengths[0]], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_lobe_without_frames_of_layers_is_named(model, wavs):
    model.audio_encoder = torch.nn.Identity()
    with pytest.raises(
        ValueError, match="audio_encoder \\(Identity\\).*layer_frames.*frame_lengths"
    ):
        model.encode_layer_frames(*wavs, [1])


def test_speeds_that_are_none_are_named():
    lobe = ResNetEncoder(n_mels=20, channels=[4], strides=[2])
    with pytest.raises(ValueError, match="tta_speeds: expected one or more whole numbers"):
        AudioClassifier(lobe, MaskedMeanPooling(lobe.output_size), 3, tta_speeds=[])
