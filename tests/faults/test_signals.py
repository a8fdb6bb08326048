"""SIGTERM, as a scheduler sends it half a minute before SIGKILL, to the real commands."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gemoclap_sb.training.locks import lock_folder
from tests.faults.processes import ENVIRONMENT, assert_same, command, result, wait_for
from tests.run_folders import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TRAIN = ROOT / "recipes/IEMOCAP/gemoclap/train.py"
SECONDS_OF_GRACE = 30


@pytest.fixture
def manifests(whole) -> dict[str, Path]:
    """Three manifests, since the script prepares another corpus."""
    return {
        f"{split}_csv": whole[0] / f"manifests/{split}.csv" for split in ("train", "valid", "test")
    }


def terminated(argv: list[str], folder: Path, launcher: Sequence[str] = ()) -> str:
    """Start the script, end it by SIGTERM when it has trained an epoch, and give its last words."""
    process = subprocess.Popen(
        [sys.executable, *launcher, str(TRAIN), *argv],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list(folder.glob("save/CKPT*")) or process.poll() is not None)
    process.terminate()
    printed, _ = process.communicate(timeout=SECONDS_OF_GRACE)
    assert process.returncode != 0, printed
    assert not (folder / "metrics.json").exists(), printed
    # Nobody is at work there any more.
    lock_folder(folder).release()
    return printed


def test_train(zygote, tones_corpus, manifests, tmp_path):
    undisturbed = command(tones_corpus, tmp_path / "undisturbed", **manifests)
    assert zygote.run(undisturbed).status == 0
    argv = command(tones_corpus, tmp_path / "run", **manifests)
    assert "Traceback" not in terminated(argv, tmp_path / "run")
    assert zygote.run(argv).status == 0
    assert_same(tmp_path / "run", result(tmp_path / "undisturbed"))


def two_processes(zygote, argv: list[str]) -> list[int]:
    """Run two processes as torchrun does, without its eight seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [
        {**meeting, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")
    ]
    return [ended.status for ended in zygote.together([argv, argv], ranks)]


def test_torchrun(zygote, tones_corpus, manifests, tmp_path):
    assert two_processes(zygote, command(tones_corpus, tmp_path / "undisturbed", **manifests)) == [
        0,
        0,
    ]
    argv = command(tones_corpus, tmp_path / "run", **manifests)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    terminated(argv, tmp_path / "run", launcher)
    assert two_processes(zygote, argv) == [0, 0]
    assert_same(tmp_path / "run", result(tmp_path / "undisturbed"))
