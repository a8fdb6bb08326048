"""Files that are either whole or not there.

Training is killed at any moment and started again. A file that other steps rely
on (a manifest, ``metrics.json``, a picture) is therefore written under another
name in the same folder and renamed at the end: POSIX and Windows rename within
one file system in one step.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "write_json", "write_text"]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` if all goes well.

    The temporary file lies in the same folder, is hidden, and keeps the ending
    of ``path``, because many writers choose their format by it. The folder is
    made if it is missing. On an error the temporary file is removed and
    whatever ``path`` held before stays as it was.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write or to replace.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    FileNotFoundError
        If the body of the ``with`` wrote nothing.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_path(folder / "sub" / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole", encoding="utf-8")
    ...     print((folder / "sub" / "note.txt").exists())
    False
    >>> (folder / "sub" / "note.txt").read_text(encoding="utf-8")
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(
                f"Nothing was written for {path}: expected a file at the temporary path "
                f"{temporary}. Write to the path that atomic_path gives."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    r"""Write UTF-8 text with ``\n`` line ends, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write or to replace.
    text : str
        What the file shall hold.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "report.md"
    >>> write_text(path, "# Äpfel\n")
    >>> path.read_bytes()
    b'# \xc3\x84pfel\n'
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write(text)


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write JSON that every JSON reader takes, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write or to replace.
    obj : object
        Anything that :mod:`json` encodes. Keys keep their order.

    Raises
    ------
    ValueError
        If ``obj`` holds NaN or an infinity, which JSON does not have. Write
        ``None`` where a figure is undefined.
    TypeError
        If ``obj`` holds something that JSON cannot express.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "metrics.json"
    >>> write_json(path, {"war": 0.75, "labels": ["ang", "neu"]})
    >>> json.loads(path.read_text(encoding="utf-8"))
    {'war': 0.75, 'labels': ['ang', 'neu']}
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"Cannot write {path}: it would hold a NaN or infinite number, which JSON does not "
            "have. Write None where a figure is undefined."
        ) from error
    except TypeError as error:
        raise TypeError(f"Cannot write {path}: {error}.") from error
    write_text(path, text + "\n")
