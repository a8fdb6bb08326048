"""A manifest in parts of so many rows: what bulk work is divided by, among processes and machines.

One pass finds where in the file each part begins, and checks the rows; later a part is read on
its own. So a manifest of millions of rows is never in memory as a whole (its IDs are, during that
pass), and what is sent to a worker is a few numbers. The parts depend on the manifest and the
rows of a part alone: not on who reads them, nor on how many.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gemoclap_sb.data.csv_rows import (
    DATA_ROOT,
    ManifestError,
    check_data_root,
    check_header,
    check_is_file,
    located,
    misfit,
    not_utf_8,
    summary,
    told,
    unknown_variables,
)

ROWS_PER_PART = 1024
_WANTED, _ROOT = ("ID", "wav"), f"${DATA_ROOT}"
# The characters of which `csv_rows.is_control` is true: a million rows have many.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Of what is wrong, more than is shown; a file that is all wrong need not be read to its end.
_MOST_PROBLEMS = 1000


class Utterance(NamedTuple):
    """A row: its ID, its ``wav`` as it stands, and the path that this stands for."""

    ID: str
    wav: str
    path: str


@dataclass(frozen=True)
class Part:
    """Rows that follow each other: where they begin, in bytes, and what they hold.

    ``digest`` is of IDs and wavs, ``more`` of the further columns that were asked for.
    """

    number: int
    rows: int
    offset: int
    digest: str
    more: str = ""


@dataclass(frozen=True)
class PartedManifest:
    """A manifest and its parts, as `cut_manifest` has found them; small, whatever its rows.

    Attributes
    ----------
    path : str
        Of the file, absolute.
    parts : tuple of Part
        In the order of the file.
    header : tuple of str
        The columns.
    rows_per_part : int
        Of every part but the last, which may have fewer.
    data_root : str or None
        What takes the place of ``$data_root``.
    start : str
        Folder that a relative ``wav`` starts from where the manifest's has no such file.
    more : tuple of str
        Further columns that are read, and of which no cell is empty.
    """

    path: str
    parts: tuple[Part, ...]
    header: tuple[str, ...]
    rows_per_part: int
    data_root: str | None
    start: str
    more: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Of all parts together."""
        return sum(part.rows for part in self.parts)

    @property
    def digest(self) -> str:
        """Of the IDs and wavs of all rows, and of how they are cut."""
        return _digest("\n".join(part.digest for part in self.parts))

    @property
    def more_digest(self) -> str:
        """Of the further columns of all rows."""
        return _digest("\n".join(part.more for part in self.parts))

    def read(self, part: Part) -> list[Utterance]:
        """Read the rows of a part; ManifestError if they are no longer what was found there."""
        return [Utterance(name, wav, self._path(wav)) for name, wav, *_ in self.cells(part)]

    def cells(self, part: Part) -> list[tuple[str, ...]]:
        """Read ID, ``wav`` as it stands, and the further columns of a part, as `read` does."""
        path, found = Path(self.path), []
        columns = [self.header.index(column) for column in (*_WANTED, *self.more)]
        again = f"{path} has changed while it was at work. Give the command again."
        try:
            with open(path, "rb") as file:
                for values in _Lines(path, file, part.offset).rows():
                    if len(values) != len(self.header):
                        raise ManifestError(again)
                    found.append(_cells(values, columns))
                    if len(found) == part.rows:
                        break
        except OSError as error:
            raise _unreadable(path, error) from error
        if _digests(found) != (part.digest, part.more):
            raise ManifestError(again)
        return found

    def _path(self, wav: str) -> str:
        return located(wav, os.path.dirname(self.path), self.data_root, self.start)


def cut_manifest(
    path: str | os.PathLike,
    data_root: str | os.PathLike | None = None,
    rows_per_part: int = ROWS_PER_PART,
    more: Sequence[str] = (),
    audio: bool = True,
) -> PartedManifest:
    r"""Cut a manifest into parts; its columns ``ID`` and ``wav`` are read, no audio is.

    Parameters
    ----------
    path : str or os.PathLike
        The CSV file, as `gemoclap_sb.data.manifests.read_manifest` takes it.
    data_root : str or os.PathLike, optional
        Folder that takes the place of ``$data_root``.
    rows_per_part : int
        Rows of a part.
    more : Sequence[str]
        Further columns, for `PartedManifest.cells`.
    audio : bool
        Whether recordings will be looked for: if not, ``$data_root`` may stand for no folder.

    Raises
    ------
    ManifestError
        Naming the file and, for each problem, its row: a missing column, a row of other cells,
        an empty or repeated ID, another empty cell that is read, ``$data_root`` without
        ``data_root``.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "all.csv"
    >>> _ = path.write_text("ID,wav\na,a.wav\nb,b.wav\nc,c.wav\n")
    >>> manifest = cut_manifest(path, rows_per_part=2)
    >>> [part.rows for part in manifest.parts]
    [2, 1]
    >>> [row.ID for row in manifest.read(manifest.parts[1])]
    ['c']
    """
    if rows_per_part < 1:
        raise ValueError(f"rows_per_part: expected 1 or more, found {rows_per_part}.")
    path = Path(path)
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            return _cut(path.absolute(), file, data_root, rows_per_part, tuple(more), audio)
    except OSError as error:
        raise _unreadable(path, error) from error


