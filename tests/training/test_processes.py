"""Trainings of several processes: shared evaluation, one that reads, and ends of all together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from gemoclap_sb.training.checkpoints import recorded_history
from gemoclap_sb.training.experiment import main
from tests.process_groups import (
    Die,
    NotANumber,
    Observe,
    free_port,
    lines,
    run_group,
    run_nodes,
)
from tests.run_folders import own_manifests

pytestmark = pytest.mark.slow
GONE = "another one of this training is gone"
# Eight utterances of validation in two batches, twenty of the test in five.
SHARED = {"valid_batch_size": 4, "number_of_epochs": 1, "micro_batch_size": 4}


@pytest.fixture(scope="module")
def trained(small_manifests, tmp_path_factory) -> Path:
    """A run that three processes have trained, beside what was observed.

    One had no batch of validation, amid the training.
    """
    folder = tmp_path_factory.mktemp("three")
    argv = own_manifests(small_manifests, folder / "run", **SHARED)
    ended = run_group(3, argv, folder / "out", Observe(folder / "seen"))
    assert ended.codes == [0, 0, 0], ended.outputs
    assert sum(output.count("confusion matrix:") for output in ended.outputs) == 1
    return folder


def test_one_process_reads_headers(trained, small_manifests):
    wavs = [
        wav
        for split in ("train", "valid", "test")
        for wav in pd.read_csv(small_manifests[f"{split}_csv"]).wav
    ]
    [read] = lines(trained / "seen", "read")
    assert sorted(Path(path).name for path in read) == sorted(Path(wav).name for wav in wavs)


def test_another_number_of_processes_does_not_go_on(trained, small_manifests, capsys):
    # One process alone would go on with a third of the batch.
    assert main(None, own_manifests(small_manifests, trained / "run", **SHARED)) == 2
    assert "processes (was 3, now 1)" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_does_not_depend_on_the_number_of_processes(
    count, trained, small_manifests, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(trained / "run", folder)
    (folder / "metrics.json").unlink()
    (folder / "predictions.csv").unlink()
    argv = own_manifests(small_manifests, folder, "--test_only", **SHARED)
    ended = run_group(count, argv, tmp_path / "out", Observe(tmp_path / "seen"))
    assert ended.codes == [0] * count, ended.outputs
    for name in ("metrics.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (trained / "run" / name).read_bytes()
    evaluated = lines(tmp_path / "seen", "TEST")
    assert len(evaluated) == min(count, 7)
    expected = sum(
        (pd.read_csv(small_manifests[f"{s}_csv"]).ID.tolist() for s in ("valid", "test")), []
    )
    assert sorted(sum(evaluated, [])) == sorted(expected)
    # Validation, which the training had in its history, and the test.
    losses = lines(tmp_path / "seen", "loss")
    assert losses == [losses[0]] * count and len(losses[0]) == 2
    [record] = recorded_history(folder / "save")
    assert losses[0][0] == repr(record["valid_loss"])
    assert losses[0][1] == lines(trained / "seen", "loss")[0][-1]


def test_nan_of_one_process_ends_all(small_manifests, tmp_path):
    argv = own_manifests(small_manifests, tmp_path / "run", **SHARED)
    ended = run_group(2, argv, tmp_path, NotANumber(1))
    assert ended.codes == [2, 2], ended.outputs
    assert "".join(ended.outputs).count("the training diverged") == 1
    assert "Traceback" not in "".join(ended.outputs)


def test_errors_are_told_once(small_manifests, tmp_path):
    rows = pd.read_csv(small_manifests["test_csv"], dtype=str, keep_default_na=False)
    rows.assign(wav="gone.wav").to_csv(tmp_path / "gone.csv", index=False)
    for given, message in (
        # Of the command line before the processes meet, of the YAML, of audio, of the model.
        ({"precision": "fp1"}, "--precision: invalid choice"),
        ({"mixup": -1}, "mixup: expected"),
        ({"test_csv": tmp_path / "gone.csv"}, "gone.wav"),
        ({"lr_audio": -1}, "lr_audio: expected"),
    ):
        argv = own_manifests(small_manifests, tmp_path / "run", **given)
        ended = run_group(2, argv, tmp_path / "out")
        assert ended.codes == [2, 2], ended.outputs
        printed = "".join(ended.outputs)
        assert printed.count("error: ") == 1 and message in printed
        assert "Traceback" not in printed


@pytest.mark.parametrize(("who", "where"), [(0, "preparation"), (1, "training"), (0, "evaluation")])
def test_death_of_one_process_ends_the_others(who, where, small_manifests, tmp_path):
    argv = own_manifests(small_manifests, tmp_path / "run", **SHARED)
    ended = run_group(2, argv, tmp_path, Die(who, where, tmp_path))
    assert ended.codes[who] == -9 and ended.codes[1 - who] == 1, ended.outputs
    assert GONE in ended.outputs[1 - who] and "Traceback" not in ended.outputs[1 - who]
    assert ended.seconds < 30


def test_two_machines_train_together_and_end_together(small_manifests, tmp_path):
    """Two commands on this one, that meet in both ways that torchrun has."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(str(tmp_path)))
    argv = own_manifests(small_manifests, tmp_path / "run", "--distributed_launch", **SHARED)
    there = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = [[f"--node_rank={rank}", *there] for rank in range(2)]
    ends = run_nodes(nodes, script, argv, tmp_path)
    assert ends.codes[0] and ends.codes[1], ends.outputs
    assert GONE in ends.outputs[0]
    assert ends.seconds < 60
    assert not (tmp_path / "run/metrics.json").exists()

    endpoint = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    nodes = [["--rdzv_backend=c10d", "--rdzv_id=one", endpoint]] * 2
    ends = run_nodes(nodes, script, argv, tmp_path)
    assert ends.codes == [0, 0], ends.outputs
    assert sum(output.count("confusion matrix:") for output in ends.outputs) == 1
    assert json.loads((tmp_path / "run/metrics.json").read_text())["processes"] == 2


# The second process dies in the first of its trainings.
SCRIPT = """
import os, sys
from pathlib import Path
from gemoclap_sb.training import experiment
from tests.process_groups import Die
die = Die(1, "training", Path({0!r}))
if not die.died.exists():
    die(int(os.environ["RANK"]))
sys.exit(experiment.main(None, sys.argv[1:]))
"""
