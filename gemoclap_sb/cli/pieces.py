"""Embeddings in pieces beside the file that they will make, so that an interrupted run goes on.

A piece is a .npz file with the embeddings of some recordings and the errors of others, whole or
not there. Its name is a digest of all that decides its content: the model, the settings, and
path, size and time of each recording. What another run left is therefore never taken for one's
own, and a recording that has changed costs its piece and no more.

Pieces are also what batches are made of, so that the result is to the bit that of a run that
was not interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemoclap_sb.cli.destinations import writing
from gemoclap_sb.cli.errors import UsageError
from gemoclap_sb.cli.terminal import say
from gemoclap_sb.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

# Few enough that little is lost; a batch is sorted out of them. The first have fewer still.
MOST_FILES, FIRST_FILES = 256, 32
MOST_BYTES = 2**26
_VERSION = 1
_OURS = re.compile(r"[0-9a-f]{64}\.npz|\.tmp-.*\.npz")
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Piece:
    """Recordings that are embedded together, and the file that keeps what became of them."""

    paths: list[str]
    file: Path

    def read(self, size: int) -> tuple[np.ndarray, list[str | None]] | None:
        """Give embeddings ``[N, size]`` and an error or None a recording, if they are there."""
        import numpy as np

        try:
            with np.load(self.file, allow_pickle=False) as held:
                vectors, errors = held["vectors"], json.loads(held["errors"].tobytes())
        except _DAMAGED:
            return None
        is_whole = (
            len(errors) == len(self.paths)
            and vectors.dtype == np.float32
            and vectors.shape == (errors.count(None), size)
        )
        return (vectors, errors) if is_whole else None

    def write(self, vectors: np.ndarray, errors: Sequence[str | None]) -> None:
        """Keep embeddings and errors; those of errors alone are soon made again."""
        import numpy as np

        text = np.frombuffer(json.dumps(errors).encode(), np.uint8)
        if len(vectors):
            with atomic_path(self.file) as temporary, open(temporary, "wb") as file:
                np.savez(file, vectors=vectors, errors=text)


class Pieces:
    """The pieces of one result, in order, and their folder.

    Parameters
    ----------
    target : Path
        The result.
    paths : Sequence[str]
        The recordings.
    settings : Mapping
        All else that decides what is embedded, as plain JSON types.

    Raises
    ------
    UsageError
        If something else is where the folder would be.
    """

    def __init__(self, target: Path, paths: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.folder = target.with_name(f".{target.name}.parts")
        if os.path.lexists(self.folder) and (
            self.folder.is_symlink() or not self.folder.is_dir() or self._foreign()
        ):
            raise UsageError(
                f"--output: {self.folder} is in the way, where an interrupted run would be kept. "
                "Move it."
            )
        self.pieces = [
            Piece([path for path, *_ in part], self.folder / f"{_digest(part, settings)}.npz")
            for part in _parted(paths)
        ]

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def tidy(self) -> None:
        """Remove what no piece of this result is, and say what there is to go on from."""
        if not self.folder.is_dir():
            return
        wanted = {piece.file.name for piece in self.pieces}
        stale = [file for file in self.folder.iterdir() if file.name not in wanted]
        for file in stale:
            file.unlink(missing_ok=True)
        kept = sum(len(piece.paths) for piece in self.pieces if piece.file.is_file())
        if kept:
            say(f"Going on from {kept} recordings in {self.folder}.")
        elif any(not file.name.startswith(".tmp-") for file in stale):
            say(
                f"Begun anew: {self.folder} was of another model, other recordings or other "
                "settings."
            )

    def remove(self) -> None:
        """Remove all pieces and their folder."""
        for piece in self.pieces:
            piece.file.unlink(missing_ok=True)
        # Another run's pieces on the same output, or nothing.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _foreign(self) -> bool:
        with writing(f"--output: {self.folder}"):
            return any(not _OURS.fullmatch(name) for name in os.listdir(self.folder))


def _parted(paths: Sequence[str]) -> Iterator[list[tuple]]:
    """Cut a list of files into parts of about as much work: path, size and time of each."""
    part, held, most = [], 0, min(FIRST_FILES, MOST_FILES)
    for path in paths:
        try:
            found = os.stat(path)
            told = (path, found.st_size, found.st_mtime_ns)
        except (OSError, ValueError):
            told = (path, 0, None)
        if part and (len(part) >= most or held + told[1] > MOST_BYTES):
            yield part
            part, held, most = [], 0, min(2 * most, MOST_FILES)
        part.append(told)
        held += told[1]
    if part:
        yield part


def _digest(part: Sequence[tuple], settings: Mapping[str, Any]) -> str:
    described = json.dumps([_VERSION, settings, part], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()
