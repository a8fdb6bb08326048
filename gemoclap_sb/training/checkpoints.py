"""Checkpoints that exist whole or not at all, and the history that travels in them.

SpeechBrain's Checkpointer writes a checkpoint's meta file first and the
parameters after it, into the folder's final name. A process killed in between
leaves a folder that looks like the newest checkpoint and cannot be loaded.
Here the folder is written under another name and renamed at the end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

from speechbrain.utils.checkpoints import (
    Checkpoint,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

PARTIAL_PREFIX = ".partial-"
SELECTED_BY = "uar"
"""The figure whose best checkpoint is tested and exported, where ``select_by`` names no other."""


def best_key(figure: str) -> dict[str, str]:
    """Say to a Checkpointer which checkpoint is the best by a figure: the least loss, or the most.

    >>> best_key("loss"), best_key("uar")
    ({'min_key': 'loss'}, {'max_key': 'uar'})
    """
    return {"min_key" if figure == "loss" else "max_key": figure}


class AtomicCheckpointer(Checkpointer):
    """A Checkpointer whose checkpoints appear under their name when complete.

    Arguments are those of ``speechbrain.utils.checkpoints.Checkpointer``.

    Examples
    --------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": torch.nn.Linear(1, 1)})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> [path.name for path in folder.iterdir()] == [checkpoint.path.name]
    True
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if if_main_process():
            for leftover in self.checkpoints_dir.glob(PARTIAL_PREFIX + "*"):
                shutil.rmtree(leftover)

    def save_checkpoint(
        self,
        meta: dict | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> Checkpoint | None:
        """Save a checkpoint as the base class does; None on other processes than the main one."""
        partial = super().save_checkpoint(meta or {}, end_of_epoch, name, logging.DEBUG)
        ddp_barrier()
        whole = None if partial is None else _renamed(partial)
        # No process may list the checkpoints while the new one changes its name: they
        # would disagree about which to delete, and wait for each other for ever.
        ddp_barrier()
        if whole is not None:
            logger.log(verbosity, "Saved a checkpoint in %s", whole.path)
        return whole

    def _new_checkpoint_dirpath(self) -> Path:
        return _partial(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        return _partial(super()._custom_checkpoint_dirpath(name))


def _renamed(partial: Checkpoint) -> Checkpoint:
    """Give a complete checkpoint its name."""
    path = partial.path.with_name(partial.path.name.removeprefix(PARTIAL_PREFIX))
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial.path, path)
    files = {key: path / file.name for key, file in partial.paramfiles.items()}
    return Checkpoint(path, partial.meta, files)


def _partial(path: Path) -> Path:
    return path.with_name(PARTIAL_PREFIX + path.name)


def recorded_history(folder: str | os.PathLike) -> list[dict]:
    """Read the records of a run's epochs from its newest checkpoint.

    FileNotFoundError if the folder of checkpoints holds none.
    """
    newest = Checkpointer(folder).find_checkpoint() if Path(folder).is_dir() else None
    if newest is None or "history" not in newest.paramfiles:
        raise FileNotFoundError(f"expected a checkpoint with a history in {folder}, found none.")
    return json.loads(Path(newest.paramfiles["history"]).read_text(encoding="utf-8"))


@register_checkpoint_hooks
class History:
    """One record per finished epoch, saved and recovered with the checkpoint.

    A log file would repeat an epoch that was interrupted after its line was
    written; this cannot.

    Examples
    --------
    >>> history = History()
    >>> history.append({"epoch": 1, "valid_uar": 0.5})
    >>> history.records
    [{'epoch': 1, 'valid_uar': 0.5}]
    """

    def __init__(self) -> None:
        self.records: list[dict] = []

    def append(self, record: dict) -> None:
        """Add the record of an epoch."""
        self.records.append(record)

    @mark_as_saver
    def _save(self, path: Path) -> None:
        Path(path).write_text(json.dumps(self.records), encoding="utf-8")

    @mark_as_loader
    def _load(self, path: Path, end_of_epoch: bool = True) -> None:
        del end_of_epoch
        self.records = json.loads(Path(path).read_text(encoding="utf-8"))
