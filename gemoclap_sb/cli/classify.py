"""``gemoclap classify``: the class of each recording."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict
from typing import Any, TextIO

from gemoclap_sb.cli import inputs, models, output
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import visible

SUMMARY = "the class of each recording"
DESCRIPTION = (
    "Classify recordings. A file that cannot be read has an error in place of a class, and the "
    "rest go on."
)
EXAMPLES = """\
  gemoclap classify speech.wav
  gemoclap classify a.wav b.flac --model exported
  curl -s https://example.org/speech.ogg | gemoclap classify -
  gemoclap classify recordings/ --model exported --format json | jq '.[].label'
  gemoclap classify a.wav --model exported --abstain-below 0.6
  gemoclap classify a.wav --model exported --labels bored afraid --templates "a {} voice\""""
UNSURE = "unsure"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    inputs.add_recordings(parser)
    models.add_model(parser)
    inputs.add_words(parser)
    help = (
        f"answer `{UNSURE}` where the highest probability is below P, from 0 to 1; the class that "
        "has it then stands under `highest`"
    )
    parser.add_argument("--abstain-below", type=_probability, metavar="P", help=help)
    inputs.add_batch_size(parser)
    output.add_format(parser, "table", "csv", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Print the class of each recording."""
    with inputs.recordings(options.inputs) as recordings:
        return _classify(recordings, options, out)


def _classify(recordings: inputs.Recordings, options: Namespace, out: TextIO) -> int:
    classifier = models.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    templates = inputs.templates(options.templates)
    labels = list(words or classifier.labels)
    least = options.abstain_below
    if least is not None and UNSURE in labels:
        raise UsageError(f"--abstain-below: a class is called {UNSURE} already.")
    # A bar and rows would write over each other.
    bulk = {"batch_size": options.batch_size, "progress": not out.isatty()}
    with usage_errors():
        rows = classifier.classify_files(recordings.paths, words, templates, **bulk)
    failures = output.Failures(recordings.unreadable)
    columns = ["path", "label", "score", "error"]
    width = -max(len(visible(label)) for label in labels)
    before, after = {"label": width}, {"path": -1}
    rows = map(asdict, failures.watch(recordings.named(rows)))
    if least is not None:
        rows = (_abstaining(row, least) for row in rows)
        columns.insert(2, "highest")
        before = {"label": min(width, -len(UNSURE)), "highest": width}
    output.print_rows(rows, labels, options.format, out, columns, before, after)
    return failures.status


def _abstaining(row: dict[str, Any], least: float) -> dict[str, Any]:
    """Keep an answer that is sure enough; either way, say under ``highest`` what it was."""
    label, score = row["label"], row["score"]
    row = {"path": row.pop("path"), "label": row.pop("label"), "highest": label, **row}
    return row | {"label": UNSURE} if score is not None and score < least else row


def _probability(text: str) -> float:
    try:
        if 0 <= (value := float(text)) <= 1:
            return value
    except ValueError:
        pass
    raise ArgumentTypeError(f"expected a probability from 0 to 1, found {text}")
