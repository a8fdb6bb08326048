"""Stages that are missing, of another run, or asked for what cannot be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from gemoclap_sb.training import cross_validation, experiment
from tests.run_folders import ROOT
from tests.training.gmp_tl.runs import command, run


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("pseudo_labels", "warm_up"), ("stage_one", "warm_up"), ("stage_two", "stage_one")],
)
def test_a_stage_before_its_time_says_what_to_run(data, tmp_path, capsys, stage, missing):
    assert run(tmp_path, data, stage=stage) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"no finished {missing} (stage.json is missing): run --stage {missing} first" in told


def test_stage_one_without_labels_says_what_to_run(copied, data, capsys):
    shutil.rmtree(copied / "stage_one")
    shutil.rmtree(copied / "pseudo_labels")
    assert run(copied, data, stage="stage_one") == 2
    assert "run --stage pseudo_labels" in capsys.readouterr().err


def test_labels_of_another_encoder_are_refused(copied, data, capsys):
    """As if the warm-up had been trained again."""
    record = json.loads((copied / "warm_up/stage.json").read_text())
    state = torch.load(copied / "warm_up/audio_encoder.ckpt", weights_only=True)
    shutil.rmtree(copied / "stage_one")
    state["stem.weight"] *= 2
    torch.save(state, copied / "warm_up/audio_encoder.ckpt")
    assert run(copied, data, stage="stage_one") == 2
    assert "audio_encoder.ckpt does not hold what was written" in capsys.readouterr().err
    # And with the record of it.
    from gemoclap_sb.lobes import ResNetEncoder
    from gemoclap_sb.training.checkpoint_files import weights_digest

    encoder = ResNetEncoder(n_mels=16, channels=[4, 8], strides=[1, 2], output_size=8)
    encoder.load_state_dict(state)
    record["encoder"] = weights_digest(encoder)
    (copied / "warm_up/stage.json").write_text(json.dumps(record))
    assert run(copied, data, stage="stage_one") == 2
    told = capsys.readouterr().err
    assert "made from another encoder. Delete it and run --stage pseudo_labels" in told


@pytest.mark.parametrize("option", [{"clusters": [4, 8]}, {"alpha_e": 0.5}, {"margin": 0.1}])
def test_a_run_that_is_begun_keeps_its_settings(copied, data, capsys, option):
    (copied / "metrics.json").unlink()
    shutil.rmtree(copied / "save")
    assert run(copied, data, **option) == 2
    assert f"begun with other settings: {next(iter(option))}" in capsys.readouterr().err


@pytest.mark.parametrize("option", [{"hop_ms": 32}, {"center_utterances": True}])
def test_a_stage_with_another_front_end_is_refused(whole, data, tmp_path, capsys, option):
    """Weights do not tell: these have none."""
    assert run(tmp_path, data, warm_up_folder=whole / "warm_up", **option) == 2
    assert f"an encoder of another kind: {next(iter(option))} (was " in capsys.readouterr().err


def test_a_stage_under_another_name_in_the_runs_folder_is_refused(whole, data, tmp_path, capsys):
    shutil.copytree(whole / "warm_up", tmp_path / "other")
    assert run(tmp_path, data, warm_up_folder=tmp_path / "other") == 2
    assert "or a folder of another run" in capsys.readouterr().err


def test_a_stage_that_another_run_has_not_finished_is_not_run_there(data, tmp_path, capsys):
    folder = tmp_path / "other/warm_up"
    assert run(tmp_path / "run", data, warm_up_folder=folder) == 2
    assert "has no finished warm_up, and lies outside of this run" in capsys.readouterr().err
    assert not folder.exists()


def test_an_encoder_that_is_not_the_one_left_is_refused(copied, data, capsys):
    shutil.rmtree(copied / "save")
    (copied / "metrics.json").unlink()
    shutil.copy(copied / "warm_up/audio_encoder.ckpt", copied / "stage_one/audio_encoder.ckpt")
    assert run(copied, data) == 2
    assert "stage_one: audio_encoder.ckpt does not hold what was written" in capsys.readouterr().err


def test_cross_validation_takes_no_stage(data, tmp_path, capsys):
    argv = command(tmp_path, data, stage="warm_up")
    assert cross_validation.main(ROOT / "recipes/IEMOCAP/gmp_tl/train.py", argv) == 2
    assert "leave --stage out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stage": "three"}, "--stage: expected null or one of warm_up"),
        ({"clusters": [1]}, "--clusters: expected a list"),
        ({"label_layers": []}, "--label_layers: expected a list"),
        ({"label_layers": [3]}, "label_layers: expected layers of the audio encoder, 1 to 2"),
        ({"scale": 1001}, "--scale: expected null or a number"),
        ({"alpha_e": 0, "warm_up_epochs": 1}, "Let emotion weigh more than 0"),
        ({"label_attributes": ["age"]}, "age"),
        ({"clusters": [100000]}, "clusters: expected as many frames"),
        ({"margin": -1}, "--margin: expected a number, 0 or more"),
        ({"margin_kind": "x"}, "--margin_kind: expected one of additive, angular"),
    ],
)
def test_options_that_cannot_be_are_told_in_one_line(data, tmp_path, capsys, options, told):
    given = {"warm_up_epochs": 0, **options}
    assert run(tmp_path, data, **given) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("stage", "flag", "told"),
    [("stage_one", "--debug", "leave --stage out"), ("warm_up", "--test_only", "tests stage_two")],
)
def test_a_stage_goes_with_no_such_flag(copied, data, capsys, stage, flag, told):
    assert run(copied, data, flag, stage=stage) == 2
    assert told in capsys.readouterr().err


def test_stages_are_not_for_the_other_recipes(data, tmp_path, capsys):
    assert experiment.main(None, command(tmp_path, data)) == 2
    assert "give it to the train.py of a gmp_tl recipe" in capsys.readouterr().err
