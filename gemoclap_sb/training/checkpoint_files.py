"""Whether a checkpoint's files are those that were written.

A disk can lose what was written whole. ``files.json`` in a checkpoint has the size and the SHA-256
of its files. Checkpoints of before it was written are read to see what they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
import yaml
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    ckpt_recency,
)
from speechbrain.utils.logger import get_logger

from gemoclap_sb.files import file_digest, read_json, write_json
from gemoclap_sb.training.settings import ExperimentError

logger = get_logger(__name__)

SUMS = "files.json"
# What reading damaged files raises: ours, json's, yaml's, torch's, SpeechBrain's.
DAMAGE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError,
    UnpicklingError, yaml.YAMLError,
)  # fmt: skip


def write_sums(folder: Path) -> None:
    """Write into a new checkpoint what its files are."""
    files = sorted(folder.iterdir())
    sums = {of.name: {"bytes": of.stat().st_size, "sha256": file_digest(of)} for of in files}
    write_json(folder / SUMS, sums)


def listed_checkpoints(
    folder: str | os.PathLike,
) -> tuple[list[Checkpoint], dict[Path, str]]:
    """List the checkpoints of a folder, newest first, and those that are damaged, with the reason.

    Files are compared with their sizes only; OSError if the folder cannot be read.
    """
    found, damaged = [], {}
    for path in Path(folder).iterdir():
        if path.name.startswith(CKPT_PREFIX):
            try:
                found.append(_read_checkpoint(path))
            except DAMAGE as error:
                damaged[path] = reason(error)
    return sorted(found, key=ckpt_recency, reverse=True), damaged


def selected_checkpoint(
    folder: str | os.PathLike, figure: str, epoch: int | None = None
) -> Checkpoint | None:
    """Find the checkpoint that is best by a figure, the newest of equals, and see that it is whole.

    None if there is none; ExperimentError if it is damaged, or another than that of the ``epoch``.
    """
    if not Path(folder).is_dir():
        return None
    found, damaged = listed_checkpoints(folder)
    sign = -1 if figure == "loss" else 1
    found = [checkpoint for checkpoint in found if figure in checkpoint.meta]
    best = max(found, key=lambda checkpoint: sign * checkpoint.meta[figure], default=None)
    try:
        if best is not None and epoch in (None, best.meta.get("epoch")):
            compare_sums(best.path)
            for path, why in damaged.items() if epoch is None else ():
                logger.warning("%s is damaged (%s) and left out.", path, why)
            return best
    except DAMAGE as error:
        damaged[best.path] = reason(error)
    if damaged:
        path = max(damaged)
        raise ExperimentError(f"its checkpoint {path} is damaged: {damaged[path]}")
    if best is not None:
        raise ExperimentError(
            f"its checkpoint of epoch {epoch}, which was tested, is gone from {folder}; the best "
            f"that is left is of epoch {best.meta['epoch']}"
        )
    return None


def no_checkpoint(folder: Path, damaged: Mapping[Path, str]) -> str:
    """Say that no checkpoint of a folder can be loaded, and what to do."""
    first = max(damaged)
    return (
        f"{folder}: none of its {len(damaged)} checkpoints can be loaded ({first.name}: "
        f"{damaged[first]}). Put one back from a copy, or delete {folder.parent} to train from "
        "the start."
    )


def weights_digest(model: torch.nn.Module) -> str:
    """Give the SHA-256 of a model's weights: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _read_checkpoint(path: Path) -> Checkpoint:
    """Read what a checkpoint's folder says of it; DAMAGE if its files cannot be what was saved."""
    meta = yaml.safe_load((path / METAFNAME).read_text(encoding="utf-8"))
    sums = _sums(path)
    for name, of in sums.items():
        if (size := (path / name).stat().st_size) != of["bytes"]:
            raise ValueError(f"{name} has {size} bytes, {of['bytes']} were written")
    if sums and file_digest(path / METAFNAME) != sums[METAFNAME]["sha256"]:
        raise ValueError(f"{METAFNAME} does not hold what was written")
    if not (isinstance(meta["unixtime"], float) and isinstance(meta["end-of-epoch"], bool)):
        raise ValueError(f"{METAFNAME} does not say when it was written")
    files = [file for file in path.iterdir() if file.suffix == PARAMFILE_EXT]
    return Checkpoint(path, meta, {file.stem: file for file in files})


def compare_sums(path: Path) -> bool:
    """Compare files with what was written, False where that is not known; DAMAGE if they differ."""
    sums = _sums(path)
    for name, of in sums.items():
        if file_digest(path / name) != of["sha256"]:
            raise ValueError(f"{name} does not hold what was written")
    return bool(sums)


def _sums(path: Path) -> dict[str, dict]:
    """Read what was written into a checkpoint; nothing where that is not known."""
    if not (path / SUMS).exists():
        return {}
    sums = read_json(path / SUMS)
    if METAFNAME not in sums:
        raise ValueError(f"{SUMS} does not list {METAFNAME}")
    return sums


def reason(error: BaseException) -> str:
    """Say what is wrong in one line, without torch's advice to let a file run code."""
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, UnpicklingError | EOFError):
        return "a file is no checkpoint of tensors"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
