"""Checkpoints that exist whole or not at all, and the history that travels in them.

SpeechBrain's Checkpointer writes a checkpoint's meta file first and the
parameters after it, into the folder's final name. A process killed in between
leaves a folder that looks like the newest checkpoint and cannot be loaded.
Here the folder is written under another name and renamed at the end.
One that is damaged later (`gemoclap_sb.training.checkpoint_files`) is left out, and what was saved
before it is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    Checkpoint,
    Checkpointer,
    ckpt_recency,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from gemoclap_sb.training.checkpoint_files import (
    DAMAGE,
    SUMS,
    compare_sums,
    listed_checkpoints,
    no_checkpoint,
    reason,
    write_sums,
)
from gemoclap_sb.training.settings import ExperimentError

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

    Arguments are those of ``speechbrain.utils.checkpoints.Checkpointer``. Beside what is asked for,
    the checkpoint of the epoch before the newest is kept, to fall back to.

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
        self._damaged: dict[Path, str] = {}
        self._told: set[Path] = set()
        if if_main_process():
            for leftover in self.checkpoints_dir.glob(PARTIAL_PREFIX + "*"):
                shutil.rmtree(leftover)

    def list_checkpoints(self) -> list[Checkpoint]:
        """List the checkpoints that are not known to be damaged."""
        try:
            found, damaged = listed_checkpoints(self.checkpoints_dir)
        except OSError as error:
            raise ExperimentError(f"the checkpoints cannot be listed: {error}") from error
        self._damaged |= damaged
        return [checkpoint for checkpoint in found if checkpoint.path not in self._damaged]

    def recover_if_possible(
        self,
        importance_key: Callable[[Checkpoint], float] | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
    ) -> Checkpoint | None:
        """Recover from the first of the chosen that is whole, and warn of those that are not.

        None if there is no checkpoint; ExperimentError if there are some, and none can be loaded.
        """
        keys = (importance_key, max_key, min_key, ckpt_predicate)
        while (chosen := self.find_checkpoint(*keys)) is not None:
            try:
                self._check(chosen)
            except DAMAGE as error:
                self._damaged[chosen.path] = reason(error)
                continue
            try:
                self.load_checkpoint(chosen)
                break
            except DAMAGE as error:
                if (chosen.path / SUMS).is_file():
                    raise ExperimentError(
                        f"{chosen.path} is whole, but not of this model: {reason(error)}. Give "
                        "another --output_folder, or the settings that it was made with."
                    ) from error
                self._damaged[chosen.path] = reason(error)
        self._tell(chosen)
        return chosen

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Sequence[str] | None = None,
        max_keys: Sequence[str] | None = None,
        importance_keys: Sequence[Callable[[Checkpoint], float]] = (ckpt_recency,),
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete what the base class does, whole or not at all, but keep one more.

        That is the checkpoint of the epoch before the newest. Not among those of a predicate: amid
        an epoch there is that of the epoch before.
        """
        keys = [{"min_key": key} for key in min_keys or ()]
        keys += [{"max_key": key} for key in max_keys or ()]
        keys += [{"importance_key": key} for key in importance_keys]
        epochs = self.find_checkpoints(ckpt_predicate=lambda of: of.meta["end-of-epoch"])
        kept = set(epochs[1:2]) if ckpt_predicate is None else set()
        found: set[Checkpoint] = set()
        for key in keys:
            chosen = self.find_checkpoints(**key, ckpt_predicate=ckpt_predicate)
            found.update(chosen)
            kept.update(chosen[:num_to_keep])
        # All processes have listed them, and none lists them while they go.
        ddp_barrier()
        if if_main_process():
            for checkpoint in found - kept:
                _delete(checkpoint.path)
                logger.log(verbosity, "Deleted the checkpoint %s", checkpoint.path)
        ddp_barrier()

    def _check(self, checkpoint: Checkpoint) -> None:
        """Compare the files with their sums, or read them where there are none; or DAMAGE."""
        if compare_sums(checkpoint.path):
            return
        # Before anything is loaded: a dataloader would keep its place in the damaged epoch.
        for name, obj in self.recoverables.items():
            if isinstance(obj, torch.nn.Module | torch.optim.Optimizer):
                torch.load(checkpoint.paramfiles[name], map_location="cpu", weights_only=True)

    def _tell(self, chosen: Checkpoint | None) -> None:
        """Warn of what is damaged, once; ExperimentError if there is nothing else."""
        if chosen is None and self._damaged:
            raise ExperimentError(no_checkpoint(self.checkpoints_dir, self._damaged))
        for folder in sorted(self._damaged.keys() - self._told):
            self._told.add(folder)
            logger.warning(
                "%s is damaged (%s) and left out; %s is used instead.",
                folder,
                self._damaged[folder],
                chosen.path,
            )

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
    write_sums(partial.path)
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial.path, path)
    files = {key: path / file.name for key, file in partial.paramfiles.items()}
    return Checkpoint(path, partial.meta, files)


def _delete(path: Path) -> None:
    """Delete a checkpoint; if that is broken off, what is left is a leftover, not a damaged one."""
    going = _partial(path)
    os.replace(path, going)
    shutil.rmtree(going)


def _partial(path: Path) -> Path:
    return path.with_name(PARTIAL_PREFIX + path.name)


def recorded_history(folder: str | os.PathLike) -> list[dict]:
    """Read the records of a run's epochs from its newest checkpoint that is whole.

    FileNotFoundError if the folder of checkpoints holds none.
    """
    found, _ = listed_checkpoints(folder) if Path(folder).is_dir() else ([], {})
    for checkpoint in found:
        try:
            path = checkpoint.paramfiles["history"]
            return json.loads(path.read_text(encoding="utf-8"))
        except DAMAGE:
            continue
    raise FileNotFoundError(f"expected a checkpoint with a history in {folder}, found none.")


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
