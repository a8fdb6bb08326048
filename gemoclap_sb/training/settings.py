"""An experiment's YAML and its overrides, read to plain values without making its objects."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError


class ExperimentError(RuntimeError):
    """An experiment cannot start as asked; the message says what to change."""


# What other files hold, or a function says, may change meanwhile. A % may spell such a tag.
_LOOKS_ELSEWHERE = re.compile(r"!(include|applyref)|!\S*%|^%TAG", re.MULTILINE)


@contextlib.contextmanager
def told_permissions() -> Iterator[None]:
    """Tell of a file or folder that may not be looked at; ExperimentError names it."""
    try:
        yield
    except PermissionError as error:
        raise ExperimentError(
            f"{error.filename} may not be read ({error.strerror}). Name what is yours to read."
        ) from error


def read_overrides(text: str) -> dict[str, Any]:
    """Read the keys that a command line gave, as SpeechBrain's ``parse_arguments`` leaves them.

    ExperimentError if they are no keys with values, or a key is there twice.

    >>> read_overrides("seed: 2")
    {'seed': 2}
    """
    try:
        given = YAML().load(text) or {}
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ExperimentError(f"--{key} is given twice; expected each key once.") from error
    except YAMLError:
        given = None
    if not isinstance(given, dict):
        raise ExperimentError(
            f"expected --key value, each key once; found {' '.join(text.split())}."
        )
    return dict(given)


@told_permissions()
def read_settings(hparams_file: str | os.PathLike, overrides: str | dict = "") -> dict:
    r"""Resolve an experiment's YAML without making its objects.

    Loading a YAML builds its encoders; this only reads the plain values at top level, with
    references and overrides (as ``load_hyperpyyaml`` takes them) applied. An object is its
    tag and its arguments. ExperimentError if the file is missing, or an override names no
    key of the file.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "small.yaml"
    >>> _ = path.write_text("seed: 1\nfolder: !ref run_<seed>\n")
    >>> read_settings(path, "seed: 2")
    {'seed': 2, 'folder': 'run_2'}
    """
    path = Path(hparams_file)
    if not path.is_file():
        raise ExperimentError(f"no hyperparameter file {path} (seen from {Path.cwd()}).")
    given = read_overrides(overrides) if isinstance(overrides, str) else overrides
    try:
        text = path.read_text(encoding="utf-8")
        known = _keys(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ExperimentError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if isinstance(known, str):
        raise ExperimentError(f"{path}: expected a YAML of keys and values, found {known}.")
    unknown = [key for key in given or {} if key not in known]
    if unknown:
        raise ExperimentError(
            f"{path}: --{unknown[0]} is no key of this file. Its keys: {', '.join(known)}."
        )
    try:
        stream = StringIO()
        YAML().dump(dict(given or {}), stream)
        asked = stream.getvalue()
        resolve = _resolved.__wrapped__ if _LOOKS_ELSEWHERE.search(text + asked) else _resolved
        return copy.deepcopy(resolve(str(path), text, asked))
    except RecursionError as error:
        raise ExperimentError(f"{path}: some of its !ref lead back to themselves.") from error
    except (ValueError, KeyError, TypeError, OSError, YAMLError) as error:
        raise ExperimentError(f"{path}: {' '.join(str(error).split())}") from error


# A YAML is parsed in Python, slowly, and the start of a run asks several times.
@functools.lru_cache(maxsize=64)
def _keys(text: str) -> tuple[str, ...] | str:
    """Give the keys of a YAML, or what it is instead of keys and values."""
    tree = YAML().load(text)
    return tuple(tree) if isinstance(tree, dict) else f"{tree!r:.80}"


@functools.lru_cache(maxsize=64)
def _resolved(path: str, text: str, overrides: str) -> dict[str, Any]:
    """Resolve a YAML of this text, which lies there, with overrides in YAML."""
    stream = StringIO(text)
    # By it hyperpyyaml finds what is included.
    stream.name = path
    tree = YAML().load(resolve_references(stream, overrides).getvalue())
    return {key: _plain(value) for key, value in tree.items()}


def is_object(value: Any) -> bool:
    """Whether settings have an object here: its tag and its arguments."""
    return isinstance(value, dict) and any(str(name).startswith("!") for name in value)


def _plain(value: object) -> object:
    """Strip ruamel's types; ``!new:a.B {c: 1}`` becomes ``{"!new:a.B": {"c": 1}}``."""
    tag = getattr(getattr(value, "tag", None), "value", None)
    if isinstance(value, dict):
        plain = {key: _plain(item) for key, item in value.items()}
    elif isinstance(value, list):
        plain = [_plain(item) for item in value]
    elif isinstance(value, TaggedScalar):
        plain = value.value
    elif isinstance(value, bool) or value is None:
        plain = value
    else:
        # A date stays one; a check of the keys tells of it.
        kind = next((kind for kind in (int, float, str) if isinstance(value, kind)), None)
        plain = kind(value) if kind else value
    return {tag: plain} if tag is not None and tag.startswith("!") else plain
