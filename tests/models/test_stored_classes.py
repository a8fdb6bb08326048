"""Stored embeddings of classes: as good as computed ones, and never of another model's texts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.inference.loading import DEFAULT_FOLDER
from gemoclap_sb.models.weights import WeightsError
from tests.conftest import ROOT

KINDS = ("scratch", "pretrained")


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported["scratch"], tmp_path / "model")


def load(folder, **options):
    return GEmoCLAPClassifier.from_pretrained(folder, device="cpu", **options)


def has_text_tower(classifier):
    return classifier._text_tower is not None


@pytest.mark.parametrize("kind", KINDS)
def test_stored_classes_are_those_of_the_text_tower(exported, tmp_path, kind):
    stored = load(exported[kind])
    bare = shutil.copytree(exported[kind], tmp_path / "bare")
    (bare / "classifier.ckpt").unlink()
    computed = load(bare)
    assert (has_text_tower(stored), has_text_tower(computed)) == (False, True)
    for name in ("classes", "scale"):
        found, expected = (getattr(c.mods.classifier, name) for c in (stored, computed))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    wavs = torch.randn(2, 8000)
    found, expected = stored.encode_batch(wavs), computed.encode_batch(wavs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not has_text_tower(stored)
    found, expected = (c.encode_text(["so sad"]) for c in (stored, computed))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_some_of_the_models_own_classes_need_no_text_tower(exported):
    classifier = load(exported["scratch"])
    wavs = torch.randn(2, 8000)
    every = classifier.classify_batch(wavs)[0]
    some = classifier.classify_batch(wavs, labels={"x": "sad", "y": "angry"})
    expected = every[:, [3, 0]].log_softmax(dim=1)
    torch.testing.assert_close(some[0], expected, rtol=0, atol=1e-5)
    assert set(some[3]) <= {"x", "y"}
    assert not has_text_tower(classifier)
    # The second head's are not stored.
    assert has_text_tower(load(exported["scratch"], attribute="gender"))


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def weights(change):
    def changed(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        # A hard link would be changed with it.
        path.unlink()
        save_file(tensors, path)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        weights(lambda of: of["text_projection.layers.0.weight"].mul_(1.5)),
        weights(lambda of: of["audio_scales.emotion.log_scale"].add_(0.1)),
        lambda folder: rewritten(
            folder / "config.json", lambda of: of["words"]["emotion"].update(sad="gloomy")
        ),
        lambda folder: rewritten(
            folder / "config.json", lambda of: of["templates"].update(emotion=["so {}"])
        ),
        lambda folder: (folder / "classifier.ckpt").write_bytes(b"\x80no"),
        lambda folder: (folder / "classifier.ckpt").write_bytes(
            (folder / "classifier.ckpt").read_bytes()[:-9]
        ),
    ],
    ids=["text", "scale", "words", "templates", "pickle", "cut"],
)
def test_what_belongs_to_other_texts_is_computed_anew(folder, change):
    change(folder)
    classifier = load(folder)
    assert has_text_tower(classifier)
    (folder / "classifier.ckpt").unlink()
    expected = load(folder).mods.classifier
    for name in ("classes", "scale"):
        found = getattr(classifier.mods.classifier, name)
        torch.testing.assert_close(found, getattr(expected, name), rtol=0, atol=0)


def test_a_calibration_that_was_edited_counts(folder):
    rewritten(folder / "config.json", lambda of: of.update(calibration={"emotion": 7.5}))
    assert load(folder).mods.classifier.scale.item() == 7.5


def test_stored_classes_that_are_not_finite_are_not_used(folder):
    from safetensors import safe_open

    path = folder / "classifier.ckpt"
    with safe_open(path, "pt") as file:
        digest = file.metadata()
    tensors = load_file(path)
    tensors["classes"][0, 0] = float("nan")
    save_file(tensors, path, metadata=digest)
    assert torch.isfinite(load(folder).mods.classifier.classes).all()


def test_a_text_tower_that_changed_since_is_refused(folder):
    classifier = load(folder)
    weights(lambda of: of["text_projection.layers.0.weight"].mul_(1.5))(folder)
    assert classifier.classify_batch(torch.randn(1, 8000))[0].shape == (1, 4)
    with pytest.raises(WeightsError, match="not the one that was here .* Load the model again"):
        classifier.encode_text(["so sad"])


@pytest.mark.parametrize("way", ["from_pretrained", "from_hparams"])
def test_a_relative_folder_stays_valid_elsewhere(folder, tmp_path, monkeypatch, way):
    monkeypatch.chdir(folder.parent)
    classifier = getattr(GEmoCLAPClassifier, way)(folder.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert classifier.encode_text(["so sad"]).shape == (1, 24)


HEAVY = """
import sys
from gemoclap_sb.cli.parser import main
for model in sys.argv[2:]:
    assert main(["classify", sys.argv[1], "--model", model]) == 0
names = "transformers", "scipy.signal", "sklearn", "pandas", "matplotlib", "torch._dynamo", "sympy"
names += "gemoclap_sb.training", "gemoclap_sb.evaluation", "speechbrain.integrations.huggingface"
print("heavy:", [name for name in names if name in sys.modules])
"""


@pytest.mark.slow
def test_classifying_from_scratch_imports_what_it_uses(exported, tones):
    paths = [str(path) for path in (tones[0], exported["scratch"], DEFAULT_FOLDER)]
    command = [sys.executable, "-c", HEAVY, *paths]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.endswith("heavy: []\n")
