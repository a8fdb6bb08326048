"""A result is of the data, the checkpoint and the settings that it names, and stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from gemoclap_sb.export import ExportError, export
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.experiment import main
from gemoclap_sb.training.results import record_run
from gemoclap_sb.training.run_folder import is_finished
from tests.run_folders import own_manifests, tiny_run


def contents(folder: Path) -> dict[str, bytes]:
    """What a user would miss, by name."""
    names = ["metrics.json", "predictions.csv", "confusion.png", "training.png", "train_log.txt"]
    files = [folder / name for name in names] + sorted((folder / "manifests").glob("*"))
    return {path.name: path.read_bytes() for path in files}


def edited(path: str | Path, new: Path, change) -> str:
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(rows).to_csv(new, index=False)
    return str(new)


@pytest.fixture
def finished(small_run, tmp_path) -> Path:
    shutil.copytree(small_run[0], tmp_path / "run")
    return tmp_path / "run"


def test_result_names_its_data_and_checkpoint(small_run, small_manifests):
    folder = small_run[0]
    result = json.loads((folder / "metrics.json").read_text())
    for split in ("train", "valid", "test"):
        assert result["data"][split]["rows"] == len(pd.read_csv(small_manifests[f"{split}_csv"]))
    assert (result["processes"], result["precision"]) == (1, "fp32")
    assert "left_out" not in result
    [tested] = [
        path for path in (folder / "save").glob("CKPT*")
        if f"epoch: {result['epoch']}\n" in (path / "CKPT.yaml").read_text()
    ]  # fmt: skip
    weights = torch.load(tested / "clap.ckpt", weights_only=True)
    module = torch.nn.Module()
    module.state_dict = lambda: weights
    assert result["checkpoint"] == {"epoch": result["epoch"], "sha256": weights_digest(module)}
    assert str(folder) not in (folder / "metrics.json").read_text()


def test_finished_run_elsewhere_and_edited(
    finished, small_corpus, iemocap_prepare, tmp_path, capsys
):
    """The same corpus at another place is the same; one that was edited is not."""
    before = contents(finished)
    moved = tmp_path / "scratch"
    shutil.copytree(small_corpus, moved)
    command = tiny_run(finished, data_folder=moved)
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    after = contents(finished)
    assert after["metrics.json"] == before["metrics.json"]
    assert json.loads((finished / "settings.json").read_text())["data_folder"] == str(moved)
    capsys.readouterr()

    [victim, *_] = sorted(moved.rglob("Ses02*.wav"))
    shutil.copytree(moved, tmp_path / "edited")
    [path] = (tmp_path / "edited").rglob(victim.name)
    path.unlink()
    command = tiny_run(finished, data_folder=tmp_path / "edited")
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {finished} holds a run begun on other data: ")
    assert "rows, now" in said and "another --output_folder for these" in said
    assert contents(finished) == after


def test_manifest_edited_amid_a_run_is_refused(small_manifests, tmp_path, capsys):
    folder = tmp_path / "run"
    # It ends when the data are bound, and before it trains.
    assert main(None, own_manifests(small_manifests, folder, "--test_only")) == 2
    (folder / "save/CKPT+1").mkdir(parents=True)
    size = len(pd.read_csv(small_manifests["test_csv"]))

    def relabel(rows):
        rows.loc[0, "transcript"] = "Something else."
        return rows

    for split, change, told in (
        ("train", relabel, "train (the cells of its rows, or their order, are others)"),
        ("valid", lambda rows: rows[::-1], "valid (the cells of its rows, or their order"),
        ("test", lambda rows: rows[1:], f"test (had {size} rows, now {size - 1})"),
    ):
        other = edited(small_manifests[f"{split}_csv"], tmp_path / "other.csv", change)
        given = {**small_manifests, f"{split}_csv": other}
        assert main(None, own_manifests(given, folder)) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{folder} holds a run begun on other data: {told}" in said
        assert "another --output_folder" in said


def test_overlapping_manifests_are_refused(small_manifests, tmp_path, capsys):
    same = {**small_manifests, "train_csv": small_manifests["test_csv"]}
    assert main(None, own_manifests(same, tmp_path / "run")) == 2
    assert "test.csv share " in capsys.readouterr().err
    assert not (tmp_path / "run/save").exists() or not list((tmp_path / "run/save").iterdir())


def test_left_out_rows_and_equal_rows_stand_in_the_result(small_manifests, tmp_path, capsys):
    """Validation is the test in another order, as another file; one recording cannot be read."""
    (tmp_path / "bad.wav").write_bytes(b"RIFF")

    def spoil(rows):
        rows.loc[2, "wav"] = str(tmp_path / "bad.wav")
        return rows

    test = edited(small_manifests["test_csv"], tmp_path / "test.csv", spoil)
    valid = edited(test, tmp_path / "valid.csv", lambda rows: rows[::-1])
    given = {**small_manifests, "test_csv": test, "valid_csv": valid}
    options = {"number_of_epochs": 1, "skip_bad_audio": True}
    assert main(None, own_manifests(given, tmp_path / "run", **options)) == 0
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    victim = pd.read_csv(test, dtype=str).ID[2]
    assert result["left_out"] == {"valid": [victim], "test": [victim]}
    assert result["n_test"] == len(pd.read_csv(test)) - 1
    assert result["validation"] == "test"
    note = f"Left out of test, their audio being unusable: 1, first {victim}."
    assert note in result["notes"]
    assert note in capsys.readouterr().out


def test_debug_and_test_only_leave_a_finished_run_as_it_is(
    finished, small_corpus, iemocap_prepare, capsys
):
    before = contents(finished)
    command = tiny_run(finished, "--debug", data_folder=small_corpus)
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    assert contents(finished) == before
    assert (finished / "debug_confusion.png").is_file()

    command = tiny_run(finished, "--test_only", data_folder=small_corpus)
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    same = {**before, "train_log.txt": (finished / "train_log.txt").read_bytes()}
    assert contents(finished) == same

    # Another result than it has.
    result = json.loads((finished / "metrics.json").read_text())
    result["confusion"][0][0] += 1
    (finished / "metrics.json").write_text(json.dumps(result))
    before = contents(finished)
    capsys.readouterr()
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    assert "metrics.json stays: testing this finished run again" in capsys.readouterr().err
    log = {"train_log.txt": (finished / "train_log.txt").read_bytes()}
    assert contents(finished) == before | log


def test_finished_run_without_checkpoints_is_not_trained_again(
    finished, small_corpus, iemocap_prepare, capsys
):
    shutil.rmtree(finished / "save")
    before = contents(finished)
    command = tiny_run(finished, data_folder=small_corpus)
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    assert "is finished, and its checkpoints are gone" in capsys.readouterr().err
    assert contents(finished) == before


def test_test_only_amid_a_training_has_names_of_its_own(
    finished, small_corpus, iemocap_prepare, capsys
):
    for path in (finished / "save").glob("CKPT*"):
        if "epoch: 2\n" in (path / "CKPT.yaml").read_text():
            shutil.rmtree(path)
    (finished / "metrics.json").unlink()
    command = tiny_run(finished, "--test_only", data_folder=small_corpus)
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    assert not (finished / "metrics.json").exists()
    assert json.loads((finished / "test_only_metrics.json").read_text())["epoch"] == 1


def test_model_that_never_trained_has_no_result(small_manifests, tmp_path, capsys):
    for flags, options in ((["--test_only"], {}), ([], {"number_of_epochs": 0})):
        folder = tmp_path / f"run{len(flags)}"
        assert main(None, own_manifests(small_manifests, folder, *flags, **options)) == 2
        assert not (folder / "metrics.json").exists()
        [said] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert "number_of_epochs" in said or "nothing was trained" in said


def test_debug_leaves_no_checkpoints(small_manifests, tmp_path, capsys):
    flags = ["--debug", "--debug_persistently"]
    assert main(None, own_manifests(small_manifests, tmp_path / "run", *flags)) == 2
    assert "checkpoints of a few batches" in capsys.readouterr().err


def test_export_is_of_the_checkpoint_that_was_tested(finished, tmp_path):
    epoch = json.loads((finished / "metrics.json").read_text())["epoch"]
    [tested] = [
        path for path in (finished / "save").glob("CKPT*")
        if f"epoch: {epoch}\n" in (path / "CKPT.yaml").read_text()
    ]  # fmt: skip
    content = (tested / "clap.ckpt").read_bytes()
    (tested / "clap.ckpt").write_bytes(content[:-100])
    with pytest.raises(ExportError, match="its checkpoint .* is damaged: clap.ckpt has") as told:
        export(finished, tmp_path / "out")
    assert "\n" not in str(told.value)
    shutil.rmtree(tested)
    with pytest.raises(ExportError, match=f"its checkpoint of epoch {epoch}, which was tested"):
        export(finished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seconds_add_up_over_attempts(tmp_path):
    record_run(tmp_path, 10.0, "cpu")
    record_run(tmp_path, 5.5, "cpu")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seconds"] == 15.5
    assert run["packages"]["torch"].startswith("2.11")
    assert not is_finished(tmp_path)
