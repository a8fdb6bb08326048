"""The recipe of pretraining over clusters: all steps in one command, and what is compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from gemoclap_sb.training.fold_processes import Fold
from gemoclap_sb.training.runs import resolved
from tests.conftest import SHARED, load_script
from tests.run_folders import ROOT

RECIPE = ROOT / "recipes/pretrain/intra_speaker_clusters"
TINY = [
    *("--n_mels", "16", "--channels", "[4,8]", "--strides", "[1,2]", "--frame_size", "8"),
    *("--crop_seconds", "0.5", "--device", "cpu", "--batch_size", "8", "--clusters", "2"),
    *("--speakers_per_batch", "2", "--utterances_per_cluster", "2", "--valid_share", "0.4"),
    *("--speaker_epochs", "1", "--number_of_epochs", "1", "--batches_per_epoch", "2"),
]


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(RECIPE))
    yield lambda name: load_script(RECIPE / f"{name}.py")
    sys.path.remove(str(RECIPE))


def test_one_command_makes_all_that_is_missing(recipe, small_manifests, tmp_path, capsys):
    csv, root = small_manifests["train_csv"], small_manifests["data_root"]
    out = tmp_path / "run"
    argv = [csv, str(out), "--data_folder", root, "--seed", "2", *TINY]
    assert recipe("pretrain").main(argv) == 0
    assert (out / "speakers/metrics.json").is_file()
    assert json.loads((out / "clusters/clusters.json").read_text())["clusters"] == 16
    record = (out / "pretraining.json").read_bytes()
    assert json.loads(record)["utterances"] == 72 and json.loads(record)["seed"] == 2
    assert (out / "encoder/config.json").is_file()
    # Again: nothing is left to do.
    assert recipe("pretrain").main(argv) == 0
    assert (out / "pretraining.json").read_bytes() == record
    assert "Going on from 1 of 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--no_such_key", "1"], "--no_such_key is no key of"),
        (["--clusters_folder", "x"], "--clusters_folder is left to"),
        # Of the last step, and told before the first.
        (["--temperature", "0"], "--temperature: expected a number, above 0"),
    ],
)
def test_wrong_options_are_told(options, told, recipe, small_manifests, tmp_path, capsys):
    csv, root = small_manifests["train_csv"], small_manifests["data_root"]
    argv = [csv, str(tmp_path / "run"), "--data_folder", root, *TINY, *options]
    assert recipe("pretrain").main(argv) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--clusters", "many"), ("--clusters", "1"), ("--speaker_epochs", "0")]
)
def test_its_own_options_are_looked_at_before_the_first_step(option, value, recipe, capsys):
    with pytest.raises(SystemExit, match="2"):
        recipe("pretrain").main(["no.csv", "run", option, value])
    assert f"{option}: expected " in (said := capsys.readouterr().err) and f"found {value}" in said


def test_torchrun_is_refused(recipe, small_manifests, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert recipe("pretrain").main([small_manifests["train_csv"], str(tmp_path / "run")]) == 2
    assert "give its steps one by one to torchrun" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_told(recipe, small_manifests, tmp_path, capsys):
    csv, root = small_manifests["train_csv"], small_manifests["data_root"]
    argv = [csv, str(tmp_path / "run"), "--data_folder", root]
    assert recipe("pretrain").main([*argv, "--speaker_encoder", "no/such/encoder"]) == 2
    assert "no/such/encoder" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "data/nemo16k").is_dir(), reason="no ../shared/data/nemo16k")
def test_starts_and_rows_of_the_learning_curves_fit(recipe, tmp_path, monkeypatch):
    """Each row begins from a folder that a start writes; every start hears what it should."""
    curves = recipe("learning_curves")
    seen = {}
    options = ["--nemo_folder", str(SHARED / "data/nemo16k"), "--seeds", "2"]
    options += ["--data_folder", str(SHARED / "data/ravdess16k"), "--jobs", "2", "--n_mels", "64"]
    options += ["--output_folder", str(tmp_path)]

    def run_folds(folds: list[Fold], jobs: int, finished: object) -> dict[str, int]:
        seen["folds"], seen["jobs"] = folds, jobs
        return {}

    def main(script: Path, comparisons: object, argv: list[str]) -> int:
        seen["script"], seen["argv"] = script, argv
        return 0

    monkeypatch.setattr(curves, "run_folds", run_folds)
    monkeypatch.setattr(curves.comparisons, "main", main)
    assert curves.main(options) == 0
    assert seen["script"].is_file() and "--nemo_folder" not in seen["argv"]
    made = {str(fold.folder.relative_to(tmp_path)) for fold in seen["folds"]}
    assert len(made) == 2 + 5 == len(seen["folds"]) and seen["jobs"] == 2
    for group in curves.COMPARISONS.groups:
        for row in group.rows[1:]:
            output = tmp_path / group.name(row) / "seed_2/fold_3"
            own = ["--seed", "2", "--fold", "3", "--output_folder", str(output)]
            settings = resolved(ROOT / "hparams/ravdess_scratch.yaml", [*row.options, *own])
            begun = Path(settings["audio_source"]).resolve()
            assert str(begun.relative_to(tmp_path.resolve())) in made
    # The actors of a fold's pretraining are those that are trained on there.
    for fold in seen["folds"]:
        command = list(fold.command)
        if "ravdess" in str(fold.folder):
            heard = set(pd.read_csv(command[2], dtype=str).spk_id)
            other = Path(command[2]).with_name("test.csv")
            assert len(heard) >= 15 and not heard & set(pd.read_csv(other, dtype=str).spk_id)
            assert command[command.index("--n_mels") + 1] == "64"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "none"], "--only none: expected groups or rows of"),
        (["--jobs", "0"], "--jobs: expected 1 or more, found 0"),
        (["--no_such_key", "1"], "--no_such_key is no key of"),
        ([], "nEMO folder"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(
    options, told, recipe, tmp_path, monkeypatch, capsys
):
    curves = recipe("learning_curves")
    monkeypatch.setattr(curves, "run_folds", lambda *arguments: pytest.fail("trained"))
    folders = ["--data_folder", str(tmp_path), "--nemo_folder", str(tmp_path / "nowhere")]
    argv = [*folders, "--output_folder", str(tmp_path / "out"), "--seeds", "1", *options]
    assert curves.main(argv) == 2
    [said] = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("error: ") and told in said
