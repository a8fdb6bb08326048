"""Where results go, looked at before the work: an output that cannot be written is a usage error.

What goes wrong later all the same, such as a disk that fills up, is one too (`writing`).
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from gemoclap_sb.cli.errors import UsageError

# As much as a file system hands out at a time.
_A_LITTLE = bytes(4096)


@contextlib.contextmanager
def writing(what: str | os.PathLike, advice: str = "") -> Iterator[None]:
    """Turn an OSError of what is written here into a `UsageError` that names it.

    A reader of a pipe who has left is no error: BrokenPipeError passes.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise UsageError(f"{os.fspath(what)} cannot be written: {reason}.{advice}") from error


def check_file(option: str, path: str | os.PathLike, inputs: Iterable[str] = ()) -> Path:
    """Check that a file can be written or replaced; UsageError names the option if it cannot.

    None of the ``inputs`` may be replaced.
    """
    path = Path(path)
    if any(os.path.exists(given) and path.exists() and path.samefile(given) for given in inputs):
        raise UsageError(f"{option}: {path} is what is read, and would be lost. Name another.")
    with writing(f"{option}: {path}"):
        if path.is_symlink() and (path.is_file() or not path.exists()):
            leads = os.path.realpath(path)
            raise UsageError(f"{option}: {path} is a link, which would be replaced. Name {leads}.")
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "a pipe or a device"
            raise UsageError(f"{option}: expected a file to write, found {found}: {path}.")
        _try_out(option, path.parent)
    return path


def check_folder(
    option: str, path: str | os.PathLike, names: Iterable[str] = (), inputs: Sequence[str] = ()
) -> Path:
    """Check that a folder, and files of these names in it, can be written; or UsageError."""
    path = Path(path)
    with writing(f"{option}: {path}"):
        _try_out(option, path)
    for name in names:
        check_file(option, path / name, inputs)
    return path


def check_stream(out: TextIO | None) -> None:
    """Check that standard output takes data; UsageError if it is closed, read-only or full."""
    if out is None:
        raise UsageError("standard output is closed. Send it to a file or another command.")
    try:
        descriptor = out.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        return
    with writing("standard output"), contextlib.suppress(BrokenPipeError):
        # Nothing is written, and yet a full device and one that is open for reading refuse it.
        os.write(descriptor, b"")


def _try_out(option: str, folder: Path) -> None:
    """Write a little into a folder, or if it is to be made where it will be."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{option}: expected a folder to write into, found another: {folder}.")
    with tempfile.TemporaryFile(dir=folder, prefix=".tmp-") as file:
        file.write(_A_LITTLE)
        file.flush()
