"""One run at a time in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from gemoclap_sb.training.settings import ExperimentError

LOCK = ".lock"


def lock_folder(folder: str | os.PathLike) -> FileLock:
    """Take a folder, made if it is missing, until the lock is released or this process dies.

    ExperimentError if another process has it, or nothing can be written there.
    """
    lock = FileLock(Path(folder) / LOCK)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ExperimentError(
            f"{folder}: another run is at work there. Wait for its end, or give another "
            "--output_folder."
        ) from error
    except OSError as error:
        raise ExperimentError(
            f"--output_folder: {folder} cannot be written ({error.strerror or error}). Name a "
            "folder that is yours to write."
        ) from error
    return lock
