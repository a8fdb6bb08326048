"""The rows of a CSV file as they stand, or a line that says which line of it is none.

Somebody else's table is read here: what it is no CSV by, and what a terminal would obey in it, is
refused.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("ID", "duration", "wav", "spk_id", "gender", "emotion", "session", "transcript")
MOST_PROBLEMS_SHOWN = 20
# SpeechBrain takes every such word in every column for a variable.
VARIABLE = re.compile(r"\$([\w.]+)")
DATA_ROOT = "data_root"


class ManifestError(ValueError):
    """A manifest that cannot be used as it is; the message names file and row."""


class LabelError(ManifestError):
    """A manifest with labels that are none of those expected."""


class MissingColumnError(ManifestError):
    """A manifest without columns that are read, the ``missing`` ones."""

    def __init__(self, message: str, missing: Sequence[str]) -> None:
        super().__init__(message)
        self.missing = missing


def printable(text: object) -> str:
    r"""Spell out what a terminal would obey: control characters, line breaks apart.

    >>> printable("a\x1b[31m\nb")
    'a\\x1b[31m\nb'
    """
    return "".join(repr(c)[1:-1] if is_control(c) and c not in "\n\t" else c for c in str(text))


@dataclass
class Record:
    """The cells of one row and where it stands in its file."""

    cells: dict[str, Any]
    where: str
    has_path: bool = True
    usable: bool = True


def read_records(path: Path, wanted: Collection[str]) -> tuple[list[Record], list[str]]:
    """Read the rows as they stand, and say which do not fit the first line."""
    lines = csv.reader(io.StringIO(_read_text(path)), skipinitialspace=True)
    reader = told(path, lines)
    header = next(reader, [])
    check_header(path, header, wanted)
    records: list[Record] = []
    problems: list[str] = []
    number, line = 0, lines.line_num + 1
    for values in reader:
        if values:
            number += 1
            if len(values) == len(header):
                cells = dict(zip(header, map(str.strip, values), strict=True))
                record = Record(cells, f"row {number} (line {line}), ID {cells['ID']!r}")
                records.append(record)
                problems += [
                    f"{record.where}: {name} has a control character: {cells[name]!r}"
                    for name in dict.fromkeys(("ID", *wanted))
                    if any(map(is_control, cells[name]))
                ]
            else:
                problems.append(misfit(f"row {number} (line {line})", values, header))
        line = lines.line_num + 1
    if number == 0:
        raise ManifestError(f"{path} has no rows below its first line.")
    return records, problems


def check_is_file(path: Path) -> None:
    """ManifestError if there is no file."""
    if not path.exists():
        raise ManifestError(f"Manifest {path} is missing.")
    if not path.is_file():
        # A pipe would be waited for, for ever.
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ManifestError(f"Manifest {path} is {kind}; expected a CSV file.")


def not_utf_8(path: Path, position: int) -> ManifestError:
    """Tell of a file whose byte at a position is not UTF-8."""
    return ManifestError(f"{path} is not UTF-8 (byte {position}). Save it as a CSV file in UTF-8.")


def _read_text(path: Path) -> str:
    """Read a file whole; ManifestError if it is none, or is no text."""
    check_is_file(path)
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first name.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf_8(path, error.start) from error
    except OSError as error:
        raise ManifestError(f"Manifest {path} cannot be read: {error.strerror}.") from error
    if (at := text.find("\0")) >= 0:
        raise ManifestError(
            f"{path}, line {text.count(chr(10), 0, at) + 1}: has a NUL byte; expected a CSV file "
            "in UTF-8."
        )
    return text


def told(path: Path, lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the cells of each line; ManifestError names the one that is no CSV."""
    while True:
        try:
            yield next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError(
                f"{path}, line {lines.line_num}: {error}. Is a quotation mark left open above?"
            ) from error


def misfit(where: str, values: Sequence[str], header: Sequence[str]) -> str:
    """Say that a row has not the cells of the first line."""
    return (
        f"{where}, which begins with {values[0]!r}: expected {len(header)} cells as in the first "
        f"line, found {len(values)}. A value with a comma must stand in quotes"
    )


def summary(path: Path, problems: list[str]) -> str:
    """Put what is wrong with a file into one message, which shows the first twenty."""
    if len(problems) == 1:
        return f"{path}, {problems[0]}"
    shown = [f"  {path.name}, {problem}" for problem in problems[:MOST_PROBLEMS_SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    return "\n".join([f"{path} has {len(problems)} problems:", *shown])


def check_header(path: Path, header: list[str], wanted: Collection[str]) -> None:
    """ManifestError if a first line lacks a column, or has one that cannot be told apart."""
    in_order = dict.fromkeys([*(name for name in COLUMNS if name in wanted), *wanted])
    if missing := [name for name in in_order if name not in header]:
        hint = " Columns must be separated by commas." if len(header) == 1 else ""
        raise MissingColumnError(
            f"{path}: missing column {', '.join(missing)}. Found the columns "
            f"{', '.join(header) or 'none'}.{hint}",
            missing,
        )
    if (unnamed := header.count("")) > 1:
        raise ManifestError(f"{path}: {unnamed} columns have no name. Name them, or delete them.")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise ManifestError(f"{path}: column {', '.join(repeated)} appears more than once.")
    if "id" in header:
        raise ManifestError(
            f"{path}: SpeechBrain reserves the column name 'id'. Rename it; 'ID' stays."
        )


def is_control(character: str) -> bool:
    """Whether a character does something, such as breaking a line, in place of being shown."""
    # The line breaks that str.splitlines knows besides \n are of these categories too.
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def unknown_variables(value: str) -> list[str]:
    """List what SpeechBrain would read as variables, ``data_root`` apart."""
    return [word for word in VARIABLE.findall(value) if word != DATA_ROOT]


def rooted(value: str, data_root: str | os.PathLike) -> str:
    """Put a folder in the place of ``$data_root``."""
    replaced = {DATA_ROOT: str(data_root)}
    return VARIABLE.sub(lambda match: replaced.get(match[1], match[0]), value)


def located(
    wav: str,
    folder: str | os.PathLike,
    data_root: str | os.PathLike | None = None,
    start: str | os.PathLike | None = None,
) -> str:
    """Find the path that a ``wav`` stands for.

    A relative one begins at the manifest's ``folder``, or if there is no such file at ``start``,
    the current folder by default.
    """
    path = wav if data_root is None else rooted(wav, data_root)
    beside = os.path.join(folder, path)
    return beside if os.path.exists(beside) else os.path.join(start or os.getcwd(), path)


def check_data_root(
    path: Path, count: int, first: str, data_root: str | os.PathLike | None
) -> None:
    """ManifestError if there is no folder for the ``$data_root`` of ``count`` rows."""
    if data_root is None or not Path(data_root).is_dir():
        given = "no data root was given" if data_root is None else f"{data_root} is no folder"
        raise ManifestError(
            f"{path}: the wav of {count} rows has $data_root (first: {first}), but {given}. Pass "
            "the folder that these paths start from as data_root (--data_folder of train.py, "
            "--data-root of gemoclap evaluate and embed)."
        )
