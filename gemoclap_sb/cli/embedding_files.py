"""Files of embeddings: ``X.npy`` with ``X.ids.csv``, or Parquet; written and read block by block.

A folder of Parquet files, as `gemoclap embed` writes it of a manifest, is read as one file.

Neither is ever in memory as a whole. Both say which model made them: the names' second column the
beginning of its digest.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gemoclap_sb.cli.errors import UsageError
from gemoclap_sb.cli.output import csv_rows
from gemoclap_sb.cli.terminal import say
from gemoclap_sb.data import parquet
from gemoclap_sb.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    Block = tuple[Sequence[str], np.ndarray]

SUFFIXES = (".npy", ".parquet")
_ROWS = 2**14
_NAMED, _DIGITS = ["ID", "model"], 12
# What is not what it says raises, of NumPy's reader.
_DAMAGED = (ValueError, EOFError, OverflowError, KeyError)


def check_name(option: str, path: str | os.PathLike) -> Path:
    """UsageError if a file of such a name is neither kind, or pyarrow is missing for it."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{option}: expected a file that ends in {' or '.join(SUFFIXES)}, found {path}."
        )
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"{option}: Parquet files need pyarrow, which is not installed. Install it with "
            "`pip install 'gemoclap_sb[parquet]'`, or use a .npy file."
        )
    return path


def check_readable(option: str, path: str | os.PathLike) -> Path:
    """`check_name`, of what is to be read: a folder, of Parquet files, will do too."""
    path = Path(path)
    return (
        check_name(option, path / "part.parquet").parent
        if path.is_dir()
        else check_name(option, path)
    )


def names_file(path: Path) -> Path:
    """Where the names of a .npy file's rows are."""
    return path.with_suffix(".ids.csv")


def write(path: Path, blocks: Iterable[Block], rows: int, size: int, model: str) -> None:
    """Write blocks of names and embeddings, ``rows`` of ``size`` in all; whole or not at all."""
    if path.suffix == ".npy":
        _write_npy(path, blocks, rows, size, model)
    else:
        _write_parquet(path, blocks, model)


def _write_npy(path: Path, blocks: Iterable[Block], rows: int, size: int, model: str) -> None:
    import numpy as np

    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
    with (
        atomic_path(path) as temporary,
        atomic_path(names_file(path)) as temporary_names,
        open(temporary, "wb") as file,
        # File names leave as they came.
        open(temporary_names, "w", encoding="utf-8", errors="surrogateescape", newline="") as names,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        names.write(",".join(_NAMED) + "\n")
        made_by = model[:_DIGITS]
        for of, vectors in blocks:
            file.write(vectors.astype("<f4", copy=False).tobytes())
            names.writelines(
                line + "\n" for line in csv_rows(_NAMED, ([name, made_by] for name in of))
            )


def _write_parquet(path: Path, blocks: Iterable[Block], model: str) -> None:
    import pyarrow.parquet as pq

    schema = parquet.schema({parquet.MODEL: model})
    options = parquet.OPTIONS
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        for names, vectors in blocks:
            writer.write_table(parquet.table(names, vectors, schema))


def read(path: Path) -> tuple[str | None, Iterator[Block]]:
    """Open a file: the digest of the model that made it, if it says so, and its blocks.

    UsageError, here or at a block, if it is not what `write` wrote.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: expected a file of embeddings, found none.")
    if path.suffix != ".npy":
        return _read_parquet(path)
    try:
        return _read_npy(path)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _read_npy(path: Path) -> tuple[str | None, Iterator[Block]]:
    import numpy as np

    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError("no table of fractions")
    if not (names := names_file(path)).is_file():
        raise UsageError(f"{names}: expected the names of the rows of {path}, found no file.")
    with open(names, encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            heading, first = (next(csv.reader(file), []) for _ in range(2))
        except csv.Error as error:
            raise _damaged(names, error) from error
    if heading not in (_NAMED, _NAMED[:1]):
        raise _damaged(names, ValueError("expected the columns ID and model"))
    made_by = first[1] if heading == _NAMED and len(first) == 2 else None
    return made_by, _npy_blocks(vectors, names)


def _npy_blocks(vectors: np.ndarray, names: Path) -> Iterator[Block]:
    with open(names, encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            rows = csv.reader(file)
            # Which `read` has looked at.
            heading = next(rows, [])
            for start in range(0, len(vectors), _ROWS):
                block = vectors[start : start + _ROWS]
                cells = list(islice(rows, len(block)))
                if any(len(row) != len(heading) for row in cells):
                    raise ValueError(f"expected {len(heading)} cells in each row")
                of = [name for name, *_ in cells]
                if len(of) < len(block):
                    raise ValueError(f"expected {len(vectors)} names, found {start + len(of)}")
                yield of, block
            if next(rows, None) is not None:
                raise ValueError(f"expected {len(vectors)} names, found more")
        except (ValueError, csv.Error) as error:
            raise _damaged(names, error) from error


def _read_parquet(path: Path) -> tuple[str | None, Iterator[Block]]:
    try:
        told, blocks = parquet.read(path, _ROWS)
    except parquet.DAMAGED as error:
        raise _damaged(path, error) from error
    return told.get(parquet.MODEL), _parquet_blocks(path, blocks)


def _read_folder(path: Path) -> tuple[str | None, Iterator[Block]]:
    files = sorted(path.glob("part-*.parquet"))
    if not files:
        raise UsageError(f"{path}: expected files part-....parquet in this folder, found none.")
    made_by = {model: file for file in files for model in [_read_parquet(file)[0]]}
    if len(made_by) > 1:
        one, other, *_ = made_by.values()
        raise UsageError(f"{path}: expected embeddings of one model; {one} and {other} have two.")
    whole = re.search(r"-of-(\d+)$", files[0].stem)
    if whole and int(whole[1]) > len(files):
        say(f"{path}: only {len(files)} of {int(whole[1])} parts are there.")
    return next(iter(made_by)), (block for file in files for block in _read_parquet(file)[1])


def _parquet_blocks(path: Path, blocks: Iterator[Block]) -> Iterator[Block]:
    try:
        yield from blocks
    except parquet.DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path}: expected what `gemoclap embed` wrote, found another or a damaged file "
        f"({' '.join(str(error).split())})."
    )
