"""Wrong input of an experiment, one of each kind, and what its user is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from gemoclap_sb.data.manifests import ManifestError, read_manifest
from gemoclap_sb.training.experiment import load_splits, main, open_run
from tests.run_folders import ROOT, own_manifests, tiny_run


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
def test_missing_data_are_named_before_anything_is_made(
    iemocap_prepare, tmp_path, capsys, options, message
):
    assert main(iemocap_prepare.prepare_iemocap, tiny_run(tmp_path / "run", **options)) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "run").exists()


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


def test_three_manifests_need_only_what_the_experiment_reads(small_manifests, tmp_path, capsys):
    for split in ("train", "valid", "test"):
        table = pd.read_csv(small_manifests[f"{split}_csv"])
        table[["ID", "wav", "emotion"]].to_csv(tmp_path / f"{split}.csv", index=False)
    own = {f"{split}_csv": tmp_path / f"{split}.csv" for split in ("train", "valid", "test")}
    own |= {"data_root": small_manifests["data_root"]}
    argv = own_manifests(own, tmp_path / "run")
    # Emo-CLAP reads nothing else; SL-GEmo-CLAP asks for gender.
    emo = [argv[0].replace("sl_scratch", "emo_scratch"), *argv[1:]]
    splits = load_splits(open_run(emo))
    expected = read_manifest(small_manifests["test_csv"], small_manifests["data_root"])
    assert {k: of["duration"] for k, of in splits.rows["test"].items()} == pytest.approx(
        {k: of["duration"] for k, of in expected.items()}, abs=1e-5
    )
    with pytest.raises(ManifestError, match="missing column gender"):
        load_splits(open_run([*argv, "--experiment", "other"]))
    assert main(None, [*argv, "--experiment", "other"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "missing column gender" in last and "Emo-CLAP, which reads emotion alone" in last
    (tmp_path / "train.csv").write_text("ID,wav\na,b\n")
    assert main(None, [*argv, "--experiment", "other"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "missing column gender, emotion" in last and "Emo-CLAP" not in last


def test_labels_that_are_others_say_how_to_name_them(small_manifests, tmp_path, capsys):
    path = tmp_path / "train.csv"
    path.write_text(Path(small_manifests["train_csv"]).read_text().replace(",ang,", ",anger,"))
    argv = own_manifests({**small_manifests, "train_csv": path}, tmp_path / "run")
    assert main(None, argv) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "more rows: emotion is 'anger', expected one of ang, hap, neu, sad. Labels of" in line
    assert "--words words.yaml" in line


def test_a_run_keeps_the_script_of_its_recipe(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("# of a recipe")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    folder = open_run(tiny_run(tmp_path / "run", data_folder=tmp_path)).folder
    assert (folder / "train.py").read_text() == "# of a recipe"
    assert [path.name for path in folder.glob("*.py")] == ["train.py"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("objective", "!new:gemoclap_sb.objectives.None"), ("history", "!new:no.such.module.Class")],
)
def test_a_class_that_is_not_there(tmp_path, capsys, key, value):
    path = tmp_path / "own.yaml"
    text = (ROOT / "hparams/emo_scratch.yaml").read_text()
    start = text.index(f"{key}: !new")
    path.write_text(text[:start] + f"{key}: {value}" + text[text.index("\n", start) :])
    argv = tiny_run(tmp_path / "run", data_folder=tmp_path)
    assert main(None, [str(path), *argv[1:]]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: ") and err.count("\n") == 1


@pytest.mark.parametrize("key", ["skip_bad_audio", "batch_size", "num_workers", "prompts"])
def test_a_yaml_that_lacks_a_key(tmp_path, capsys, key):
    path = tmp_path / "own.yaml"
    text = (ROOT / "hparams/emo_scratch.yaml").read_text()
    path.write_text(text.replace(f"\n{key}: ", "\nanother: "))
    assert main(None, [str(path), "--data_folder", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {path} has no {key}, which an experiment is made of")
    assert printed.count("\n") == 1


def test_of_another_run_in_the_folder_the_roots_are_told(small_manifests, tmp_path, capsys):
    argv = own_manifests(small_manifests, tmp_path / "run")
    open_run(argv).close()
    (tmp_path / "run/save/CKPT+1").mkdir()
    assert main(None, [*argv, "--alpha_e", "0.5"]) == 2
    assert "other settings: alpha_e (was 0.9, now 0.5). Give" in capsys.readouterr().err


def test_too_few_to_train_on(small_manifests, tmp_path, capsys):
    lines = Path(small_manifests["train_csv"]).read_text().splitlines(keepends=True)
    (tmp_path / "one.csv").write_text("".join(lines[:2]))
    argv = own_manifests({**small_manifests, "train_csv": tmp_path / "one.csv"}, tmp_path / "run")
    assert main(None, argv) == 2
    assert "training set: expected 2 utterances or more, found 1." in capsys.readouterr().err
