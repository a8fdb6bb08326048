"""Rows as lines of text, one by one as they come: tables for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any


def table_lines(columns: Sequence[tuple[str, int]], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lay rows out in columns.

    Parameters
    ----------
    columns : Sequence of (str, int)
        Heading and width; a negative width aligns to the left, as printf has it. The
        heading may be wider.
    rows : Iterable
        A cell for each column: text, a fraction (three decimals), or None (a dash).

    Yields
    ------
    str
        Without line ends.

    Examples
    --------
    >>> columns = [("label", -5), ("ang", 5), ("file", -1)]
    >>> for line in table_lines(columns, [["ang", 0.75, "a.wav"]]):
    ...     print(line)
    label    ang  file
    ang    0.750  a.wav
    """
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
    r"""Write rows as CSV (RFC 4180, but with plain line ends).

    Parameters
    ----------
    columns : Sequence[str]
        The first line.
    rows : Iterable
        A cell for each column; None is an empty cell.

    Yields
    ------
    str
        A record each, without the line end.

    Examples
    --------
    >>> list(csv_lines(["path", "score"], [["a,b.wav", 0.5], ["c.wav", None]]))
    ['path,score', '"a,b.wav",0.5', 'c.wav,']
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow(row)
        yield buffer.getvalue().removesuffix("\n")
        buffer.seek(0)
        buffer.truncate()


def json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    r"""Write records as one JSON array, a record a line.

    Parameters
    ----------
    records : Iterable of Mapping
        Plain JSON types.

    Yields
    ------
    str
        Without line ends; joined by them, one JSON document.

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
    return f"{value:.3f}" if isinstance(value, float) else str(value)
