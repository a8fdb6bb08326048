"""What training runs out of (memory, disk, a batch), and the option that helps."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says of a disk that has no room, or of a file that may not grow."""

# In the order in which they cost least.
_SAVING = {
    "batch_size": "a lower --batch_size (now {})",
    "valid_batch_size": "for evaluation a lower --valid_batch_size (now {})",
    "crop_seconds": "a lower --crop_seconds (now {})",
    "gradient_checkpointing": "--gradient_checkpointing True",
    "micro_batch_size": "a lower --micro_batch_size (now {})",
    "cache_gib": "a lower --cache_gib (now {})",
}
_SMALL = 8
_AGAIN = "The same command goes on from the last checkpoint."


class OutOfResources(RuntimeError):
    """Memory or disk did not do; the message says what to change."""


@contextmanager
def told_resources(hparams: Mapping[str, Any], folder: str | os.PathLike) -> Iterator[None]:
    """Turn an error for want of memory, disk or batch into an `OutOfResources` of one line."""
    # A log on the disk that is full would print a page for each of its lines.
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    except (RuntimeError, ValueError, MemoryError, OSError) as error:
        if (told := _told(error, hparams, folder)) is None:
            raise
        raise OutOfResources(told) from error
    finally:
        logging.raiseExceptions = raising


def _told(error: Exception, hparams: Mapping[str, Any], folder: str | os.PathLike) -> str | None:
    text = str(error)
    if isinstance(error, OSError):
        if error.errno in FULL:
            return _of_disk(folder, error.strerror)
        return _of_memory(hparams) if error.errno == errno.ENOMEM else None
    # What torch.save says of a disk that is full.
    if "inline_container" in text or "PytorchStreamWriter failed" in text:
        return _of_disk(folder, "a checkpoint could not be written whole")
    # The one where torch hears of it at once, the other where it misses an answer.
    if "DataLoader worker" in text and ("killed" in text or "exited unexpectedly" in text):
        return f"a process that loads data was killed, mostly for memory: --num_workers 0. {_AGAIN}"
    wants_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in ("not enough memory", "allocate memory", "out of memory")
    )
    if wants_memory:
        return _of_memory(hparams)
    if "Expected more than 1 value per channel" in text:
        return (
            "a batch is too small for batch normalisation, which compares its utterances: give "
            f"each process a --batch_size of 2 or more (now {hparams.get('batch_size')}), and no "
            "--micro_batch_size of 1."
        )
    return None


def _of_memory(hparams: Mapping[str, Any]) -> str:
    """Name the options of the experiment that would save some."""
    ways = [
        say.format(hparams[key])
        for key, say in _SAVING.items()
        if hparams.get(key) or hparams.get(key) is False
        # True is an integer too, and equal to 1, below which no size goes.
        if not (isinstance(hparams[key], int) and hparams[key] == 1)
    ]
    if hparams.get("micro_batch_size", 0) is None and hparams.get("batch_size", 0) > _SMALL:
        # A second forward pass is its price.
        ways.append(f"--micro_batch_size {_SMALL}")
    return (
        f"out of memory. What helps: {', '.join([*ways, '--precision bf16'])}. A run that has a "
        "checkpoint keeps its settings: with other ones give another --output_folder too."
    )


def _of_disk(folder: str | os.PathLike, reason: str | None) -> str:
    return f"{folder} cannot be written: {reason}. Make room there. {_AGAIN}"
