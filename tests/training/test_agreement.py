"""Classifiers of further attributes: which are added, trained and left out of an export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.lobes import MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models import AudioClassifier
from gemoclap_sb.objectives import (
    CrossEntropyObjective,
    MarginSoftmaxObjective,
    MultiTaskCrossEntropyObjective,
    MultiTaskObjective,
    SoftLabelObjective,
)
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.experiment import main
from gemoclap_sb.training.settings import ExperimentError
from tests.run_folders import ROOT, make_prompts, scratch_model

TWO = {"emotion": 0.9, "gender": 0.1}


def classifier(**options):
    lobe = ResNetEncoder(n_mels=20, channels=[4], strides=[2])
    return AudioClassifier(lobe, MaskedMeanPooling(lobe.output_size), 4, **options)


def added(model, objective):
    words = make_prompts().words
    hparams = {"modules": {"clap": model}, "objective": objective}
    add_classifiers(hparams | {"label_encoders": label_encoders(words, words)})
    return {name: layer.out_features for name, layer in model.classifiers.items()}


def test_a_classifier_for_each_attribute_that_the_objective_reads_besides():
    assert added(classifier(), MultiTaskCrossEntropyObjective(TWO)) == {"gender": 2}
    one = MultiTaskCrossEntropyObjective({"emotion": 1.0, "gender": 0.0})
    assert added(classifier(), one) == {}
    assert added(classifier(), CrossEntropyObjective()) == {}
    assert added(classifier(cosine_scale=30), MarginSoftmaxObjective(scale=30.0)) == {}
    assert added(classifier(), MarginSoftmaxObjective(scale=None)) == {}
    assert added(scratch_model(), SoftLabelObjective(TWO)) == {}
    joint = MultiTaskObjective(TWO, cross_entropy_weight=0.5)
    assert added(scratch_model(heads=("emotion", "gender")), joint) == {"emotion": 4, "gender": 2}


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        (classifier, MultiTaskCrossEntropyObjective({"gender": 1.0})),
        (classifier, MultiTaskObjective(TWO)),
        (classifier, CrossEntropyObjective("gender")),
        (scratch_model, MultiTaskObjective(TWO, cross_entropy_weight=0.5)),
    ],
)
def test_an_objective_of_other_heads_is_refused(model, objective):
    with pytest.raises(ExperimentError, match="heads: the model has emotion, the objective trains"):
        added(model(), objective)


@pytest.mark.parametrize(("scale", "told"), [(None, "null"), (20.0, "20")])
def test_a_margin_of_another_scale_is_refused(scale, told):
    message = f"objective's is 30, the model's cosine_scale is {told}. Let them agree"
    with pytest.raises(ExperimentError, match=message):
        added(classifier(cosine_scale=scale), MarginSoftmaxObjective(scale=30.0))


def test_an_experiment_of_two_attributes_trains_and_exports_one(small_manifests, tmp_path):
    text = (ROOT / "hparams/ravdess_cross_entropy.yaml").read_text()
    text = text.replace(".CrossEntropyObjective", ".MultiTaskCrossEntropyObjective")
    text = text.replace("    attribute: emotion\n", "    weights: {emotion: 0.9, gender: 0.1}\n")
    text = text.replace("    only:\n", "        gender: {F: female, M: male}\n    only:\n")
    (tmp_path / "two.yaml").write_text(text)
    options = {f"{of}_csv": small_manifests[f"{of}_csv"] for of in ("train", "valid", "test")}
    options |= {"data_folder": small_manifests["data_root"], "output_folder": tmp_path / "run"}
    options |= {"n_mels": 20, "channels": [4, 8], "strides": [1, 2], "frame_size": 16}
    options |= {"number_of_epochs": 1, "batch_size": 8, "classes": "[ang, hap, neu, sad]"}
    options |= {"micro_batch_size": 4, "mixup": 0.2, "tta_speeds": "null"}
    argv = [str(tmp_path / "two.yaml"), "--device", "cpu"]
    argv += sum(([f"--{key}", str(of)] for key, of in options.items()), [])
    assert main(None, argv) == 0
    [kept] = (tmp_path / "run/save").glob("CKPT*/clap.ckpt")
    weights = torch.load(kept, weights_only=True)
    assert weights["classifiers.gender.weight"].shape == (2, 32)

    folder = export(tmp_path / "run", tmp_path / "out")
    exported = load_file(folder / "model.safetensors")
    left_out = {"classifiers.gender.weight", "classifiers.gender.bias"}
    assert set(weights) - set(exported) == left_out
    assert json.loads((folder / "config.json").read_text())["model"]["heads"] == ["emotion"]
    expected = Predictions.read(tmp_path / "run/predictions.csv")
    rows = read_manifest(small_manifests["test_csv"], small_manifests["data_root"])
    model = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = model.classify_files([rows[name]["wav"] for name in expected.ids])
    found = [[*row.probabilities.values()] for row in found]
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
