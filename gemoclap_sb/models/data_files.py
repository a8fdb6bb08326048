"""Files of a model's folder, which may come from anybody: found in it, bounded, read as data.

A name may stand for a pipe that never ends, for a link to somebody's private file, for
gigabytes, or for JSON that Python reads in its own way (NaN, one key twice, half a
character). All of these are a `ConfigurationError` before anything is allocated.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemoclap_sb.models.errors import ConfigurationError, shortened, shown

CONFIG_BYTES = 4 * 2**20
CONFIG_VALUES = 100_000
_DEEPEST = 32
# Of tokenizers without a longest sentence, 10**30 is one.
_INTEGER_DIGITS = 40
_KINDS: dict[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}
_SNAPSHOT = re.compile(r"(?P<cache>.*)/models--[^/]+/snapshots/[^/]+")
_SHARED_BLOB = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{64}")


def check_inside(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Refuse a symbolic link that points out of a model's folder, by a ConfigurationError.

    The hub's cache is made of links: those of ``models--owner--name/snapshots/REVISION`` may
    point to the ``blobs`` of the same model, and to the cache's own, and nowhere else.
    """
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return
    if found := _SNAPSHOT.fullmatch(root.as_posix()):
        cache = Path(found["cache"])
        is_shared = target.is_relative_to(cache) and _SHARED_BLOB.fullmatch(
            target.relative_to(cache).as_posix()
        )
        if is_shared or target.parent == root.parent.parent / "blobs":
            return
    raise ConfigurationError(
        f"{path}: expected a file of the model's folder, found a link that points out of it, to "
        f"{target}. It was not followed; copy the file itself into the folder."
    )


def plain_size(path: str | os.PathLike) -> int:
    """Give a plain file's size in bytes without opening it; FileNotFoundError if there is none.

    ConfigurationError for a folder, a pipe, a socket or a device.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for kind, is_it in _KINDS.items() if is_it(found.st_mode)), "none")
        raise ConfigurationError(
            f"{path}: expected a plain file, found {kind}. It was not opened; take the model's "
            "folder from its author again."
        )
    return found.st_size


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """Read a plain file of at most so many bytes; errors of `plain_size`, and a larger one."""
    if (size := plain_size(path)) > most:
        raise ConfigurationError(
            f"{path}: expected at most {most:,} bytes, found {size:,}. It is no file that the "
            "export of this package has written."
        )
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(
    path: str | os.PathLike, most_bytes: int = CONFIG_BYTES, most_values: int = CONFIG_VALUES
) -> Any:
    """Read plain data from UTF-8 JSON, strictly.

    FileNotFoundError if there is no file. ConfigurationError if it is no plain file, cannot be
    read, is too large or too deep, is no JSON, or holds what other readers take otherwise: a key
    twice, NaN and infinity, endless integers, half a character.
    """
    data = read_bytes(path, most_bytes)
    values = sum(data.count(mark) for mark in b"[{,")
    try:
        if values > most_values:
            raise ValueError(f"at most {most_values:,} values were expected, found {values:,}")
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
        _check_depth(content)
        if b"\\u" in data:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{path}: expected JSON: half a character in a text.") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shortened(str(error))
        raise ConfigurationError(f"{path}: expected JSON: {reason}.") from error
    return content


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice, 40)} stands there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {shortened(digits, 40)} is too large")
    return value


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unreadable(path: str | os.PathLike, error: Exception) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigurationError(
        f"{path} cannot be read: {reason}. Give yourself the right to read the model's folder, or "
        "name another."
    )
