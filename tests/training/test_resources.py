"""Real errors of torch and of the system, told by the option that helps."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from gemoclap_sb.training import experiment
from gemoclap_sb.training.resources import OutOfResources, told_resources

HPARAMS = {"batch_size": 32, "crop_seconds": None, "gradient_checkpointing": False}


def raised(act) -> str:
    with pytest.raises(OutOfResources) as error, told_resources(HPARAMS, "out"):
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def fail(error):
    raise error


@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.empty(2**50),
        lambda: bytearray(2**62),
        lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\n...")),
        lambda: fail(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    ],
)
def test_memory(act):
    message = raised(act)
    assert message.startswith(
        "out of memory. What helps: a lower --batch_size (now 32), --gradient_checkpointing True, "
        "--precision bf16."
    )
    assert "crop_seconds" not in message and "micro_batch_size" not in message


@pytest.mark.parametrize(
    ("size", "given", "ways"),
    [
        (32, None, "a lower --batch_size (now 32), --micro_batch_size 8, "),
        (32, 4, "a lower --batch_size (now 32), a lower --micro_batch_size (now 4), "),
        # What would not help is not advised.
        (4, None, "a lower --batch_size (now 4), "),
        (1, 1, ""),
    ],
)
def test_micro_batches_help_with_memory(size, given, ways):
    hparams = {"batch_size": size, "micro_batch_size": given}
    with pytest.raises(OutOfResources) as error, told_resources(hparams, "out"):
        torch.empty(2**50)
    assert f"What helps: {ways}--precision bf16." in str(error.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full disk")
@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.save({"a": torch.zeros(10**6)}, "/dev/full"),
        lambda: Path("/dev/full").write_text("a" * 10**6),
    ],
)
def test_disk(act):
    message = raised(act)
    assert message.startswith("out cannot be written: ")
    assert message.endswith("Make room there. The same command goes on from the last checkpoint.")


@pytest.mark.parametrize(
    "said", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7) exited unexpectedly"]
)
def test_a_process_that_loads_data(said):
    message = raised(lambda: fail(RuntimeError(f"DataLoader worker {said}")))
    assert message.startswith("a process that loads data was killed")


def test_a_log_on_a_full_disk_says_nothing(capsys):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logger = logging.Logger("full")
    logger.addHandler(logging.StreamHandler(Full()))
    with told_resources(HPARAMS, "out"):
        logger.warning("a line")
    assert capsys.readouterr().err == ""
    logger.warning("another")
    assert "No space left" in capsys.readouterr().err


def test_a_batch_of_one_and_batch_normalisation():
    assert "--batch_size of 2 or more" in raised(
        lambda: torch.nn.BatchNorm1d(3).train()(torch.zeros(1, 3))
    )


def test_other_errors_are_left_alone():
    for error in (ValueError("x"), RuntimeError("y"), FileNotFoundError(errno.ENOENT, "z")):
        with pytest.raises(type(error)), told_resources(HPARAMS, "out"):
            raise error


def test_a_run_ends_with_one_line_and_1(tmp_path, capsys, monkeypatch):
    class Run:
        hparams, folder = HPARAMS, tmp_path

        @staticmethod
        def close() -> None:
            """The folder's lock, of which there is none."""

    monkeypatch.setattr(experiment, "open_run", lambda argv: Run)
    monkeypatch.setattr(experiment, "load_splits", lambda *_: torch.empty(2**50))
    assert experiment.main(None, []) == 1
    assert capsys.readouterr().err.startswith("error: out of memory. What helps: ")
