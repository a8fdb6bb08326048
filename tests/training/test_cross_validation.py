"""Folds run once each, and their summary is what their results add up to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gemoclap_sb.evaluation.report import VALIDATION_NOTES
from gemoclap_sb.training.cross_validation import main
from tests.conftest import load_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes/IEMOCAP/gemoclap/cross_validate.py"
TINY = ["--n_mels", "20", "--channels", "16", "--text_size", "16", "--embedding_size", "8"]
TINY += ["--batch_size", "8", "--number_of_epochs", "1", "--number_of_folds", "2"]


def command(corpus: Path, output: Path) -> list[str]:
    yaml = str(ROOT / "hparams/sl_scratch.yaml")
    return [yaml, "--data_folder", str(corpus), "--output_folder", str(output), *TINY]


def run(arguments: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--device", "cpu"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(small_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cv") / "run"
    run(command(small_corpus, folder))
    return folder


def test_summary_is_what_the_folds_add_up_to(finished):
    summary = json.loads((finished / "cv_metrics.json").read_text())
    folds = [json.loads((finished / f"fold_{k}/metrics.json").read_text()) for k in (1, 2)]
    assert [fold["fold"] for fold in folds] == [1, 2]
    assert summary["mean"]["war"] == pytest.approx(np.mean([fold["war"] for fold in folds]))
    assert summary["std"]["uar"] == pytest.approx(np.std([fold["uar"] for fold in folds], ddof=1))
    confusion = np.sum([fold["confusion"] for fold in folds], axis=0)
    assert summary["pooled"]["confusion"] == confusion.tolist()
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    assert summary["pooled"]["uar"] == pytest.approx(recalls.mean())
    report = (finished / "cv_report.md").read_text()
    assert f"{100 * summary['pooled']['uar']:.2f}" in report
    assert "python cross_validate.py" in report
    assert (finished / "cv_folds.png").read_bytes().startswith(b"\x89PNG")


def test_finished_folds_are_not_run_again(finished, small_corpus, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "fold_2/metrics.json").unlink()
    shutil.rmtree(folder / "fold_2/save")
    before = (folder / "fold_1/metrics.json").stat().st_mtime_ns
    printed = run(command(small_corpus, folder))
    assert "fold 1: finished before" in printed
    assert "fold 2 of 2" in printed
    assert (folder / "fold_1/metrics.json").stat().st_mtime_ns == before
    for name in ("cv_metrics.json", "fold_2/metrics.json"):
        one, two = (json.loads((path / name).read_text()) for path in (finished, folder))
        for of in (one, two):
            for fold in of.get("folds", []):
                fold.pop("seconds")
        assert one == two


def test_finished_folds_of_other_settings_are_refused(finished, small_corpus, capsys):
    other = [*command(small_corpus, finished), "--alpha_e", "0.5"]
    assert main(SCRIPT.with_name("train.py"), other) == 2
    assert "alpha_e (was 0.9, now 0.5)" in capsys.readouterr().err


def test_a_single_fold_is_not_cross_validation(small_corpus, tmp_path, capsys):
    assert main(SCRIPT, [*command(small_corpus, tmp_path), "--fold", "3"]) == 2
    assert "leave --fold out" in capsys.readouterr().err


@pytest.mark.parametrize("corpus", ["IEMOCAP", "RAVDESS"])
def test_every_way_of_validation_has_its_sentence(corpus):
    script = next((ROOT / f"recipes/{corpus}/gemoclap").glob("*_prepare.py"))
    assert set(load_script(script).VALIDATIONS) <= set(VALIDATION_NOTES)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--debug"], "no result to sum up"), (["--train_csv", "a.csv"], "one split")],
)
def test_what_has_no_folds_is_explained(small_corpus, tmp_path, capsys, options, message):
    assert main(SCRIPT, [*command(small_corpus, tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_failed_fold_gives_its_exit_status(tmp_path, capsys):
    assert main(SCRIPT.with_name("train.py"), command(tmp_path / "none", tmp_path)) == 2
    assert "fold 1 failed with exit status 2" in capsys.readouterr().err
