"""What the commands of `gemoclap` print: tables for people, CSV and JSON for programs.

Rows come out one by one as they come in: the next program in a pipe need not wait for the
last file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from gemoclap_sb.cli.destinations import writing
from gemoclap_sb.cli.terminal import encodable, for_terminal, spelled, visible, visible_lines
from gemoclap_sb.files import harmless_cell, harmless_path

if TYPE_CHECKING:
    from gemoclap_sb.inference.bulk import FileEmbedding
    from gemoclap_sb.inference.results import Classification

    Row = TypeVar("Row", Classification, FileEmbedding)

_DECIMALS = 6
# What a table for people calls a key.
_HEADINGS = {"path": "file", "ID": "file"}
_PATHS = frozenset(_HEADINGS)


def add_format(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """Add the option that chooses among ``kinds``."""
    parser.add_argument(
        "--format", choices=kinds, default="table", help="of what is printed (default: table)"
    )


class Failures:
    """Counts the inputs that failed, from those that are known already, and says which."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    @property
    def status(self) -> int:
        """The exit code."""
        return 1 if self.count else 0

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Hand rows on, and tell their errors."""
        for row in rows:
            if row.error is not None:
                self.tell([row.error])
            yield row

    def tell(self, errors: Iterable[str]) -> None:
        """Count errors, and print them."""
        from tqdm import tqdm

        for error in errors:
            self.count += 1
            # By way of tqdm, which takes its bar out of the way.
            tqdm.write(visible_lines(error), file=sys.stderr)


def print_lines(lines: Iterable[str], out: TextIO) -> None:
    """Print lines, each at once; on a terminal so that none is acted on."""
    for line in lines:
        with writing("standard output"):
            print(for_terminal(line) if out.isatty() else encodable(line), file=out, flush=True)


def json_text(record: Mapping[str, Any]) -> str:
    """Write one record of plain JSON types; ValueError for NaN and infinity."""
    return json.dumps(record, indent=2, allow_nan=False)


def print_rows(
    rows: Iterable[Mapping[str, Any]],
    labels: Sequence[str],
    kind: str,
    out: TextIO,
    columns: Sequence[str],
    before: Mapping[str, int],
    after: Mapping[str, int] | None = None,
) -> None:
    """Print rows with the probabilities of classes.

    A row is a dict of plain JSON types, of which ``probabilities`` is one by label, or empty.
    ``columns`` are the keys that CSV begins with; ``before`` and ``after`` the keys, with their
    widths, between which a table has the probabilities.
    """
    rows = map(rounded, rows)
    after = after or {}

    def cells(keys: Iterable[str], last: Iterable[str] = ()) -> Iterator[list[Any]]:
        for row in rows:
            probabilities = map(row["probabilities"].get, labels)
            yield [*map(row.get, keys), *probabilities, *map(row.get, last)]

    if kind == "json":
        lines = json_lines(rows)
    elif kind == "csv":
        heading = [*columns, *(f"probability_{label}" for label in labels)]
        lines = csv_lines(heading, cells(columns))
    else:
        widths = [*before.items(), *((label, 5) for label in labels), *after.items()]
        heading = [(_HEADINGS.get(key, key), width) for key, width in widths]
        lines = table_lines(heading, cells(before, after))
    print_lines(lines, out)


def rounded(value: Any) -> Any:
    """Round the floats in plain data."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, _DECIMALS) if isinstance(value, float) else value


def table_lines(columns: Sequence[tuple[str, int]], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lay rows out in columns, each a heading and a width (negative: aligned to the left).

    A cell is text, a fraction (three decimals), or None (a dash).

    Examples
    --------
    >>> columns = [("label", -5), ("ang", 5), ("file", -1)]
    >>> for line in table_lines(columns, [["ang", 0.75, "a.wav"]]):
    ...     print(line)
    label    ang  file
    ang    0.750  a.wav
    """
    columns = [(visible(name), width) for name, width in columns]
    widths = [max(abs(width), len(name)) * (1 if width > 0 else -1) for name, width in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if width > 0 else cell.ljust(-width)
            for cell, width in zip(cells, widths, strict=True)
        ]
        return "  ".join(padded).rstrip()

    yield line([name for name, _ in columns])
    for row in rows:
        yield line([_cell(value) for value in row])


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    r"""Write rows as CSV (RFC 4180, but with plain line ends); None is an empty cell.

    What a spreadsheet would take for a formula begins with ``./``, if it is a path, or else
    with a ``'`` (see `gemoclap_sb.files.harmless_cell`); control characters are escapes.

    Examples
    --------
    >>> list(csv_lines(["path", "score"], [["a,b.wav", 0.5], ["c.wav", None]]))
    ['path,score', '"a,b.wav",0.5', 'c.wav,']
    """
    yield from csv_rows(columns, chain([columns], rows))


def csv_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Write the rows below a heading as CSV; see `csv_lines`."""
    buffer = io.StringIO()
    # The writer quotes cells with what ends its lines; both kinds of line ends may be in names.
    writer = csv.writer(buffer, lineterminator="\r\n")
    harmless = [harmless_path if name in _PATHS else harmless_cell for name in columns]
    for row in rows:
        cells = zip(harmless, row, strict=True)
        writer.writerow(
            [write(spelled(cell)) if isinstance(cell, str) else cell for write, cell in cells]
        )
        yield buffer.getvalue().removesuffix("\r\n")
        buffer.seek(0)
        buffer.truncate()


def json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    r"""Write records of plain JSON types as one JSON array, a record a line.

    Examples
    --------
    >>> print("\n".join(json_lines([{"a": 1}, {"a": 2}])))
    [
    {"a": 1}
    ,{"a": 2}
    ]
    """
    yield "["
    for i, record in enumerate(records):
        # The comma leads: only when another record comes is it known that one is needed.
        yield ("," if i else "") + json.dumps(record, allow_nan=False)
    yield "]"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else visible(str(value))