def _cut(
    path: Path,
    file: BinaryIO,
    data_root: str | os.PathLike | None,
    rows_per_part: int,
    more: tuple[str, ...],
    audio: bool,
) -> PartedManifest:
    lines = _Lines(path, file)
    rows = lines.rows()
    header = [name.strip() for name in next(rows, [])]
    wanted = (*_WANTED, *more)
    check_header(path, header, wanted)
    columns = [header.index(column) for column in wanted]
    parts: list[Part] = []
    held: list[tuple[str, ...]] = []
    seen: set[str] = set()
    problems: list[str] = []
    count, using, first = 0, 0, ""
    begin = after = lines.position

    def where() -> str:
        return f"row {count}, ID {name!r}"

    def close() -> None:
        parts.append(Part(len(parts), len(held), begin, *_digests(held)))
        held.clear()

    for values in rows:
        begin, after = (begin if held else after), lines.position
        count += 1
        if len(values) != len(header):
            problems.append(misfit(f"row {count}", values, header))
        else:
            cells = _cells(values, columns)
            name, wav = cells[:2]
            problems += [f"{where()}: {problem}" for problem in _problems(wanted, cells)]
            if name in seen:
                problems.append(f"{where()}: duplicate ID, used before")
            seen.add(name)
            if _ROOT in wav:
                using, first = using + 1, first or where()
            held.append(cells)
            if len(held) == rows_per_part:
                close()
        if len(problems) >= _MOST_PROBLEMS:
            problems.append("no row after this one was looked at")
            break
    if held:
        close()
    if not count:
        raise ManifestError(f"{path} has no rows below its first line.")
    if problems:
        raise ManifestError(summary(path, problems))
    if using and audio:
        check_data_root(path, using, first, data_root)
    root = None if data_root is None else os.path.abspath(data_root)
    parted = tuple(parts), tuple(header), rows_per_part
    return PartedManifest(str(path), *parted, root, os.getcwd(), more)


class _Lines:
    """Lines of a file from a place on, which is known all the while; none is read ahead."""

    def __init__(self, path: Path, file: BinaryIO, position: int = 0) -> None:
        self.path, self.file, self.position = path, file, position
        file.seek(position)

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            try:
                # A byte order mark may stand at the beginning of the file.
                text = line.decode("utf-8" if self.position else "utf-8-sig")
            except UnicodeDecodeError as error:
                raise not_utf_8(self.path, self.position + error.start) from error
            self.position += len(line)
            yield text

    def rows(self) -> Iterator[list[str]]:
        """Yield the cells of each line, or of more where quotes go on; empty ones are left out."""
        return filter(None, told(self.path, csv.reader(iter(self), skipinitialspace=True)))


def _cells(values: list[str], columns: Sequence[int]) -> tuple[str, ...]:
    return tuple([values[column].strip() for column in columns])


def _problems(columns: Sequence[str], cells: Sequence[str]) -> list[str]:
    found = []
    for column, value in zip(columns, cells, strict=True):
        if not value:
            found.append(f"the {column} is empty")
        if _CONTROL.search(value):
            found.append(f"{column} has a control character: {value!r}")
    wav = cells[1]
    if "$" in wav and (unknown := unknown_variables(wav)):
        found.append(f"wav {wav!r} has ${unknown[0]}; only $data_root is replaced")
    return found


def _digests(rows: list[tuple[str, ...]]) -> tuple[str, str]:
    """Give the digests of ID and wav, and of the other cells, if there are any."""
    # None has a line end in it.
    own, more = ("\n".join("\n".join(row[of]) for row in rows) for of in (slice(2), slice(2, None)))
    return _digest(own), _digest(more) if rows and len(rows[0]) > 2 else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unreadable(path: Path, error: OSError) -> ManifestError:
    return ManifestError(f"Manifest {path} cannot be read: {error.strerror}.")
