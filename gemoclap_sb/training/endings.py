"""How a training ends: its exit status, and its error in one line, by one process of all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch
from torch.distributed.distributed_c10d import _get_default_store

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.manifests import ManifestError, printable
from gemoclap_sb.models.lean_checkpoints import SourceError
from gemoclap_sb.training.launch import JoinError
from gemoclap_sb.training.processes import FailedElsewhere, is_group, place
from gemoclap_sb.training.resources import OutOfResources
from gemoclap_sb.training.settings import ExperimentError

_FAILED, _ENDED = "gemoclap_sb/failed", "gemoclap_sb/ended"
_SECONDS = 3.0


def exit_status(train: Callable[[], object]) -> int:
    """Run a training, and say how it ended, with an error of the user's making in one line.

    0; 1 if memory or disk did not do or another process is gone, and the same command can go on
    from there; 2 if the training could not be done as asked. Of several processes, the first
    that meets an error tells it, and the others end with 1 or 2 too.
    """
    try:
        train()
    except OutOfResources as error:
        return _failed(error, 1)
    except (ExperimentError, ManifestError, AudioError, SourceError) as error:
        return _failed(error, 2)
    except RuntimeError as error:
        if not (is_group() and _is_of_group(error)):
            raise
        rank, count = place()
        return _failed(
            f"process {rank} of {count}: another one of this training is gone "
            f"({' '.join(str(error).split())}). The same command goes on from the last checkpoint.",
            1,
        )
    return 0


def _failed(error: Exception | str, status: int) -> int:
    """Tell of an error, unless another process does."""
    first, status = _claim(error, status)
    if first:
        print(f"error: {printable(error)}", file=sys.stderr, flush=True)
    if is_group():
        _let_others_ask()
    if is_group() and torch.distributed.get_backend() == "gloo":
        # Left to the interpreter's end, the group's threads can abort a process.
        torch.distributed.destroy_process_group()
    return status


def _claim(error: Exception | str, status: int) -> tuple[bool, int]:
    """Whether it is for this process to tell of an error, and the status of the first."""
    if isinstance(error, FailedElsewhere):
        return False, status
    if not is_group():
        # The processes of a machine have all read the same options.
        return isinstance(error, JoinError) or os.environ.get("LOCAL_RANK", "0") == "0", status
    mine = f"{place()[0]} {status}"
    try:
        first = _get_default_store().compare_set(_FAILED, "", mine).decode()
    except RuntimeError:
        # The process that kept the store is gone.
        first = mine
    return first == mine, int(first.split()[1])


def _let_others_ask() -> None:
    """Keep the store, which the first process has, until the others have ended with an error too.

    They need not, so the wait is short.
    """
    rank, count = place()
    try:
        store, until = _get_default_store(), time.monotonic() + _SECONDS
        store.add(_ENDED, 1)
        while rank == 0 and store.add(_ENDED, 0) < count and time.monotonic() < until:
            time.sleep(0.01)
    except RuntimeError:
        # The process that kept it is gone.
        return


def _is_of_group(error: RuntimeError) -> bool:
    """Whether an error is of the processes' connection."""
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo" in text or "by peer" in text
