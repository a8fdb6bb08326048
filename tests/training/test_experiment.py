"""From a command line to metrics.json: results and resumption."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, log_loss

import gemoclap_sb.training.gemoclap_brain
import gemoclap_sb.training.results
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.uncertainty import confidence_intervals
from gemoclap_sb.export import export
from gemoclap_sb.models import GEmoCLAP
from gemoclap_sb.training.checkpoints import recorded_history
from gemoclap_sb.training.experiment import main
from tests.run_folders import ROOT, TINY, own_manifests, tiny_run

TRAIN = ROOT / "recipes/IEMOCAP/gemoclap/train.py"


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def predictions_of(folder: Path) -> str:
    return (folder / "predictions.csv").read_text()


def test_result_has_what_the_contract_says(small_run, small_manifests):
    folder, printed = small_run
    result = metrics_of(folder)
    confusion = np.array(result["confusion"])
    test = pd.read_csv(small_manifests["test_csv"])
    assert result["labels"] == ["ang", "hap", "neu", "sad"]
    assert result["n_test"] == len(test) == confusion.sum()
    assert confusion.sum(axis=1).tolist() == [
        (test.emotion == label).sum() for label in result["labels"]
    ]
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    assert result["war"] == pytest.approx(confusion.trace() / confusion.sum())
    assert result["uar"] == pytest.approx(recalls.mean())
    assert list(result["per_class_recall"].values()) == pytest.approx(recalls.tolist())
    assert (result["fold"], result["seed"]) == (1, 1)
    assert result["hparams_file"].endswith("sl_scratch.yaml")
    for words in ("WAR", "UAR", "recall", "confusion matrix: " + str(folder / "confusion.png")):
        assert words in printed
    for picture in ("confusion.png", "training.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_everything_follows_from_the_predictions(small_run, small_manifests):
    """By pandas, scikit-learn and NumPy alone."""
    result = metrics_of(small_run[0])
    rows = pd.read_csv(small_run[0] / "predictions.csv", dtype={"ID": str})
    test = pd.read_csv(small_manifests["test_csv"], dtype=str)
    labels = result["labels"]
    assert list(rows) == ["ID", "true", "predicted", *labels]
    assert rows.ID.tolist() == test.ID.tolist()
    assert rows.true.tolist() == test.emotion.tolist()
    assert result["war"] == pytest.approx(accuracy_score(rows.true, rows.predicted))
    assert result["uar"] == pytest.approx(balanced_accuracy_score(rows.true, rows.predicted))
    confusion = confusion_matrix(rows.true, rows.predicted, labels=labels)
    assert result["confusion"] == confusion.tolist()

    probabilities = rows[labels].to_numpy()
    assert rows.predicted.tolist() == [labels[i] for i in probabilities.argmax(axis=1)]
    calibration = result["calibration"]
    factor = calibration["own_scale"] / calibration["scale"]
    powers = probabilities**factor
    for when, of in (
        ("after", probabilities),
        ("before", powers / powers.sum(axis=1, keepdims=True)),
    ):
        confidence, correct = of.max(axis=1), (rows.true == rows.predicted).to_numpy()
        gaps = []
        for m in range(15):
            inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
            if inside.any():
                gap = abs(correct[inside].mean() - confidence[inside].mean())
                gaps.append(inside.mean() * gap)
        assert calibration[when]["ece"] == pytest.approx(sum(gaps), rel=1e-9)
        index = [labels.index(label) for label in rows.true]
        loss = log_loss(index, of, labels=range(len(labels)))
        assert calibration[when]["nll"] == pytest.approx(loss, rel=1e-6)

    predictions = Predictions.read(small_run[0] / "predictions.csv")
    found = confidence_intervals(predictions, test.spk_id.tolist())
    assert result["confidence_intervals"] == found
    assert found["speakers"] == test.spk_id.nunique() == 2
    genders = result["uar_by_gender"]
    assert genders["classes"] == labels
    for gender in "FM":
        of = (test.gender == gender).to_numpy()
        expected = balanced_accuracy_score(rows.true[of], rows.predicted[of])
        assert genders[gender] == pytest.approx(expected)
    assert genders["gap"] == pytest.approx(genders["F"] - genders["M"])


def test_the_test_is_logged_once_and_validation_with_its_epochs(small_run):
    log = (small_run[0] / "train_log.txt").read_text().splitlines()
    assert len(log) == TINY["number_of_epochs"] + 1
    assert [line.count("test uar") for line in log] == [0] * TINY["number_of_epochs"] + [1]


def test_history_has_the_temperatures(small_run):
    history = recorded_history(small_run[0] / "save")
    assert [record["epoch"] for record in history] == [1, 2]
    [newest] = [p for p in (small_run[0] / "save").glob("CKPT*") if "epoch: 2" in meta_of(p)]
    state = torch.load(newest / "clap.ckpt", weights_only=True)
    for tower in ("audio", "text"):
        expected = state[f"{tower}_scales.emotion.log_scale"].exp().item()
        assert history[-1][f"temperature_emotion_{tower}"] == pytest.approx(expected)


def meta_of(checkpoint: Path) -> str:
    return (checkpoint / "CKPT.yaml").read_text()


def test_one_speaker_has_no_intervals(small_manifests, tmp_path, capsys):
    rows = pd.read_csv(small_manifests["test_csv"], dtype=str, keep_default_na=False)
    rows[rows.spk_id == rows.spk_id[0]].to_csv(tmp_path / "test.csv", index=False)
    manifests = {**small_manifests, "test_csv": tmp_path / "test.csv"}
    assert main(None, own_manifests(manifests, tmp_path / "run", number_of_epochs=1)) == 0
    result = metrics_of(tmp_path / "run")
    assert result["confidence_intervals"] is None
    assert result["uar_by_gender"] is None
    assert "fewer than two" in result["notes"][-1]
    assert "fewer than two" in capsys.readouterr().out


def test_last_epoch_is_tested_and_exported_when_asked(small_manifests, tmp_path):
    folder = tmp_path / "run"
    given = {"cross_entropy_weight": 0.5, "select_by": "epoch"}
    assert main(None, own_manifests(small_manifests, folder, **given)) == 0
    result = metrics_of(folder)
    assert result["epoch"] == 2
    [kept] = [p for p in (folder / "save").glob("CKPT*") if "epoch: 2" in meta_of(p)]
    assert recorded_history(folder / "save")[-1]["valid_uar"] == result["valid_uar"]
    # The classifier of the joint loss serves training only.
    weights = torch.load(kept / "clap.ckpt", weights_only=True)
    assert weights["classifiers.emotion.weight"].shape[0] == 4
    export(folder, tmp_path / "exported")
    exported = load_file(tmp_path / "exported/model.safetensors")
    assert set(weights) - set(exported) == {f"classifiers.emotion.{n}" for n in ("weight", "bias")}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.items())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"select_by": "best"}, "select_by: expected one of uar, war, loss, epoch, found 'best'"),
        (
            {"crop_seconds": 0},
            "crop_seconds: expected null or a number, 0.1 or more and 3600 at most",
        ),
        ({"crop_seconds": "long"}, "crop_seconds: expected null or a number, 0.1"),
        ({"mixup": -1}, "mixup: expected a number, 0 or more and 100 at most, found -1"),
    ],
)
def test_impossible_option_is_told_before_training(
    option, message, small_manifests, tmp_path, capsys
):
    assert main(None, own_manifests(small_manifests, tmp_path / "run", **option)) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run/save").glob("CKPT*"))


@pytest.mark.parametrize("given", [{"alpha_e": 1.0}, {"heads": "[emotion]", "alpha_e": 0.5}])
def test_heads_and_weights_that_do_not_agree_are_told(given, small_manifests, tmp_path, capsys):
    argv = own_manifests(small_manifests, tmp_path / "run", **given)
    argv[0] = argv[0].replace("sl_scratch", "ml_scratch")
    assert main(None, argv) == 2
    assert "heads: the model has emotion" in capsys.readouterr().err


def test_diverged_model_is_no_result(small_manifests, tmp_path, monkeypatch, capsys):
    scores = GEmoCLAP.class_scores
    monkeypatch.setattr(GEmoCLAP, "class_scores", lambda *a: scores(*a) * math.nan)
    assert main(None, own_manifests(small_manifests, tmp_path / "run", number_of_epochs=1)) == 2
    assert "the training diverged" in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.json").exists()


def test_best_validation_uar_is_tested(small_run):
    result = metrics_of(small_run[0])
    log = (small_run[0] / "train_log.txt").read_text().splitlines()
    uars = [float(line.rsplit("valid uar: ", 1)[1]) for line in log if "valid uar" in line]
    assert len(uars) == TINY["number_of_epochs"]
    assert result["valid_uar"] == pytest.approx(max(uars), rel=1e-2)
    assert uars[result["epoch"] - 1] == max(uars)


def test_curves_show_every_epoch(small_manifests, tmp_path, monkeypatch):
    # The evaluation goes back to the best checkpoint; the picture must not.
    drawn = []
    real = gemoclap_sb.training.results.draw_training_curves
    monkeypatch.setattr(
        gemoclap_sb.training.results,
        "draw_training_curves",
        lambda history, path, tested: (
            drawn.append(([r["epoch"] for r in history], tested)) or real(history, path, tested)
        ),
    )
    monkeypatch.setattr(
        gemoclap_sb.training.gemoclap_brain,
        "classification_metrics",
        falling(classification_metrics),
    )
    assert main(None, own_manifests(small_manifests, tmp_path / "run", number_of_epochs=3)) == 0
    assert drawn == [([1, 2, 3], 1)]
    assert metrics_of(tmp_path / "run")["epoch"] == 1


def falling(measure):
    """Make each evaluation's UAR lower than the one before."""
    calls = []

    def measured(*args):
        calls.append(1)
        return dataclasses.replace(measure(*args), uar=1.0 / len(calls))

    return measured


