"""Wrong input of an experiment, one of each kind, and what its user is told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile

from gemoclap_sb.training.experiment import main
from tests.run_folders import own_manifests, tiny_run


def test_wrong_option_of_the_preparation_is_named(small_corpus, iemocap_prepare, tmp_path, capsys):
    command = tiny_run(tmp_path / "run", data_folder=small_corpus, validation="none")
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    assert "'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --data_folder"),
        ({"train_csv": "a.csv", "test_csv": "b.csv"}, "--valid_csv missing"),
        ({f"{split}_csv": "none.csv" for split in ("train", "valid", "test")}, "no file none.csv"),
        ({"data_folder": "no/such/folder"}, "--data_folder: no folder no/such/folder"),
    ],
)
def test_missing_data_are_named(iemocap_prepare, tmp_path, capsys, options, message):
    assert main(iemocap_prepare.prepare_iemocap, tiny_run(tmp_path, **options)) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def damaged(small_manifests, tmp_path) -> tuple[dict, str]:
    """The manifests, with one training file cut off in the middle."""
    rows = pd.read_csv(small_manifests["train_csv"], dtype=str, keep_default_na=False)
    victim = rows.ID[3]
    path = tmp_path / "cut.wav"
    samples = np.full(8000, np.nan, dtype=np.float32)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    rows.loc[3, "wav"] = str(path)
    rows.to_csv(tmp_path / "train.csv", index=False)
    return {**small_manifests, "train_csv": str(tmp_path / "train.csv")}, victim


def test_bad_audio_is_named(damaged, tmp_path, capsys):
    manifests, _ = damaged
    assert main(None, own_manifests(manifests, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "train.csv" in message
    assert "cut.wav" in message
    assert "row 5" in message or "line 5" in message


def test_bad_audio_is_left_out_when_asked(damaged, tmp_path, capsys):
    manifests, _ = damaged
    options = {"skip_bad_audio": True, "number_of_epochs": 1}
    assert main(None, own_manifests(manifests, tmp_path / "run", **options)) == 0
    assert (tmp_path / "run/metrics.json").is_file()


def test_unknown_class_is_named(small_manifests, tmp_path, capsys):
    rows = pd.read_csv(small_manifests["train_csv"], dtype=str, keep_default_na=False)
    rows.loc[0, "emotion"] = "bored"
    rows.to_csv(tmp_path / "train.csv", index=False)
    manifests = {**small_manifests, "train_csv": tmp_path / "train.csv"}
    assert main(None, own_manifests(manifests, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "bored" in message
    assert "train.csv" in message


def test_corrected_command_may_use_the_folder_of_a_failed_start(damaged, tmp_path):
    manifests, _ = damaged
    folder = tmp_path / "run"
    assert main(None, own_manifests(manifests, folder)) == 2
    options = {"skip_bad_audio": True, "number_of_epochs": 1}
    assert main(None, own_manifests(manifests, folder, **options)) == 0
