"""What the commands of `gemoclap` are given: recordings, a model and words, all checked."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gemoclap_sb.inference.bulk import FileEmbedding
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
    from gemoclap_sb.inference.many_files import Classification

# Of the formats that libsndfile knows, those that recordings come in.
AUDIO_SUFFIXES = (
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64",
    ".snd", ".sph", ".w64", ".wav",
)  # fmt: skip

_Row = TypeVar("_Row", "Classification", "FileEmbedding")


class CommandError(ValueError):
    """A command that cannot be carried out as asked; the message says what to change."""


def find_audio(inputs: Iterable[str | os.PathLike]) -> list[str]:
    """List the recordings that files and folders stand for.

    Parameters
    ----------
    inputs : Iterable
        Files, which are taken as they are, and folders, which are searched at all depths
        for files with a suffix of audio. Names that begin with a dot are hidden.

    Returns
    -------
    list of str
        Each path once; those of a folder are sorted.

    Raises
    ------
    CommandError
        If a folder holds no recording.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.FLAC", ".c.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> [Path(path).name for path in find_audio([folder, "no/such.wav"])]
    ['a.FLAC', 'b.wav', 'such.wav']
    """
    found: dict[str, None] = {}
    for given in map(os.fspath, inputs):
        if not os.path.isdir(given):
            found[given] = None
            continue
        inside = []
        for folder, subfolders, names in os.walk(given):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            inside += [
                os.path.join(folder, name)
                for name in names
                if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES
            ]
        if not inside:
            suffixes = " ".join(AUDIO_SUFFIXES)
            raise CommandError(f"folder {given}: expected recordings ({suffixes}), found none.")
        found.update(dict.fromkeys(sorted(inside)))
    return list(found)


class Failures:
    """Counts the inputs that failed, and says which.

    Parameters
    ----------
    count : int
        Of those that are known already.

    Attributes
    ----------
    count : int
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count

    @property
    def status(self) -> int:
        """The exit code."""
        return 1 if self.count else 0

    def watch(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """Hand rows on, and print their errors."""
        from tqdm import tqdm

        for row in rows:
            if row.error is not None:
                self.count += 1
                # By way of tqdm, which takes its bar out of the way.
                tqdm.write(row.error, file=sys.stderr)
            yield row


@contextlib.contextmanager
def misuse() -> Iterator[None]:
    """Turn a ValueError about what was given, save one about audio, into a `CommandError`."""
    from gemoclap_sb.data.audio import AudioError

    try:
        yield
    except AudioError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from error


def load_classifier(options: Namespace) -> GEmoCLAPClassifier:
    """Load the model that ``--model``, ``--device`` and ``--attribute`` ask for.

    Raises
    ------
    CommandError
        If there is no such model, device or attribute.
    """
    import torch

    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

    if options.device is not None:
        try:
            torch.empty(0, device=options.device)
        # A build of torch without CUDA asserts.
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise CommandError(f"--device {options.device} cannot be used: {reason}") from error
    with misuse():
        return GEmoCLAPClassifier.from_pretrained(
            options.model, device=options.device, attribute=options.attribute
        )


def words_by_label(
    given: Sequence[str] | None, classifier: GEmoCLAPClassifier
) -> dict[str, str] | None:
    """Read ``--labels``: ``LABEL`` or ``LABEL=WORD`` each.

    Returns
    -------
    dict or None
        Word by label; None if nothing was given. A bare label of the model's has the
        model's word for it, any other is its own word.

    Raises
    ------
    CommandError
        If one is of another form, or given twice.
    """
    if given is None:
        return None
    own = classifier.prompts.words[classifier.attribute]
    words: dict[str, str] = {}
    for item in given:
        label, equals, word = item.partition("=")
        if not label or (equals and not word):
            raise CommandError(f"--labels: expected LABEL or LABEL=WORD, found {item!r}.")
        if label in words:
            raise CommandError(f"--labels: expected each label once, found {label!r} again.")
        words[label] = word if equals else own.get(label, label)
    return words
