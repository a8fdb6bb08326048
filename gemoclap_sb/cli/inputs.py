"""What the commands of `gemoclap` are given: recordings and words, all checked.

Nothing here imports torch before it is needed: ``--help`` answers at once, and a usage error
is found before anything is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gemoclap_sb.cli.destinations import writing
from gemoclap_sb.cli.errors import UsageError
from gemoclap_sb.cli.terminal import say
from gemoclap_sb.data.decoding import FFMPEG_SUFFIXES, has_ffmpeg

if TYPE_CHECKING:
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

# Of the formats that libsndfile knows, those that recordings come in.
AUDIO_SUFFIXES = (
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64",
    ".snd", ".sph", ".w64", ".wav",
)  # fmt: skip

STDIN = "-"
_STDIN_NAME = "standard input"
_MOST_BYTES = 2**32
"""Of standard input: what a WAV file can hold."""
_BLOCK = 2**20

Row = TypeVar("Row")


def add_words(parser: ArgumentParser) -> None:
    """Add the options by which other words can be asked for."""
    add = parser.add_argument
    help = (
        "classes to choose from, any words (default: the model's own). A label of the model "
        "stands for its word; LABEL=WORD gives a label its word"
    )
    add("--labels", nargs="+", metavar="LABEL[=WORD]", help=help)
    help = "sentences with {} for the word (default: the model's); a class is their mean"
    add("--templates", nargs="+", metavar="SENTENCE", help=help)


def add_recordings(parser: ArgumentParser) -> None:
    """Add the positional arguments that `find_audio` reads."""
    help = (
        "recordings (give them before the options); folders are searched for audio files at all "
        "depths, hidden ones left out; - reads one recording from standard input"
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE_OR_FOLDER", help=help)


def add_batch_size(parser: ArgumentParser) -> None:
    """Add the option of bulk work."""
    help = "files in a batch (default: auto, by length: 24 s on a CPU, 480 s on a GPU)"
    parser.add_argument("--batch-size", type=_batch_size, default="auto", metavar="N", help=help)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else count(text, "auto, or 1 and more")


def seed(text: str) -> int:
    """Read a seed, for ``type`` of an option."""
    if text.isdecimal() and len(text) < 11 and int(text) < 2**32:
        return int(text)
    raise ArgumentTypeError(f"expected 0 to {2**32 - 1}, found {text}")


def count(text: str, expected: str = "1 and more") -> int:
    """Read a number of things, for ``type`` of an option."""
    if text.isdecimal() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"expected {expected}, found {text}")


def find_audio(inputs: Iterable[str | os.PathLike]) -> list[str]:
    """List the recordings that files and folders stand for, each path once.

    Files are taken as they are. Folders are searched at all depths for files with a suffix
    of audio, sorted; names that begin with a dot are hidden. What is left out besides (formats
    that need ffmpeg where there is none, folders that are links) is counted on standard error, and
    folders in them that cannot be read are named there. UsageError if a folder holds no recording.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.FLAC", ".c.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> [Path(path).name for path in find_audio([folder, "no/such.wav"])]
    ['a.FLAC', 'b.wav', 'such.wav']
    """
    return _found(inputs).paths


def _found(inputs: Iterable[str | os.PathLike], copy: str | None = None) -> Recordings:
    found: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    suffixes = (*AUDIO_SUFFIXES, *FFMPEG_SUFFIXES) if has_ffmpeg() else AUDIO_SUFFIXES
    for given in map(os.fspath, inputs):
        if not given:
            raise UsageError("expected the name of a recording or of a folder, found an empty one.")
        if not os.path.isdir(given):
            found[given] = None
            continue
        missed: Counter[str] = Counter()
        inside = list(_in_folder(given, suffixes, missed))
        if not inside:
            but = f" ({_counts(missed)})" if missed else ""
            raise UsageError(
                f"folder {given}: expected recordings ({' '.join(suffixes)}), found none{but}."
            )
        found.update(dict.fromkeys(sorted(inside)))
        left_out += missed
    unreadable = left_out.pop(_UNREADABLE, 0)
    if left_out:
        say(f"Left out: {_counts(left_out)}.")
    return Recordings(list(found), copy, unreadable)


_UNREADABLE, _LINKED = "folders that cannot be read", "links to folders"


def _in_folder(top: str, suffixes: Sequence[str], missed: Counter[str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        if error.filename == top:
            raise UsageError(f"folder {top} cannot be read: {error.strerror}.") from error
        say(f"folder {error.filename} cannot be read: {error.strerror}.")
        missed[_UNREADABLE] += 1

    for folder, subfolders, names in os.walk(top, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if links := sum(os.path.islink(os.path.join(folder, name)) for name in subfolders):
            missed[_LINKED] += links
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                yield os.path.join(folder, name)
            elif suffix in FFMPEG_SUFFIXES:
                missed[suffix] += 1


def _counts(missed: Counter[str]) -> str:
    """Tell what was left out of folders, files by their suffixes."""
    parts = [f"{missed[kind]} {kind}" for kind in (_UNREADABLE, _LINKED) if missed[kind]]
    files = {kind: of for kind, of in sorted(missed.items()) if kind.startswith(".")}
    if files:
        kinds = ", ".join(f"{of} {suffix}" for suffix, of in files.items())
        parts.insert(0, f"files that need ffmpeg, which is not installed ({kinds})")
    return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Paths of recordings, of which one may be a copy of standard input.

    ``unreadable`` is the number of folders that could not be looked into, which have been told.
    """

    paths: list[str]
    copy: str | None = None
    unreadable: int = 0

    def named(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Hand rows on; that of the copy, and its error, speak of standard input."""
        for row in rows:
            if self.copy is not None and row.path == self.copy:
                row = dataclasses.replace(row, path=STDIN, error=self.without_copy(row.error))
            yield row

    def without_copy(self, message: str | None) -> str | None:
        """Name standard input in place of its copy."""
        if message is None or self.copy is None:
            return message
        return message.replace(self.copy, _STDIN_NAME)


@contextlib.contextmanager
def recordings(inputs: Sequence[str]) -> Iterator[Recordings]:
    """Find recordings as `find_audio` does; ``-`` is what comes in on standard input.

    That is copied into a temporary file, and gone with it. UsageError if it is asked for twice,
    is a terminal, closed or empty, or does not end.
    """
    if STDIN not in inputs:
        yield _found(inputs)
        return
    if list(inputs).count(STDIN) > 1:
        raise UsageError(f"{STDIN}: expected standard input once, found it twice.")
    with tempfile.TemporaryDirectory(prefix="gemoclap-") as folder:
        copy = os.path.join(folder, _STDIN_NAME)
        _copy_stdin(copy)
        yield _found([copy if given == STDIN else given for given in inputs], copy)


def _copy_stdin(path: str) -> None:
    if sys.stdin is None:
        raise UsageError(f"{STDIN}: expected a recording on standard input, which is closed.")
    if sys.stdin.isatty():
        raise UsageError(
            f"{STDIN}: expected a recording on standard input, found a terminal. Give one with "
            "`< FILE`, or in a pipe."
        )
    size = 0
    with open(path, "wb") as file:
        while block := _read_stdin():
            if (size := size + len(block)) > _MOST_BYTES:
                raise UsageError(
                    f"{STDIN}: expected a recording on standard input, found more than "
                    f"{_MOST_BYTES:,} bytes. Write it into a file."
                )
            with writing(f"the copy of standard input in {tempfile.gettempdir()}"):
                file.write(block)
        with writing(f"the copy of standard input in {tempfile.gettempdir()}"):
            file.flush()
    if not size:
        raise UsageError(f"{STDIN}: expected a recording on standard input, found nothing.")


def _read_stdin() -> bytes:
    try:
        return sys.stdin.buffer.read(_BLOCK)
    except OSError as error:
        raise UsageError(f"{STDIN}: standard input cannot be read: {error.strerror}.") from error


def text(option: str, given: str) -> str:
    """Check words that a text encoder is to read: UsageError if there are none, or no words."""
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{option}: expected words in UTF-8, found {given!r}.") from error
    if not given.strip():
        raise UsageError(f"{option}: expected words, found {given!r}.")
    return given


def words_by_label(
    given: Sequence[str] | None, classifier: GEmoCLAPClassifier
) -> dict[str, str] | None:
    """Read ``--labels``, ``LABEL`` or ``LABEL=WORD`` each: word by label, None for nothing.

    A bare label of the model's has the model's word for it, any other is its own word.
    UsageError if one is of another form, or given twice.
    """
    if given is None:
        return None
    own = classifier.prompts.words[classifier.attribute]
    words: dict[str, str] = {}
    for item in given:
        label, equals, word = text("--labels", item).partition("=")
        if not label.strip() or (equals and not word.strip()):
            raise UsageError(f"--labels: expected LABEL or LABEL=WORD, found {item!r}.")
        if label in words:
            raise UsageError(f"--labels: expected each label once, found {label!r} again.")
        words[label] = word if equals else own.get(label, label)
    return words


def templates(given: Sequence[str] | None) -> list[str] | None:
    """Read ``--templates``; what stands in their braces is the model's to judge."""
    return None if given is None else [text("--templates", item) for item in given]
