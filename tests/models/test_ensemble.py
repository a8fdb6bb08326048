from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gemoclap_sb.models.building import ConfigurationError, build_model, model_config
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.gemoclap import class_embeddings
from gemoclap_sb.models.towers import AudioTower, build_text_tower, text_tower_of
from tests.run_folders import make_prompts, telling_model

HEADS = ("emotion", "gender")
SECONDS = (0.005, 0.3, 1.7)


@pytest.fixture(scope="module")
def members():
    """Models of other seeds; one leaves out silence, one hears each utterance twice."""
    models = [telling_model(HEADS, seed) for seed in range(3)]
    models[1].trim_db = 20.0
    models[2].tta_speeds = [90, 110]
    return models


@pytest.fixture(scope="module")
def wavs():
    """Three utterances, louder towards the middle, the last one long."""
    generator = np.random.default_rng(0)
    lengths = [round(16000 * seconds) for seconds in SECONDS]
    padded = np.zeros((3, max(lengths)), np.float32)
    for i, length in enumerate(lengths):
        padded[i, :length] = generator.normal(size=length) * np.hanning(length) ** 4
    return torch.from_numpy(padded), torch.tensor(lengths) / max(lengths)


def mean_cosines(embeddings, others):
    """The formula written out: of each member, cosines of unit vectors; then their mean."""
    cosines = []
    for one, other in zip(embeddings, others, strict=True):
        one, other = (np.asarray(x, np.float64) for x in (one, other))
        lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
        cosines.append(one @ other.T / lengths)
    return np.mean(cosines, axis=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("longest_seconds", [60.0, 0.5])
@torch.no_grad()
def test_cosines_are_the_mean_of_the_members(members, wavs, head, longest_seconds):
    """Of whole utterances, and of long ones that are embedded in pieces."""
    ensemble = GEmoCLAPEnsemble(members)
    options = head, longest_seconds
    found = AudioTower.of(ensemble, *options)(*wavs)[:, 0]
    each = [AudioTower.of(member, *options)(*wavs)[:, 0] for member in members]
    sentences = make_prompts().class_sentences(head)
    classes = ensemble.encode_classes(sentences)
    of_classes = [member.encode_classes(sentences) for member in members]
    assert found.shape == (3, 72)
    np.testing.assert_allclose(found.norm(dim=1), np.ones(3), atol=1e-6)
    np.testing.assert_allclose(found @ classes.T, mean_cosines(each, of_classes), atol=1e-6)
    np.testing.assert_allclose(found @ found.T, mean_cosines(each, each), atol=1e-6)
    # So different that a wrong mean would show.
    cosines = np.stack([a @ c.T for a, c in zip(each, of_classes, strict=True)])
    assert np.ptp(cosines, axis=0).max() > 0.1


@torch.no_grad()
def test_pieces_are_averaged_by_each_member(members, wavs):
    """By hand: two halves of one utterance, averaged and brought to unit length, then joined."""
    wav = wavs[0][2:, :16000]
    parts = []
    for member in members:
        halves = [member.encode_audio(half, torch.ones(1)) for half in wav.split(8000, dim=1)]
        mean = np.mean([half[0].numpy() for half in halves], axis=0)
        parts.append(mean / np.linalg.norm(mean))
    found = AudioTower.of(GEmoCLAPEnsemble(members), longest_seconds=0.5)(wav)[0, 0]
    np.testing.assert_allclose(found, np.concatenate(parts) / np.sqrt(3), atol=1e-6)


@torch.no_grad()
def test_alone_and_in_a_batch_the_same(members, wavs):
    tower = AudioTower.of(GEmoCLAPEnsemble(members))
    together = tower(*wavs)
    for i, seconds in enumerate(SECONDS):
        alone = tower(wavs[0][i : i + 1, : round(16000 * seconds)])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_texts_are_the_mean_of_the_members(members):
    """Of sentences, and of classes that are the mean of several sentences."""
    ensemble = GEmoCLAPEnsemble(members)
    tower, sentences = text_tower_of(ensemble), ["so sad", "so bored", "a female speaker"]
    found, each = tower(sentences), [member.encode_text(sentences) for member in members]
    np.testing.assert_allclose(found @ found.T, mean_cosines(each, each), atol=1e-6)
    classes = make_prompts().class_sentences("emotion")
    found = class_embeddings(classes, tower, AudioTower.of(ensemble).unit)
    torch.testing.assert_close(found, ensemble.encode_classes(classes))


@torch.no_grad()
def test_description_gives_the_same_model_and_towers(members, wavs):
    ensemble = GEmoCLAPEnsemble(members)
    config = {"members": [model_config(member) for member in members]}
    built = build_model(config)
    built.load_state_dict(ensemble.state_dict())
    expected = AudioTower.of(ensemble, "gender")(*wavs)
    tower = AudioTower(config, "gender", freeze=True)
    tower.load_state_dict(AudioTower.of(built, "gender").state_dict())
    torch.testing.assert_close(tower.train()(*wavs), expected, rtol=0, atol=0)
    assert not any(p.requires_grad for p in tower.parameters())
    assert tower.output_size == 72
    text = build_text_tower(config, None, "config.json").eval()
    text.load_state_dict(text_tower_of(ensemble).state_dict())
    torch.testing.assert_close(text(["so sad"]), text_tower_of(ensemble)(["so sad"]))
    assert built.class_scale("gender") == pytest.approx(
        np.mean([member.audio_scales["gender"]().item() for member in members])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["members"].pop(), "expected two members or more, found 1"),
        (lambda c: c.update(members=[]), "expected two members or more, found 0"),
        (lambda c: c.update(members="ab"), "members"),
        (lambda c: c.update(heads=["emotion"]), "unknown keys.*heads"),
        (lambda c: c["members"][1].update(heads=["gender"]), "members with the same heads"),
        (lambda c: c["members"][1].update(code="x"), "unknown keys.*code"),
        (lambda c: c["members"].append({"members": c["members"][:]}), "unknown keys.*members"),
        (lambda c: c["members"][0]["pooling"].update({"class": "os.system"}), "os.system"),
    ],
)
@pytest.mark.parametrize("build", [build_model, AudioTower])
def test_descriptions_that_are_none(members, change, message, build):
    config = copy.deepcopy({"members": [model_config(member) for member in members[:2]]})
    change(config)
    with pytest.raises(ConfigurationError, match=rf"config\.json: .*{message}"):
        build(config)
