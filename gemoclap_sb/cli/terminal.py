"""What reaches a terminal: nothing in a name or a message moves its cursor or turns its text.

A file name, a label of somebody's model or a cell of a manifest may hold escape sequences, line
ends and marks that turn the direction of writing. They are shown as backslash escapes.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

# Control characters, separators of lines, marks and overrides of direction.
_MOVING = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
# The others stand for the bytes of file names that are not UTF-8.
_HALF = "\ud800-\udc7f\udd00-\udfff"
_HALVES = re.compile(f"[{_HALF}]")
_HOSTILE = re.compile(f"[{_MOVING}{_HALF}]")
_HOSTILE_IN_A_STREAM = re.compile(f"(?![\n\t])[{_MOVING}{_HALF}]")
_CONTROLS = re.compile("(?![\t\r\n])[\x00-\x1f\x7f-\x9f]")
# What tqdm writes by itself, between bars.
_OF_A_BAR = re.compile("(\n|\x1b\\[A)*")


def visible(text: str) -> str:
    r"""Write what a terminal would act on as backslash escapes.

    Examples
    --------
    >>> print(visible("a\x1b[31m.wav\n\u202e"))
    a\x1b[31m.wav\n\u202e
    """
    return _HOSTILE.sub(_escape, text)


def visible_data(data: Any) -> Any:
    """Make all text in plain data, keys included, `visible`."""
    if isinstance(data, dict):
        return {visible_data(key): visible_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [visible_data(value) for value in data]
    return visible(data) if isinstance(data, str) else data


def visible_lines(message: str) -> str:
    """Make a message `visible`; lines of a list that it ends in, which are indented, stay."""
    return "\n  ".join(map(visible, message.split("\n  ")))


def encodable(text: str) -> str:
    """Escape halves of characters that are of no file name, which no encoding has."""
    return _HALVES.sub(_escape, text)


def spelled(text: str) -> str:
    r"""Escape control characters, but for tabs and line ends, which tables of cells quote.

    >>> spelled("a\x1b[31m.wav")
    'a\\x1b[31m.wav'
    """
    return _CONTROLS.sub(_escape, text)


def for_terminal(text: str) -> str:
    """Make text `visible`, bytes of file names that are not UTF-8 too."""
    return visible(text).encode("utf-8", "backslashreplace").decode("utf-8")


def say(message: str) -> None:
    """Tell something on standard error."""
    print(visible_lines(message), file=sys.stderr, flush=True)


class Screen:
    """A standard error that shows nothing raw, whoever writes, and never stops the work.

    Line ends pass, and what moves a bar of tqdm. Where nobody can be told anything (a full
    disk, a closed terminal), nothing is told.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, its control characters made visible."""
        shown = text
        if not _OF_A_BAR.fullmatch(text):
            # A bar begins and ends at the beginning of its line.
            start, stop = len(text) - len(text.lstrip("\r")), len(text.rstrip("\r"))
            middle = _HOSTILE_IN_A_STREAM.sub(_escape, text[start:stop])
            shown = text[:start] + middle + text[max(start, stop) :]
        try:
            self._stream.write(shown)
        except (OSError, ValueError):
            return 0
        return len(text)

    def flush(self) -> None:
        """Flush the stream below, if that can be."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


def _escape(found: re.Match) -> str:
    return found[0].encode("unicode_escape").decode()
