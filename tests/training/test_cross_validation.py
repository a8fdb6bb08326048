"""Folds run once each, and their summary is what their results add up to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import gemoclap_sb.training.cross_validation
from gemoclap_sb.evaluation.report import VALIDATION_NOTES
from gemoclap_sb.training.cross_validation import main, pool_folds
from tests.conftest import load_script
from tests.run_folders import ROOT, tiny_run

SCRIPT = ROOT / "recipes/IEMOCAP/gemoclap/cross_validate.py"


@pytest.mark.slow
def test_folds_that_are_missing_run_and_the_summary_is_of_all(small_run, small_corpus, tmp_path):
    """The first fold is finished, the second is not there."""
    root = tmp_path / "cv"
    shutil.copytree(small_run[0], root / "fold_1")
    before = (root / "fold_1/metrics.json").stat().st_mtime_ns
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *tiny_run(root, data_folder=small_corpus)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fold 1: finished before" in done.stdout
    assert "fold 2 of 2" in done.stdout
    assert (root / "fold_1/metrics.json").stat().st_mtime_ns == before

    summary = json.loads((root / "cv_metrics.json").read_text())
    folds = [json.loads((root / f"fold_{k}/metrics.json").read_text()) for k in (1, 2)]
    assert [fold["fold"] for fold in folds] == [1, 2]
    assert summary["mean"]["war"] == pytest.approx(np.mean([fold["war"] for fold in folds]))
    assert summary["std"]["uar"] == pytest.approx(np.std([fold["uar"] for fold in folds], ddof=1))
    confusion = np.sum([fold["confusion"] for fold in folds], axis=0)
    assert summary["pooled"]["confusion"] == confusion.tolist()
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    assert summary["pooled"]["uar"] == pytest.approx(recalls.mean())
    report = (root / "cv_report.md").read_text()
    assert f"{100 * summary['pooled']['uar']:.2f}" in report

    parts = [pd.read_csv(root / f"fold_{k}/predictions.csv", dtype=str) for k in (1, 2)]
    pooled = pd.read_csv(root / "predictions.csv", dtype=str)
    assert pooled.equals(pd.concat(parts, ignore_index=True))
    assert np.mean(pooled.true == pooled.predicted) == pytest.approx(summary["pooled"]["war"])
    intervals, calibration = summary["confidence_intervals"], summary["calibration"]
    assert intervals["speakers"] == 4
    assert intervals["war"][0] <= summary["pooled"]["war"] <= intervals["war"][1]
    sizes = [len(part) for part in parts]
    for when in ("before", "after"):
        losses = [fold["calibration"][when]["nll"] for fold in folds]
        expected = np.average(losses, weights=sizes)
        assert calibration[when]["nll"] == pytest.approx(expected, rel=1e-6)
    low, high = intervals["war"]
    assert f"over 4 speakers: WAR {100 * low:.2f} to {100 * high:.2f} %" in report
    assert "python cross_validate.py" in report
    assert (root / "cv_folds.png").read_bytes().startswith(b"\x89PNG")


def test_folds_without_predictions_are_not_pooled(small_run, tmp_path, capsys):
    old = tmp_path / "fold_2"
    shutil.copytree(small_run[0], old)
    (old / "predictions.csv").unlink()
    result = json.loads((old / "metrics.json").read_text())
    assert pool_folds(tmp_path, [small_run[0], old], [result, result]) == {}
    assert f"no file {old / 'predictions.csv'}" in capsys.readouterr().err
    assert not (tmp_path / "predictions.csv").exists()


def test_jobs_are_no_part_of_what_was_run(small_run, small_corpus, tmp_path, monkeypatch):
    asked = []

    def copied_folds(folds, jobs):
        asked.append((jobs, len(folds)))
        for fold in folds:
            assert "--jobs" not in fold.command
            assert str(fold) == f"fold {fold.number} of 2"
            shutil.copytree(small_run[0], fold.folder)
            result = json.loads((fold.folder / "metrics.json").read_text())
            (fold.folder / "metrics.json").write_text(json.dumps(result | {"fold": fold.number}))
        return {}

    monkeypatch.setattr(gemoclap_sb.training.cross_validation, "run_folds", copied_folds)
    assert main(SCRIPT, tiny_run(tmp_path, "--jobs", "3", data_folder=small_corpus)) == 0
    assert asked == [(3, 2)]
    report = (tmp_path / "cv_report.md").read_text()
    assert "python cross_validate.py" in report
    assert "--jobs" not in report


def test_finished_folds_of_other_settings_are_refused(small_run, small_corpus, capsys):
    command = tiny_run(small_run[0].parent, data_folder=small_corpus, alpha_e=0.5)
    assert main(SCRIPT.with_name("train.py"), command) == 2
    assert "alpha_e (was 0.9, now 0.5)" in capsys.readouterr().err


@pytest.mark.parametrize("corpus", ["IEMOCAP", "RAVDESS", "nEMO"])
def test_every_way_of_validation_has_its_sentence(corpus):
    script = next((ROOT / f"recipes/{corpus}/gemoclap").glob("*_prepare.py"))
    assert set(load_script(script).VALIDATIONS) <= set(VALIDATION_NOTES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fold", "3"], "leave --fold out"),
        (["--debug"], "no result to sum up"),
        (["--train_csv", "a.csv"], "one split"),
        (["--jobs", "0"], "expected 1 or more, found 0"),
    ],
)
def test_what_has_no_folds_is_explained(small_corpus, tmp_path, capsys, options, message):
    assert main(SCRIPT, tiny_run(tmp_path, *options, data_folder=small_corpus)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_failed_fold_gives_its_exit_status(tmp_path, capsys):
    command = tiny_run(tmp_path, data_folder=tmp_path)  # A folder that is no corpus.
    assert main(SCRIPT.with_name("train.py"), command) == 2
    assert "fold 1 of 2 could not start (exit status 2)" in capsys.readouterr().err


def test_missing_data_are_named_before_anything_is_made(tmp_path, capsys):
    for options, said in (({}, "no data"), ({"data_folder": "none"}, "no folder none")):
        assert main(tmp_path / "train.py", tiny_run(tmp_path / "cv", **options)) == 2
        printed = capsys.readouterr()
        assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "cv").exists()
