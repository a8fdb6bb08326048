"""`gemoclap plot`: which pictures, from what, and what is said of those that cannot be drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gemoclap_sb.evaluation.report import cross_validation_summary
from gemoclap_sb.training.cross_validation import pool_folds
from tests.cli.printed import one_line

OF_A_RUN = ["confusion.png", "recall.png", "reliability.png", "training.png", "embeddings.png"]


@pytest.fixture
def finished(small_run, tmp_path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(small_run[0], folder)
    for picture in folder.glob("*.png"):
        picture.unlink()
    return folder


def pictures(out: str, folder: Path) -> list[str]:
    """Names of the pictures that are told, all of which must be there."""
    paths = [Path(line) for line in out.splitlines()]
    for path in paths:
        assert path.parent == folder
        assert path.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.glob("*.png")} == {path.name for path in paths}
    return [path.name for path in paths]


def test_run_has_five_pictures(finished, command):
    status, out, _ = command("plot", finished)
    assert status == 0
    assert pictures(out, finished) == OF_A_RUN


def test_pictures_go_where_they_are_asked_to(finished, tmp_path, command):
    status, out, _ = command("plot", finished, "--output", tmp_path / "a/b")
    assert status == 0
    assert pictures(out, tmp_path / "a/b") == OF_A_RUN
    assert not list(finished.glob("*.png"))


def test_run_without_its_checkpoints(finished, command):
    shutil.rmtree(finished / "save")
    status, out, err = command("plot", finished)
    assert status == 1
    assert pictures(out, finished) == OF_A_RUN[:3]
    assert "training.png is not drawn: expected a checkpoint" in err
    assert "embeddings.png is not drawn: " in err
    assert not (finished / "save").exists()


def test_run_that_was_tested_before_predictions_were_kept(finished, command):
    (finished / "predictions.csv").unlink()
    metrics = json.loads((finished / "metrics.json").read_text())
    for key in ("confidence_intervals", "uar_by_gender", "calibration"):
        del metrics[key]
    (finished / "metrics.json").write_text(json.dumps(metrics))
    status, out, err = command("plot", finished)
    assert status == 1
    assert pictures(out, finished) == [name for name in OF_A_RUN if name != "reliability.png"]
    assert "given again, tests it again" in err


def test_run_whose_recordings_or_manifest_are_gone(finished, command):
    manifest = finished / "manifests/test.csv"
    manifest.write_text(manifest.read_text().replace("$data_root", "/no/such/folder"))
    status, out, err = command("plot", finished)
    assert status == 1
    assert pictures(out, finished) == OF_A_RUN[:4]
    assert "no recording of the test manifest can be read" in err
    manifest.unlink()
    status, _, err = command("plot", finished)
    assert status == 1
    assert f"embeddings.png is not drawn: the run's manifest {manifest}" in err


def test_model_without_a_text_tower_has_no_map(finished, command):
    config = {"format": "gemoclap_sb", "format_version": 1, "unsupported": "it has no text tower"}
    (finished / "config.json").write_text(json.dumps(config))
    status, out, err = command("plot", finished)
    assert status == 0
    assert pictures(out, finished) == OF_A_RUN[:4]
    assert "it has no text tower" in err


def test_cross_validation_has_three_pictures(small_run, tmp_path, command):
    folders, results = [], []
    for fold in (1, 2):
        folders.append(tmp_path / f"cv/fold_{fold}")
        shutil.copytree(small_run[0], folders[-1])
        result = json.loads((folders[-1] / "metrics.json").read_text())
        results.append({**result, "fold": fold})
    summary = cross_validation_summary(results) | pool_folds(tmp_path / "cv", folders, results)
    (tmp_path / "cv/cv_metrics.json").write_text(json.dumps(summary))
    status, out, _ = command("plot", tmp_path / "cv")
    assert status == 0
    assert pictures(out, tmp_path / "cv") == OF_A_RUN[:3]


def test_folder_that_is_no_run(tmp_path, command):
    status, out, err = command("plot", tmp_path)
    assert (status, out) == (2, "")
    assert "found neither" in err
    (tmp_path / "metrics.json").write_text("{}")
    assert command("plot", tmp_path)[0] == 2
    (tmp_path / "metrics.json").write_text("{")
    assert command("plot", tmp_path)[0] == 2


@pytest.mark.parametrize(
    "content", ["[]", '"a"', '{"labels": 1, "confusion": 2}', '{"labels": ["a"], "confusion": {}}']
)
@pytest.mark.parametrize("name", ["metrics.json", "cv_metrics.json"])
def test_figures_of_other_types(name, content, tmp_path, command):
    whole = content if name == "metrics.json" else f'{{"pooled": {content}, "folds": []}}'
    for text in (content, whole):
        (tmp_path / name).write_text(text)
        status, out, err = command("plot", tmp_path)
        assert (status, out) == (2, "")
        assert str(tmp_path) in one_line(err)


def test_a_picture_that_is_damaged_leaves_the_others(finished, command):
    metrics = json.loads((finished / "metrics.json").read_text())
    metrics |= {"confidence_intervals": [1], "calibration": "none"}
    (finished / "metrics.json").write_text(json.dumps(metrics))
    status, out, err = command("plot", finished)
    assert status == 1
    assert "confusion.png" in pictures(out, finished)
    assert "recall.png is not drawn" in err and "Traceback" not in err
