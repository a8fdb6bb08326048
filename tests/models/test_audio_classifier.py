"""Classifiers of directions and of further attributes, against NumPy; alone and averaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gemoclap_sb.lobes import AttentiveStatisticsPooling, MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models import AudioClassifier
from gemoclap_sb.models.building import ConfigurationError, build_model, model_config
from gemoclap_sb.models.class_layer import class_rows
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.towers import AudioTower, class_log_posteriors
from gemoclap_sb.objectives import MultiTaskCrossEntropyObjective

CLASSES = 4


def make(cosine_scale=None, seed=0, size=16, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lobe = ResNetEncoder(n_mels=20, channels=[4], strides=[2], output_size=size)
        pooling = AttentiveStatisticsPooling(size, attention_channels=6)
        return AudioClassifier(lobe, pooling, CLASSES, cosine_scale=cosine_scale, **options).eval()


@pytest.fixture(scope="module")
def wavs():
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(3, 16000, generator=generator) * torch.linspace(0.1, 1, 16000)
    return waves, torch.tensor([1.0, 0.4, 0.7])


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@torch.no_grad()
def test_scores_are_scaled_cosines(wavs):
    model = make(cosine_scale=30.0)
    assert model.classifier.bias is None
    output = model(*wavs)["emotion"]
    expected = 30.0 * unit(model.pool(*wavs)) @ unit(model.classifier.weight).T
    np.testing.assert_allclose(output.logits, expected, atol=1e-4)
    assert np.ptp(expected, axis=1).min() > 1
    assert model.class_scores(output) is output.logits
    assert model.class_scale() == 1.0


@torch.no_grad()
def test_cosines_are_not_rounded_under_autocast(wavs):
    model = make(cosine_scale=30.0)
    pooled = model.pool(*wavs)
    model.pool = lambda *_: pooled.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(*wavs)["emotion"].logits
    expected = 30.0 * unit(pooled.bfloat16().float()) @ unit(model.classifier.weight).T
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_dropout_is_of_the_pooled_vector(wavs):
    model = make(cosine_scale=5.0, dropout=0.5)
    pooled = model.pool(*wavs).detach()
    model.pool = lambda *_: pooled
    model.train()
    torch.manual_seed(3)
    found = model(*wavs)["emotion"].logits.detach()
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(pooled, 0.5)
    expected = 5.0 * unit(kept) @ unit(model.classifier.weight.detach()).T
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_named(scale):
    with pytest.raises(ValueError, match="cosine_scale: expected more than 0, or null, found"):
        make(cosine_scale=scale)


@pytest.mark.parametrize("cosine_scale", [None, 30.0])
def test_further_attributes_are_scored_from_the_same_vector(wavs, cosine_scale):
    model = make(cosine_scale)
    alone = model(*wavs)["emotion"].logits
    model.add_classifiers({"gender": 2, "spk_id": 5})
    heard = []
    model.audio_encoder.register_forward_hook(lambda *_: heard.append(1))
    outputs = model(*wavs)
    assert list(outputs) == ["emotion", "gender", "spk_id"]
    assert len(heard) == 1
    assert torch.equal(outputs["emotion"].logits, alone)
    pooled = model.pool(*wavs).detach().numpy()
    for name in ("gender", "spk_id"):
        weight, bias = (of.detach().numpy() for of in model.classifiers[name].parameters())
        found = outputs[name].logits.detach()
        np.testing.assert_allclose(found, pooled @ weight.T + bias, rtol=1e-4, atol=1e-5)
    labels = {"emotion": torch.tensor([0, 1, 2]), "gender": torch.tensor([0, 1, 1])}
    MultiTaskCrossEntropyObjective({"emotion": 0.9, "gender": 0.1})(outputs, labels).backward()
    assert model.classifiers["gender"].weight.grad.abs().sum() > 0


def test_the_own_head_is_no_further_attribute():
    with pytest.raises(ValueError, match="beside the model's head, found 'emotion'"):
        make().add_classifiers({"emotion": 4})


ENSEMBLES = {
    "cosines": [(30.0, 16), (10.0, 24)],
    "mixed": [(None, 16), (30.0, 24), (None, 16)],
    "alone": [(30.0, 16)],
}


@pytest.mark.parametrize("longest_seconds", [60.0, 0.3])
@pytest.mark.parametrize("kind", ENSEMBLES)
@torch.no_grad()
def test_tower_and_rows_give_the_mean_of_the_members_logits(wavs, kind, longest_seconds):
    """Also of recordings in pieces, whose vectors each member averages in its own way."""
    members = [make(scale, i, size) for i, (scale, size) in enumerate(ENSEMBLES[kind])]
    wav = wavs[0][:1]
    pieces = wav.split(4000, dim=1) if longest_seconds < 1 else [wav]
    logits = []
    for model in members:
        vectors = [model.pool(piece, torch.ones(1)).numpy() for piece in pieces]
        weight = model.classifier.weight.numpy()
        if model.cosine_scale is None:
            logits.append(np.mean(vectors, axis=0) @ weight.T + model.classifier.bias.numpy())
        else:
            mean = np.mean([unit(vector) for vector in vectors], axis=0)
            logits.append(model.cosine_scale * unit(mean) @ unit(weight).T)
    mean = np.mean(logits, axis=0)
    expected = mean - np.log(np.exp(mean).sum(axis=1, keepdims=True))
    whole = GEmoCLAPEnsemble(members) if len(members) > 1 else members[0]
    tower = AudioTower.of(whole, longest_seconds=longest_seconds)
    embeddings = tower(wav)[:, 0]
    found = class_log_posteriors(embeddings, class_rows(whole), torch.ones(()))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert tower.of_unit_length == (kind != "mixed")
    if tower.of_unit_length:
        assert embeddings.norm(dim=1).item() == pytest.approx(1.0, abs=1e-6)


@torch.no_grad()
def test_description_gives_the_same_model_and_tower(wavs):
    model = make(cosine_scale=12.5)
    config = json.loads(json.dumps(model_config(model)))
    assert config["cosine_scale"] == 12.5
    again = build_model(config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*wavs)["emotion"].logits, model(*wavs)["emotion"].logits)
    tower = AudioTower(config).eval()
    tower.load_state_dict(AudioTower.of(model).state_dict())
    assert torch.equal(tower(*wavs), AudioTower.of(model)(*wavs))
    np.testing.assert_allclose(tower(*wavs)[:, 0], unit(model.pool(*wavs)), atol=1e-6)


def test_a_linear_layers_description_is_as_it_was():
    lobe = ResNetEncoder(n_mels=20, channels=[4], strides=[2])
    model = AudioClassifier(lobe, MaskedMeanPooling(lobe.output_size), CLASSES)
    model.add_classifiers({"gender": 2})
    config = model_config(model)
    assert list(config) == [
        "audio_encoder",
        "pooling",
        "heads",
        "num_classes",
        "embedding_size",
        "dropout",
        "trim_db",
        "tta_speeds",
    ]
    assert build_model(config).cosine_scale is None


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0, "cosine_scale of more than 0"),
        (-3.0, "cosine_scale: expected 0 to 1,000"),
        (1e9, "cosine_scale: expected 0 to 1,000"),
        ("30", "cosine_scale"),
        (True, "cosine_scale"),
    ],
)
@pytest.mark.parametrize("build", [build_model, AudioTower])
def test_a_description_of_no_scale_is_refused(scale, message, build):
    config = model_config(make(30.0)) | {"cosine_scale": scale}
    with pytest.raises(ConfigurationError, match=message):
        build(config)
