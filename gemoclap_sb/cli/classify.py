"""``gemoclap classify``: the class of each recording."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TextIO

from gemoclap_sb.cli import inputs, output

SUMMARY = "the class of each recording"
DESCRIPTION = (
    "Classify recordings. A file that cannot be read has an error in place of a class, and the "
    "rest go on."
)
EXAMPLES = """\
  gemoclap classify a.wav b.flac --model exported
  gemoclap classify recordings/ --model exported --format json | jq '.[].label'
  gemoclap classify a.wav --model exported --labels bored afraid --templates "a {} voice\""""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    inputs.add_recordings(parser)
    inputs.add_model(parser)
    inputs.add_words(parser)
    inputs.add_batch_size(parser)
    output.add_format(parser, "table", "csv", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Print the class of each recording."""
    paths = inputs.find_audio(options.inputs)
    classifier = inputs.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    # A bar and rows would write over each other.
    bulk = {"batch_size": options.batch_size, "progress": not out.isatty()}
    with inputs.usage_errors():
        rows = classifier.classify_files(paths, words, options.templates, **bulk)
    failures = output.Failures()
    labels = list(words or classifier.labels)
    columns = ["path", "label", "score", "error"]
    before, after = {"label": -max(map(len, labels))}, {"path": -1}
    rows = map(asdict, failures.watch(rows))
    output.print_rows(rows, labels, options.format, out, columns, before, after)
    return failures.status
