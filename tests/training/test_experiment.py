"""From a command line to metrics.json: results, resumption, and what wrong input is told."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import gemoclap_sb.training.experiment
import gemoclap_sb.training.gemoclap_brain
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.training.experiment import main

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "recipes/IEMOCAP/gemoclap/train.py"
TINY = {
    "n_mels": 20,
    "channels": 16,
    "text_size": 16,
    "embedding_size": 8,
    "batch_size": 8,
    "number_of_epochs": 2,
}


def arguments(manifests: dict, output: Path, **options: object) -> list[str]:
    """Command line of a tiny run of the demo's experiment."""
    given = {
        "data_folder": manifests["data_root"],
        **{f"{split}_csv": manifests[f"{split}_csv"] for split in ("train", "valid", "test")},
        "output_folder": output,
        **TINY,
        **options,
    }
    pairs = [[f"--{key}", str(value)] for key, value in given.items()]
    return [str(ROOT / "hparams/demo.yaml"), "--device", "cpu", *sum(pairs, [])]


def start(arguments: list[str], **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def finished(small_manifests, tmp_path_factory) -> tuple[Path, str]:
    """An uninterrupted run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, finish(start(arguments(small_manifests, folder)))


def test_result_has_what_the_contract_says(finished, small_manifests):
    folder, printed = finished
    result = json.loads((folder / "metrics.json").read_text())
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
    assert result["hparams_file"].endswith("demo.yaml")
    for words in ("WAR", "UAR", "recall", "confusion matrix: " + str(folder / "confusion.png")):
        assert words in printed
    for picture in ("confusion.png", "training.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_best_validation_uar_is_tested(finished):
    folder, _ = finished
    result = json.loads((folder / "metrics.json").read_text())
    log = (folder / "train_log.txt").read_text().splitlines()
    uars = [float(line.rsplit("valid uar: ", 1)[1]) for line in log if "valid uar" in line]
    assert len(uars) == TINY["number_of_epochs"]
    assert result["valid_uar"] == pytest.approx(max(uars), rel=1e-2)
    assert uars[result["epoch"] - 1] == max(uars)


def test_curves_show_every_epoch(small_manifests, tmp_path, monkeypatch):
    # The evaluation goes back to the best checkpoint; the picture must not.
    drawn = []
    real = gemoclap_sb.training.experiment.draw_training_curves
    monkeypatch.setattr(
        gemoclap_sb.training.experiment,
        "draw_training_curves",
        lambda history, path: drawn.append([r["epoch"] for r in history]) or real(history, path),
    )
    monkeypatch.setattr(
        gemoclap_sb.training.gemoclap_brain,
        "classification_metrics",
        falling(classification_metrics),
    )
    assert main(None, arguments(small_manifests, tmp_path / "run", number_of_epochs=3)) == 0
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    assert drawn == [[1, 2, 3]]
    assert result["epoch"] == 1


def falling(measure):
    """Make each evaluation's UAR lower than the one before."""
    calls = []

    def measured(*args):
        calls.append(1)
        return dataclasses.replace(measure(*args), uar=1.0 / len(calls))

    return measured


def test_same_seed_same_result(finished, small_manifests, tmp_path):
    folder, _ = finished
    finish(start(arguments(small_manifests, tmp_path / "again")))
    again = (tmp_path / "again/metrics.json").read_bytes()
    assert again == (folder / "metrics.json").read_bytes()
    assert (folder / "train_log.txt").read_text() == (tmp_path / "again/train_log.txt").read_text()


def test_killed_and_resumed_gives_the_result_of_an_uninterrupted_run(
    finished, small_manifests, tmp_path
):
    folder = tmp_path / "killed"
    command = [*arguments(small_manifests, folder), "--ckpt_interval_steps", "2"]
    seen: set[str] = set()
    for _ in range(3):
        process = start(command, start_new_session=True)
        # Killed as soon as a checkpoint appears that was not there before: in
        # the middle of an epoch, or right at its end.
        while process.poll() is None:
            now = {path.name for path in (folder / "save").glob("*")}
            if now - seen:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        assert not (folder / "metrics.json").exists()
        seen = {path.name for path in (folder / "save").glob("*")}
    finish(start(command))
    expected = (finished[0] / "metrics.json").read_bytes()
    assert (folder / "metrics.json").read_bytes() == expected


def test_finished_run_can_be_asked_again(finished, small_manifests, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    before = (folder / "metrics.json").read_bytes()
    assert main(None, arguments(small_manifests, folder)) == 0
    assert (folder / "metrics.json").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(finished, small_manifests, capsys):
    assert main(None, arguments(small_manifests, finished[0], alpha_e=0.5)) == 2
    message = capsys.readouterr().err
    assert "alpha_e (was 0.9, now 0.5)" in message
    assert "Give another --output_folder" in message


def test_run_begun_before_classes_moved_resumes(small_manifests, tmp_path):
    """Settings recorded with other module paths, and without the keys that came later."""
    folder = tmp_path / "run"
    given = arguments(small_manifests, folder, number_of_epochs=1)
    assert main(None, given) == 0
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
    before = (folder / "metrics.json").read_bytes()
    assert main(None, given) == 0
    assert (folder / "metrics.json").read_bytes() == before


def test_pretrainer_links_one_stage_to_the_next(finished, small_manifests, tmp_path):
    """A run of no epochs that starts from another's best checkpoint has its result."""
    folder, _ = finished
    best = max(
        (folder / "save").glob("CKPT*"),
        key=lambda path: float(path.joinpath("CKPT.yaml").read_text().split("uar: ")[1].split()[0]),
    )
    yaml = (
        (ROOT / "hparams/demo.yaml").read_text()
        + f"""
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        clap: !ref <clap>
    paths:
        clap: {best}/clap.ckpt
"""
    )
    (tmp_path / "second.yaml").write_text(yaml)
    command = arguments(small_manifests, tmp_path / "run", number_of_epochs=0)
    command[0] = str(tmp_path / "second.yaml")
    assert main(None, command) == 0
    results = [json.loads((f / "metrics.json").read_text()) for f in (folder, tmp_path / "run")]
    assert results[0]["confusion"] == results[1]["confusion"]


def test_pretrainer_without_its_file_is_explained(small_manifests, tmp_path, capsys):
    yaml = (
        (ROOT / "hparams/demo.yaml").read_text()
        + """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        clap: !ref <clap>
    paths:
        clap: none/at/all/clap.ckpt
"""
    )
    (tmp_path / "second.yaml").write_text(yaml)
    command = arguments(small_manifests, tmp_path / "run")
    command[0] = str(tmp_path / "second.yaml")
    assert main(None, command) == 2
    assert "second.yaml: pretrainer: " in capsys.readouterr().err


def test_two_processes_train_together(small_manifests, tmp_path):
    folder = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=29517", str(TRAIN), *arguments(small_manifests, folder)]
    command += ["--distributed_backend", "gloo", "--distributed_launch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "metrics.json").read_text())
    assert result["n_test"] == len(pd.read_csv(small_manifests["test_csv"]))
    assert done.stdout.count("confusion matrix:") == 1


def test_distributed_launch_alone_says_how(small_manifests, tmp_path, capsys):
    assert main(None, [*arguments(small_manifests, tmp_path), "--distributed_launch"]) == 2
    assert "torchrun --nproc_per_node=N" in capsys.readouterr().err


def test_half_precision_keeps_working(small_manifests, tmp_path):
    folder = tmp_path / "run"
    assert main(None, [*arguments(small_manifests, folder), "--precision", "bf16"]) == 0
    assert 0 <= json.loads((folder / "metrics.json").read_text())["uar"] <= 1


def test_debug_run_never_counts_as_finished(small_manifests, tmp_path):
    folder = tmp_path / "run"
    assert main(None, [*arguments(small_manifests, folder), "--debug"]) == 0
    # Two batches of 32 at most, and no checkpoint left behind.
    assert json.loads((folder / "debug_metrics.json").read_text())["n_test"] <= 64
    assert not (folder / "metrics.json").exists()
    assert not list((folder / "save").glob("CKPT*"))


def test_validating_on_ones_own_test_manifest_is_said(small_manifests, tmp_path, capsys):
    both = {**small_manifests, "valid_csv": small_manifests["test_csv"]}
    assert main(None, arguments(both, tmp_path / "run", number_of_epochs=1)) == 0
    assert "chosen on the test side itself" in capsys.readouterr().out


def scratch_arguments(output: Path, **options: object) -> list[str]:
    """Command line of a tiny IEMOCAP run."""
    pairs = [[f"--{key}", str(value)] for key, value in {**TINY, **options}.items()]
    yaml = str(ROOT / "hparams/emo_scratch.yaml")
    return [yaml, "--device", "cpu", "--output_folder", str(output), *sum(pairs, [])]


def test_validation_on_the_test_session_is_said(small_corpus, iemocap_prepare, tmp_path, capsys):
    command = scratch_arguments(
        tmp_path / "run", data_folder=small_corpus, validation="test", number_of_epochs=1
    )
    assert main(iemocap_prepare.prepare_iemocap, command) == 0
    assert "test session" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    assert result["validation"] == "test"


def test_wrong_option_of_the_preparation_is_named(small_corpus, iemocap_prepare, tmp_path, capsys):
    command = scratch_arguments(tmp_path / "run", data_folder=small_corpus, validation="none")
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    assert "'none'" in capsys.readouterr().err


# Wrong input, one of each kind.


def test_no_data_is_explained(tmp_path, capsys):
    yaml = str(ROOT / "hparams/emo_scratch.yaml")
    assert main(None, [yaml, "--output_folder", str(tmp_path)]) == 2
    assert "give --data_folder" in capsys.readouterr().err


def test_one_manifest_of_three_is_explained(small_manifests, tmp_path, capsys):
    assert main(None, arguments(small_manifests, tmp_path, valid_csv="")) == 2
    assert "--valid_csv missing" in capsys.readouterr().err


def test_missing_manifest_is_named(small_manifests, tmp_path, capsys):
    assert main(None, arguments(small_manifests, tmp_path, valid_csv="none.csv")) == 2
    assert "--valid_csv: no file none.csv" in capsys.readouterr().err


def test_missing_corpus_is_named(iemocap_prepare, tmp_path, capsys):
    yaml = str(ROOT / "hparams/emo_scratch.yaml")
    command = [yaml, "--data_folder", str(tmp_path / "none"), "--output_folder", str(tmp_path)]
    assert main(iemocap_prepare.prepare_iemocap, command) == 2
    assert "--data_folder: no folder" in capsys.readouterr().err


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
    assert main(None, arguments(manifests, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "train.csv" in message
    assert "cut.wav" in message
    assert "row 5" in message or "line 5" in message


def test_bad_audio_is_left_out_when_asked(damaged, tmp_path, capsys):
    manifests, _ = damaged
    options = {"skip_bad_audio": True, "number_of_epochs": 1}
    assert main(None, arguments(manifests, tmp_path / "run", **options)) == 0
    assert (tmp_path / "run/metrics.json").is_file()


def test_unknown_class_is_named(small_manifests, tmp_path, capsys):
    rows = pd.read_csv(small_manifests["train_csv"], dtype=str, keep_default_na=False)
    rows.loc[0, "emotion"] = "bored"
    rows.to_csv(tmp_path / "train.csv", index=False)
    manifests = {**small_manifests, "train_csv": tmp_path / "train.csv"}
    assert main(None, arguments(manifests, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "bored" in message
    assert "train.csv" in message


def test_corrected_command_may_use_the_folder_of_a_failed_start(damaged, tmp_path):
    manifests, _ = damaged
    folder = tmp_path / "run"
    assert main(None, arguments(manifests, folder)) == 2
    options = {"skip_bad_audio": True, "number_of_epochs": 1}
    assert main(None, arguments(manifests, folder, **options)) == 0


def test_compiled_model_gives_finite_losses(small_manifests, tmp_path, monkeypatch):
    # The eager backend traces as inductor does and needs no compiler.
    monkeypatch.setattr(
        torch,
        "compile",
        lambda module, _compile=torch.compile, **_: _compile(module, backend="eager"),
    )
    folder = tmp_path / "run"
    command = [*arguments(small_manifests, folder), "--compile", "--debug"]
    command += ["--debug_batches", "1", "--debug_epochs", "1"]
    assert main(None, command) == 0
    assert 0 <= json.loads((folder / "debug_metrics.json").read_text())["uar"] <= 1
