"""``gemoclap timeline``: classes over the length of a recording."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TextIO

from gemoclap_sb.cli import inputs, output

SUMMARY = "classes over the length of a recording"
DESCRIPTION = (
    "Classify every window of a recording, which may be hours long: it is read piece by piece."
)
EXAMPLES = """\
  gemoclap timeline meeting.flac --model exported --output meeting.png
  gemoclap timeline meeting.flac --model exported --window 3 --hop 1 --format csv"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("file", metavar="FILE", help="a recording of any length")
    inputs.add_model(parser)
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
    if picture is not None and Path(picture).suffix.lower() != ".png":
        raise inputs.UsageError(f"--output: expected a file that ends in .png, found {picture}.")
    classifier = inputs.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    from gemoclap_sb.data.audio import AudioError
    from gemoclap_sb.inference.timeline import draw_timeline

    asked = (options.file, options.window, options.hop, words, options.templates)
    try:
        with inputs.usage_errors():
            found = classifier.timeline(*asked)
    except AudioError as error:
        print(error, file=sys.stderr)
        return 1
    if picture is not None:
        draw_timeline(found, picture)
        print(f"Drawn: {picture}", file=sys.stderr)
    columns = ["start", "end", "label", "score"]
    before = {"start": 9, "end": 9, "label": -max(map(len, found.labels))}
    output.print_rows(found.rows(), found.labels, options.format, out, columns, before)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ArgumentTypeError(f"expected a positive number of seconds, found {text}")
    return seconds
