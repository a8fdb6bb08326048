"""``gemoclap timeline``: classes over the length of a recording."""

from __future__ import annotations

import math
import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from gemoclap_sb.cli import inputs, models, output
from gemoclap_sb.cli.destinations import check_file, writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import for_terminal, say, visible

SUMMARY = "classes over the length of a recording"
DESCRIPTION = (
    "Classify every window of a recording, which may be hours long: it is read piece by piece."
)
EXAMPLES = """\
  gemoclap timeline meeting.flac --model exported --output meeting.png
  gemoclap timeline meeting.flac --model exported --window 3 --hop 1 --format csv"""

# The narrowest and the widest of `gemoclap_sb.inference.timeline`, which loads torch.
_SHORTEST, _LONGEST = 0.01, 600.0
"""Seconds; below, windows are mostly of nothing and without number."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "file", metavar="FILE", help="a recording of any length, or - for standard input"
    )
    models.add_model(parser)
    inputs.add_words(parser)
    for option, default, what in (
        ("--window", 2.0, "seconds in a window (default: 2)"),
        ("--hop", 0.5, "seconds between windows' beginnings (default: 0.5)"),
    ):
        parser.add_argument(option, type=_seconds, default=default, help=what)
    parser.add_argument("--output", metavar="PNG", help="picture to draw")
    output.add_format(parser, "table", "csv", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Print, and draw, the classes along one recording."""
    picture = options.output
    if picture is not None:
        if Path(picture).suffix.lower() != ".png":
            raise UsageError(f"--output: expected a file that ends in .png, found {picture}.")
        check_file("--output", picture, [options.file])
    if os.path.isdir(options.file):
        raise UsageError(f"{options.file}: expected a recording, found a folder.")
    with inputs.recordings([options.file]) as recordings:
        return _timeline(recordings, options, out)


def _timeline(recordings: inputs.Recordings, options: Namespace, out: TextIO) -> int:
    classifier = models.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    templates = inputs.templates(options.templates)
    from gemoclap_sb.data.audio import AudioError
    from gemoclap_sb.inference.timeline import draw_timeline

    asked = (recordings.paths[0], options.window, options.hop, words, templates)
    try:
        with usage_errors():
            found = classifier.timeline(*asked)
    except AudioError as error:
        say(recordings.without_copy(str(error)))
        return 1
    columns = ["start", "end", "label", "score"]
    before = {"start": 9, "end": 9, "label": -max(len(visible(label)) for label in found.labels)}
    try:
        if options.output is not None:
            with writing(options.output):
                draw_timeline(replace(found, path=for_terminal(found.path)), options.output)
            say(f"Drawn: {options.output}")
    finally:
        # What was found is printed, whatever becomes of the picture.
        output.print_rows(found.rows(), found.labels, options.format, out, columns, before)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ArgumentTypeError(
            f"expected a positive number of seconds, {_SHORTEST:g} to {_LONGEST:g}, found {text}"
        )
    return seconds
