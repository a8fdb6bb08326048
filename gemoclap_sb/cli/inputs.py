"""What the commands of `gemoclap` are given: recordings, a model and words, all checked.

Nothing here imports torch before it is needed: ``--help`` answers at once, and a usage error
is found before anything is loaded.
"""

from __future__ import annotations

import contextlib
import gc
import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

# Of the formats that libsndfile knows, those that recordings come in.
AUDIO_SUFFIXES = (
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64",
    ".snd", ".sph", ".w64", ".wav",
)  # fmt: skip


class UsageError(ValueError):
    """A command that cannot be carried out as asked; the message says what to change."""


def add_model(parser: ArgumentParser) -> None:
    """Add the options that `load_classifier` reads."""
    add = parser.add_argument
    help = (
        "exported model: a folder, or owner/name on the Hugging Face hub (default: the small model "
        "in this package, told on standard error)"
    )
    add("--model", metavar="FOLDER", help=help)
    help = "what to recognise, for a model with several heads (default: its first)"
    add("--attribute", metavar="NAME", help=help)
    add("--device", help="cpu, cuda:0, ... (default: a GPU where there is one)")


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
        "depths, hidden ones left out"
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE_OR_FOLDER", help=help)


def add_batch_size(parser: ArgumentParser) -> None:
    """Add the option of bulk work."""
    help = "files in a batch (default: auto, by length: 24 s on a CPU, 480 s on a GPU)"
    parser.add_argument("--batch-size", type=_batch_size, default="auto", metavar="N", help=help)


def _batch_size(text: str) -> int | str:
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return text if text == "auto" else int(text)
    raise ArgumentTypeError(f"expected auto, or 1 and more, found {text}")


def find_audio(inputs: Iterable[str | os.PathLike]) -> list[str]:
    """List the recordings that files and folders stand for, each path once.

    Files are taken as they are. Folders are searched at all depths for files with a suffix
    of audio, sorted; names that begin with a dot are hidden. UsageError if a folder holds no
    recording.

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
            raise UsageError(f"folder {given}: expected recordings ({suffixes}), found none.")
        found.update(dict.fromkeys(sorted(inside)))
    return list(found)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError about what was given, save one about audio, into a `UsageError`."""
    from gemoclap_sb.data.audio import AudioError

    try:
        yield
    except AudioError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_classifier(options: Namespace) -> GEmoCLAPClassifier:
    """Load the model that ``--model``, ``--device`` and ``--attribute`` ask for, or UsageError."""
    # What imports leave lives to the end. Looking through it for garbage, again and again and
    # once more at the exit, takes a quarter of a short command's time.
    gc.disable()
    try:
        return _load_classifier(options)
    finally:
        gc.freeze()
        gc.enable()


def _load_classifier(options: Namespace) -> GEmoCLAPClassifier:
    import torch

    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
    from gemoclap_sb.inference.loading import DEFAULT_MODEL

    if options.device is not None:
        try:
            torch.empty(0, device=options.device)
        # A build of torch without CUDA asserts.
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--device {options.device} cannot be used: {reason}") from error
    with usage_errors():
        return GEmoCLAPClassifier.from_pretrained(
            DEFAULT_MODEL if options.model is None else options.model,
            device=options.device,
            attribute=options.attribute,
        )


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
        label, equals, word = item.partition("=")
        if not label or (equals and not word):
            raise UsageError(f"--labels: expected LABEL or LABEL=WORD, found {item!r}.")
        if label in words:
            raise UsageError(f"--labels: expected each label once, found {label!r} again.")
        words[label] = word if equals else own.get(label, label)
    return words
