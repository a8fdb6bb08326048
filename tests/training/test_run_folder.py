"""Settings are read without building anything, and a run is not mixed with another."""

from __future__ import annotations

import json

import pytest

from gemoclap_sb.training.run_folder import (
    ExperimentError,
    check_settings,
    is_finished,
    read_settings,
    record_run,
)

YAML = """
seed: 1
alpha_e: 0.9
number_of_epochs: 3
weights:
    emotion: !ref <alpha_e>
    gender: !ref 1 - <alpha_e>
output_folder: !ref results/<seed>
model: !new:does.not.Exist
    seed: !ref <seed>
prompts: !new:does.not.Exist
    templates: ["so {}"]
"""


@pytest.fixture
def hparams(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


def test_references_and_overrides_are_resolved(hparams):
    settings = read_settings(hparams, "alpha_e: 0.8\nseed: 7")
    assert settings["weights"]["emotion"] == 0.8
    assert settings["weights"]["gender"] == pytest.approx(0.2)
    assert settings["output_folder"] == "results/7"
    assert settings["prompts"] == {"!new:does.not.Exist": {"templates": ["so {}"]}}


def test_unknown_override_names_the_keys(hparams):
    with pytest.raises(
        ExperimentError, match="--alpha is no key of this file. Its keys: seed, alpha_e"
    ):
        read_settings(hparams, "alpha: 0.8")


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "weights: {emotion: 0.9", "extra"])
def test_slips_of_the_command_line_are_one_line(hparams, text):
    with pytest.raises(ExperimentError, match="expected --key value, each key once; found "):
        read_settings(hparams, text)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ExperimentError, match="no hyperparameter file .*none.yaml"):
        read_settings(tmp_path / "none.yaml")


def begin(folder, settings):
    """A run that has trained for an epoch."""
    check_settings(folder, settings)
    (folder / "save/CKPT+1").mkdir(parents=True)


def test_other_settings_are_refused_and_named(hparams, tmp_path):
    folder = tmp_path / "run"
    begin(folder, read_settings(hparams))
    check_settings(folder, read_settings(hparams))
    with pytest.raises(ExperimentError, match=r"alpha_e \(was 0.9, now 0.8\)"):
        check_settings(folder, read_settings(hparams, "alpha_e: 0.8"))
    with pytest.raises(ExperimentError, match="prompts"):
        hparams.write_text(YAML.replace("so {}", "very {}"))
        check_settings(folder, read_settings(hparams))


def test_longer_training_elsewhere_is_the_same_run(hparams, tmp_path):
    folder = tmp_path / "run"
    begin(folder, read_settings(hparams))
    longer = read_settings(hparams, "number_of_epochs: 9\noutput_folder: moved")
    check_settings(folder, longer)
    # A finished run of three epochs is not one of nine.
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ExperimentError, match=r"number_of_epochs \(was 3, now 9\)"):
        check_settings(folder, longer)


def test_how_fast_a_run_is_is_no_setting_of_it(hparams, tmp_path):
    hparams.write_text(YAML + "cache_gib: 2.0\nnum_workers: 0\n")
    begin(tmp_path / "run", read_settings(hparams))
    check_settings(tmp_path / "run", read_settings(hparams, "cache_gib: 0\nnum_workers: 2"))


def test_schedule_over_the_epochs_fixes_their_number(hparams, tmp_path):
    hparams.write_text(YAML + "lr_schedule: !new:does.not.Exist\n")
    begin(tmp_path / "run", read_settings(hparams))
    with pytest.raises(ExperimentError, match="number_of_epochs"):
        check_settings(tmp_path / "run", read_settings(hparams, "number_of_epochs: 9"))


def test_start_that_trained_nothing_binds_nobody(hparams, tmp_path):
    folder = tmp_path / "run"
    check_settings(folder, read_settings(hparams))
    check_settings(folder, read_settings(hparams, "alpha_e: 0.8"))
    (folder / "save/CKPT+1").mkdir(parents=True)
    with pytest.raises(ExperimentError, match=r"alpha_e \(was 0.8, now 0.9\)"):
        check_settings(folder, read_settings(hparams))


@pytest.mark.parametrize("key", ["data_folder", "nemo_folder"])
def test_another_corpus_is_another_run(hparams, tmp_path, monkeypatch, key):
    hparams.write_text(YAML + f"{key}: corpus\nprepare_options:\n    {key}: !ref <{key}>\n")
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "run", read_settings(hparams))
    # The same folder under another spelling is the same.
    check_settings(tmp_path / "run", read_settings(hparams, f"{key}: {tmp_path}/corpus"))
    with pytest.raises(ExperimentError, match=key):
        check_settings(tmp_path / "run", read_settings(hparams, f"{key}: other"))


def test_manifest_is_its_content(hparams, tmp_path):
    (tmp_path / "a.csv").write_text("ID\na\n")
    hparams.write_text(YAML + "manifest: ''\nfold_column: session\nwords: null\n")
    folder, given = tmp_path / "run", {"manifest": str(tmp_path / "a.csv"), "words": "a.yaml"}
    begin(folder, read_settings(hparams, given))
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "moved/a.csv")
    given = {"manifest": str(tmp_path / "moved/a.csv"), "words": "b.yaml"}
    check_settings(folder, read_settings(hparams, given))
    with pytest.raises(ExperimentError, match=r"fold_column \(was 'session', now 'spk_id'\)"):
        check_settings(folder, read_settings(hparams, {**given, "fold_column": "spk_id"}))
    (tmp_path / "moved/a.csv").write_text("ID\nb\n")
    with pytest.raises(ExperimentError, match=r"manifest \(was 'SHA-256 of its rows"):
        check_settings(folder, read_settings(hparams, given))


def test_run_begun_before_manifests_had_folds_goes_on(hparams, tmp_path):
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(YAML + "manifest: ''\nfold_column: session\nwords: null\n")
    check_settings(tmp_path / "run", read_settings(hparams))


def test_templates_stand_in_the_prompts_alone(hparams, tmp_path):
    """So that a run begun before the key goes on."""
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(hparams.read_text() + "emotion_templates: ['so {}']\n")
    check_settings(tmp_path / "run", read_settings(hparams))


def test_pretrainer_is_the_files_that_it_loads(hparams, tmp_path, monkeypatch):
    pretrainer = """
pretrainer: !new:does.not.Exist
    collect_in: !ref <output_folder>/here
    loadables: {clap: !ref <model>}
    paths: {clap: %s}
"""
    monkeypatch.chdir(tmp_path)
    for name in ("clap.ckpt", "other.ckpt"):
        (tmp_path / name).touch()
    hparams.write_text(YAML + pretrainer % "clap.ckpt")
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(YAML + pretrainer % (tmp_path / "clap.ckpt"))
    check_settings(tmp_path / "run", read_settings(hparams, "output_folder: moved"))
    hparams.write_text(YAML + pretrainer % "other.ckpt")
    with pytest.raises(ExperimentError, match=r"pretrainer \(was .*clap.ckpt.*other.ckpt"):
        check_settings(tmp_path / "run", read_settings(hparams))


def test_labels_may_be_numbers(hparams, tmp_path):
    hparams.write_text(YAML + "words: {0: low, 1: high}\n")
    begin(tmp_path / "run", read_settings(hparams))
    check_settings(tmp_path / "run", read_settings(hparams))


def test_seconds_add_up_over_attempts(tmp_path):
    record_run(tmp_path, 10.0, "cpu")
    record_run(tmp_path, 5.5, "cpu")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seconds"] == 15.5
    assert run["packages"]["torch"].startswith("2.11")
    assert not is_finished(tmp_path)