@pytest.mark.slow
def test_same_seed_same_result(small_run, small_corpus, tmp_path):
    """In another process, of the recipe's script, too."""
    folder, again = small_run[0], tmp_path / "again"
    command = [sys.executable, str(TRAIN), *tiny_run(again, data_folder=small_corpus)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("metrics.json", "predictions.csv", "train_log.txt"):
        assert (again / name).read_text() == (folder / name).read_text()


def test_finished_run_can_be_asked_again(small_run, small_corpus, iemocap_prepare, tmp_path):
    """Also one whose classes have moved since, and that lacks keys that came later."""
    folder = tmp_path / "copy"
    shutil.copytree(small_run[0], folder)
    settings = json.loads((folder / "settings.json").read_text())
    for key in ("lr_audio", "lr_text"):
        del settings[key]
    text = json.dumps(settings)
    for now, then in (
        ("gemoclap_sb.objectives.SoftLabelObjective", "gemoclap_sb.losses.old.SoftLabelObjective"),
        ("gemoclap_sb.data.prompts.Prompts", "gemoclap_sb.prompts.Prompts"),
        ("gemoclap_sb.training.checkpoints.History", "gemoclap_sb.checkpoints.History"),
    ):
        assert now in text
        text = text.replace(now, then)
    (folder / "settings.json").write_text(text)
    (folder / "predictions.csv").unlink()
    command = tiny_run(folder, data_folder=small_corpus)
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    assert metrics_of(folder) == metrics_of(small_run[0])
    assert predictions_of(folder) == predictions_of(small_run[0])


def test_other_settings_in_the_same_folder_are_refused(small_run, small_corpus, capsys):
    command = tiny_run(small_run[0], data_folder=small_corpus, alpha_e=0.5)
    assert main(None, command) == 2
    message = capsys.readouterr().err
    assert "alpha_e (was 0.9, now 0.5)" in message
    assert "Give another --output_folder" in message


def test_folder_that_cannot_be_written_is_named(small_manifests, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(None, own_manifests(small_manifests, tmp_path / "file/run")) == 2
    assert "error: --output_folder: " in capsys.readouterr().err


def test_distributed_launch_alone_says_how(small_manifests, tmp_path, capsys):
    assert main(None, own_manifests(small_manifests, tmp_path, "--distributed_launch")) == 2
    assert "torchrun --nproc_per_node=N" in capsys.readouterr().err


@pytest.mark.slow
def test_half_precision_keeps_working(small_manifests, tmp_path):
    command = own_manifests(small_manifests, tmp_path / "run", "--precision", "bf16")
    assert main(None, command) == 0
    assert 0 <= metrics_of(tmp_path / "run")["uar"] <= 1


def test_debug_run_never_counts_as_finished(small_manifests, tmp_path):
    folder = tmp_path / "run"
    assert main(None, own_manifests(small_manifests, folder, "--debug")) == 0
    # Two batches of 32 at most, and no checkpoint left behind.
    assert json.loads((folder / "debug_metrics.json").read_text())["n_test"] <= 64
    assert not (folder / "metrics.json").exists()
    assert not (folder / "predictions.csv").exists()
    assert not list((folder / "save").glob("CKPT*"))


def test_validating_on_ones_own_test_manifest_is_said(small_manifests, tmp_path, capsys):
    both = {**small_manifests, "valid_csv": small_manifests["test_csv"]}
    assert main(None, own_manifests(both, tmp_path / "run", number_of_epochs=1)) == 0
    printed = capsys.readouterr().out
    assert "are by the test side itself" in printed
    assert "Temperature, and checkpoint where one is chosen" in printed


def test_validation_on_the_test_session_is_said(small_corpus, iemocap_prepare, tmp_path, capsys):
    options = {"data_folder": small_corpus, "validation": "test", "number_of_epochs": 1}
    assert main(iemocap_prepare.prepare_iemocap, tiny_run(tmp_path / "run", **options)) == 0
    assert "test session" in capsys.readouterr().out
    assert metrics_of(tmp_path / "run")["validation"] == "test"


@pytest.mark.slow
def test_compiled_model_gives_finite_losses(small_manifests, tmp_path, monkeypatch):
    # The eager backend traces as inductor does and needs no compiler.
    monkeypatch.setattr(
        torch,
        "compile",
        lambda module, _compile=torch.compile, **_: _compile(module, backend="eager"),
    )
    folder = tmp_path / "run"
    flags = ["--compile", "--debug", "--debug_batches", "1", "--debug_epochs", "1"]
    # One shape of batches, for which it is traced once.
    small = {"channels": [4], "strides": [2], "valid_batch_size": 8}
    assert main(None, own_manifests(small_manifests, folder, *flags, **small)) == 0
    assert 0 <= json.loads((folder / "debug_metrics.json").read_text())["uar"] <= 1
