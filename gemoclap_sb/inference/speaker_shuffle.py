"""Rows of an embedded manifest, brought together by speaker: one pass, in bounded memory.

A speaker's utterances may stand anywhere in the manifest. Each row goes to the file that a digest
of its speaker says, which is then small enough to be read as a whole.

rows-00003.arrow   rows of some speakers, in the manifest's order: Arrow streams, one after the
                   other, so that a file need not stay open among thousands
done.json          rows of each; written last

An interrupted shuffle is done again. It gets its name when it is whole: of two processes that do
the same at the same time, which nobody should ask for, none writes into the other's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemoclap_sb.files import read_json, write_json
from gemoclap_sb.inference.embedded_manifest import Block, EmbeddedManifest

if TYPE_CHECKING:
    import pyarrow as pa

_DONE = "done.json"
# Of embeddings that are held until they are written, and how many at most.
_HELD_BYTES, _HELD_ROWS = 32 * 2**20, 2**16


class ShuffleError(ValueError):
    """Another process is at the same rows; the message says what to do."""


class Speaker(NamedTuple):
    """A speaker's utterances with an embedding [N, D], sorted by ID, and how many have none."""

    name: str
    ids: np.ndarray
    wavs: np.ndarray
    vectors: np.ndarray
    without: int


@lru_cache(2**16)
def file_of(speaker: str, files: int) -> int:
    """Say in which of so many files a speaker is, everywhere and always the same."""
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8], "big") % files


def shuffle(
    embedded: EmbeddedManifest,
    folder: Path,
    files: int,
    wanted: Collection[int],
    on_rows: Callable[[int], object],
) -> dict[int, int]:
    """Write the wanted files of so many into a folder, unless that has been done.

    Gives the number of rows of each. ``on_rows`` is told how many rows of the manifest were read.
    Errors as `EmbeddedManifest.read`; OSError if the folder cannot be written; ShuffleError if
    another process begins the same meanwhile.
    """
    if (done := _done(folder, wanted)) is not None:
        return done
    for left in (folder, *folder.parent.glob(f"{folder.name}-*")):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    try:
        for number in wanted:
            _file(unfinished, number).touch()
        writer = _Writer(unfinished, files, frozenset(wanted), embedded.size)
        for part in embedded.manifest.parts:
            for block in embedded.read(part):
                writer.add(block)
            on_rows(part.rows)
        writer.flush()
        rows = {number: writer.written[number] for number in wanted}
        if not unfinished.exists():
            raise FileNotFoundError(unfinished)
        write_json(unfinished / _DONE, rows)
        os.replace(unfinished, folder)
    except OSError as error:
        if unfinished.exists() and not (folder / _DONE).exists():
            raise
        raise _another(folder) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return rows


def _done(folder: Path, wanted: Collection[int]) -> dict[int, int] | None:
    """Tell the rows of each file of a shuffle that is whole; None if a wanted one is not there."""
    if not (folder / _DONE).exists():
        return None
    done = {int(number): rows for number, rows in read_json(folder / _DONE).items()}
    there = all(number in done and _file(folder, number).exists() for number in wanted)
    return done if there else None


def _another(what: Path) -> ShuffleError:
    return ShuffleError(
        f"{what}: another process does the same work at the same time. Let it go on alone, or give "
        "each its own --shard."
    )


def read_speakers(folder: Path, number: int) -> Iterator[Speaker]:
    """Read the speakers of a file in the order of their names; ShuffleError if it is gone."""
    import pyarrow as pa
    import pyarrow.compute

    tables = []
    try:
        opened = pa.OSFile(str(_file(folder, number)))
    except FileNotFoundError as error:
        raise _another(_file(folder, number)) from error
    with opened as file:
        size = file.size()
        while file.tell() < size:
            tables.append(pa.ipc.open_stream(file).read_all())
    if not tables:
        return
    table = pa.concat_tables(tables).combine_chunks()
    del tables
    by = [("spk_id", "ascending"), ("embedded", "descending"), ("ID", "ascending")]
    order = pa.compute.sort_indices(table, by).to_numpy()
    vectors = table.column("embedding").chunk(0).flatten().to_numpy().reshape(len(table), -1)[order]
    columns = (table.column(name).to_numpy() for name in ("ID", "wav", "spk_id", "embedded"))
    ids, wavs, names, embedded = (column[order] for column in columns)
    del table
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
    for start, stop in pairwise(starts):
        kept = slice(start, start + np.count_nonzero(embedded[start:stop]))
        yield Speaker(names[start], ids[kept], wavs[kept], vectors[kept], stop - kept.stop)


def drop(folder: Path, number: int) -> None:
    """Remove a file that is needed no more."""
    _file(folder, number).unlink(missing_ok=True)


def _file(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.arrow"


class _Writer:
    """Rows until they are worth writing."""

    def __init__(self, folder: Path, files: int, wanted: frozenset[int], size: int) -> None:
        self._folder, self._files, self._wanted, self._size = folder, files, wanted, size
        self._most = min(_HELD_ROWS, max(1, _HELD_BYTES // (4 * size)))
        self._tables: list[pa.Table] = []
        self._numbers: list[int] = []
        self.written: Counter[int] = Counter()

    def add(self, block: Block) -> None:
        """Take the rows of wanted files."""
        numbers = [file_of(name, self._files) for name in block.speakers]
        rows = [row for row, number in enumerate(numbers) if number in self._wanted]
        if rows:
            self._tables.append(self._table(block, rows))
        self._numbers += [numbers[row] for row in rows]
        if len(self._numbers) >= self._most:
            self.flush()

    def flush(self) -> None:
        """Write what is held, each row to the end of its file."""
        import pyarrow as pa

        if not self._numbers:
            return
        numbers = np.array(self._numbers)
        order = np.argsort(numbers, kind="stable")
        table, numbers = pa.concat_tables(self._tables).take(order), numbers[order]
        for number in np.unique(numbers).tolist():
            start, stop = np.searchsorted(numbers, [number, number + 1])
            with (
                open(_file(self._folder, number), "ab") as file,
                pa.ipc.new_stream(file, table.schema) as stream,
            ):
                stream.write_table(table.slice(start, stop - start).combine_chunks())
            self.written[number] += int(stop - start)
        self._tables, self._numbers = [], []

    def _table(self, block: Block, rows: list[int]) -> pa.Table:
        import pyarrow as pa

        cells = (block.ids, block.wavs, block.speakers)
        texts = [pa.array([of[row] for row in rows], pa.string()) for of in cells]
        vectors = np.zeros((len(rows), self._size), np.float32)
        if block.vectors is not None:
            vectors = np.asarray(block.vectors[rows], np.float32)
        embedded = pa.array(np.full(len(rows), block.vectors is not None))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self._size)
        names = ["ID", "wav", "spk_id", "embedded", "embedding"]
        return pa.table([*texts, embedded, lists], names)
