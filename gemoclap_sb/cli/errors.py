"""What a command cannot do as asked, in the words of the command line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# Options by what they are called in Python.
_OPTIONS = {
    "head": "--attribute", "attribute": "--attribute", "labels": "--labels", "words": "--labels",
    "templates": "--templates", "batch_size": "--batch-size", "window": "--window",
    "hop": "--hop", "top_k": "--top-k",
    "device": "--device", "actors": "--actors",
    "clusters": "--clusters", "most_clusters": "--most-clusters",
    "least_utterances": "--least-utterances",
}  # fmt: skip
_ARGUMENT = re.compile(rf"\A({'|'.join(_OPTIONS)})(\['[^']*'\])?(?=[:,])")


class UsageError(ValueError):
    """A command that cannot be carried out as asked; the message says what to change."""


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError about what was given, save one about audio, into a `UsageError`.

    It names the option where the error begins with the name of an argument.
    """
    from gemoclap_sb.data.audio import AudioError

    try:
        yield
    except (AudioError, UsageError):
        raise
    except ValueError as error:
        raise UsageError(named(str(error))) from error


def named(message: str) -> str:
    """Name the option in place of the argument that a message begins with.

    Examples
    --------
    >>> named("head: expected one of ['emotion'], found 'age'.")
    "--attribute: expected one of ['emotion'], found 'age'."
    """
    return _ARGUMENT.sub(lambda found: _OPTIONS[found[1]], message)
