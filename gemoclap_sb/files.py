"""Files and folders that are either whole or not there.

Training is killed at any moment and started again. What other steps rely on (a
manifest, ``metrics.json``, an exported model) is therefore written under another name
in the same folder and renamed at the end: POSIX and Windows rename within one file
system in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What a spreadsheet takes for the beginning of a formula, the wide forms included.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-")
_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}-.")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` if all goes well.

    It lies in the same folder, which is made if it is missing, is hidden, and keeps the
    ending of ``path``, by which many writers choose their format. On an error it is removed
    and ``path`` stays as it was. FileNotFoundError if nothing was written.

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
    temporary = _beside(path)
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


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder that takes the place of ``path`` if all goes well.

    A folder that stood there is removed afterwards, and stays as it was on an error.

    Examples
    --------
    >>> folder = getfixture("tmp_path") / "model"
    >>> with atomic_folder(folder) as temporary:
    ...     write_text(temporary / "README.md", "whole")
    ...     print(folder.exists())
    False
    >>> [path.name for path in folder.iterdir()]
    ['README.md']
    """
    path = Path(path)
    temporary = _beside(path)
    temporary.mkdir()
    replaced = _beside(path)
    try:
        yield temporary
        if path.exists():
            os.replace(path, replaced)
        try:
            os.replace(temporary, path)
        except OSError:
            if replaced.exists():
                os.replace(replaced, path)
            raise
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Remove what writers left in a folder that were killed; nobody may be writing there now.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> for name in (".tmp-123-0a1b2c3d-metrics.json", ".tmp-mine", "metrics.json"):
    ...     write_text(folder / name, "{")
    >>> clear_leftovers(folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['.tmp-mine', 'metrics.json']
    """
    folder = Path(folder)
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if not _TEMPORARY.match(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def kept_on_error(folder: str | os.PathLike) -> Iterator[None]:
    """Give the files of a folder their content back if what is done with them fails.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> write_text(folder / "a.txt", "before")
    >>> with contextlib.suppress(KeyError), kept_on_error(folder):
    ...     write_text(folder / "a.txt", "after")
    ...     raise KeyError
    >>> (folder / "a.txt").read_text(encoding="utf-8")
    'before'
    """
    folder = Path(folder)
    files = filter(Path.is_file, folder.iterdir()) if folder.is_dir() else ()
    before = {path: path.read_bytes() for path in files}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    r"""Write UTF-8 text with ``\n`` line ends, whole or not at all.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "report.md"
    >>> write_text(path, "# Äpfel\n")
    >>> path.read_bytes()
    b'# \xc3\x84pfel\n'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write JSON that every JSON reader takes, whole or not at all.

    ValueError for NaN and infinity, which JSON does not have; TypeError for what it cannot
    express.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "metrics.json"
    >>> write_json(path, {"war": 0.75, "labels": ["ang", "neu"]})
    >>> read_json(path)
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
    # Half a character, as a file name that is not UTF-8 has, becomes JSON's escape for it.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a UTF-8 JSON file; OSError or ValueError where that cannot be, NaN among it."""
    return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)


def default_mode(path: str | os.PathLike) -> None:
    """Let others read a file as any that this process writes, as safetensors' writer does not.

    Examples
    --------
    >>> path, other = (getfixture("tmp_path") / name for name in ("a.txt", "b.txt"))
    >>> write_text(path, "mine")
    >>> write_text(other, "anyone's")
    >>> path.chmod(0o600)
    >>> default_mode(path)
    >>> path.stat().st_mode == other.stat().st_mode
    True
    """
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def file_digest(path: str | os.PathLike) -> str:
    """Give the SHA-256 of a file's content, in hexadecimal; two files of one content agree.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_text(path, "abc")
    >>> file_digest(path)[:8]
    'ba7816bf'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def harmless_cell(text: str) -> str:
    r"""Write text so that a spreadsheet takes it for text: `'` before what may be a formula.

    That is a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end and is no
    number (https://owasp.org/www-community/attacks/CSV_Injection). `plain_cell` undoes it.

    Examples
    --------
    >>> harmless_cell("=1+2"), harmless_cell("-0.5"), harmless_cell("sad")
    ("'=1+2", '-0.5', 'sad')
    >>> [plain_cell(harmless_cell(text)) for text in ("=1+2", "'=1+2", "'so", "-0.5")]
    ['=1+2', "'=1+2", "'so", '-0.5']
    """
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def plain_cell(text: str) -> str:
    """Give back what `harmless_cell` was given."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def harmless_path(path: str) -> str:
    """Write a path that a spreadsheet takes for text: ``./`` before a relative one like a formula.

    Examples
    --------
    >>> harmless_path("=x.wav"), harmless_path("/a/=x.wav")
    ('./=x.wav', '/a/=x.wav')
    """
    return f"./{path}" if _is_formula(path) else path


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and not _NUMBER.fullmatch(text)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _beside(path: Path) -> Path:
    """Name something hidden in the folder of a path, and make that folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A long name with something before it would be too long.
    return path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name[-40:]}")
