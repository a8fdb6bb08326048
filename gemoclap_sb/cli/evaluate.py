"""``gemoclap evaluate``: WAR, UAR and confusion on a corpus."""

from __future__ import annotations

import csv
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemoclap_sb.cli import inputs, output

if TYPE_CHECKING:
    from gemoclap_sb.evaluation.predictions import Predictions

SUMMARY = "WAR, UAR and confusion on a corpus"
DESCRIPTION = (
    "Classify the utterances of a manifest (a CSV with the columns ID, wav and the attribute, such "
    "as emotion) and compare. With --labels the model is tested on other classes than it was "
    "trained on: they are the manifest's labels, each with its word."
)
EXAMPLES = """\
  gemoclap evaluate test.csv --model exported --data-root corpus/ --output results/
  gemoclap evaluate test.csv --model exported --labels bor=bored afr=afraid ang"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="CSV file")
    inputs.add_model(parser)
    inputs.add_words(parser)
    inputs.add_batch_size(parser)
    add("--data-root", metavar="FOLDER", help="stands for $data_root in the manifest's paths")
    help = "leave out utterances of other labels (default: they are an error)"
    add("--ignore-others", action="store_true", help=help)
    help = "where to write metrics.json, confusion.png and predictions.csv"
    add("--output", metavar="FOLDER", help=help)
    output.add_format(parser, "table", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Compare what the model says with a manifest's labels."""
    classifier = inputs.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    from gemoclap_sb.evaluation.report import metrics_table, uncertainty_lines
    from gemoclap_sb.evaluation.uncertainty import uncertainty

    labels, attribute = list(words or classifier.labels), classifier.attribute
    with inputs.usage_errors():
        rows, failed = _read_utterances(options, attribute, labels)
        paths = [row["wav"] for row in rows.values()]
        results = classifier.classify_files(
            paths, words, options.templates, batch_size=options.batch_size
        )
    failures = output.Failures(failed)
    answers = [
        (name, row[attribute], result)
        for (name, row), result in zip(rows.items(), failures.watch(results), strict=True)
        if result.label is not None
    ]
    if not answers:
        print(f"{options.manifest}: no utterance could be read.", file=sys.stderr)
        return failures.status
    predictions = _predictions(answers, labels)
    metrics = predictions.metrics()
    prompts = classifier.prompts
    record = (
        metrics.to_dict()
        | uncertainty(predictions, rows)
        | {
            "n_failed": failures.count,
            "attribute": attribute,
            "words": words or prompts.words[attribute],
            "templates": options.templates or prompts.templates.get(attribute, []),
            "model": str(options.model),
            "manifest": str(options.manifest),
        }
    )
    if options.output is not None:
        _write(Path(options.output), predictions, record)
    if options.format == "json":
        output.print_json(record, out)
    else:
        output.print_lines([metrics_table(metrics), *uncertainty_lines(record)], out)
    return failures.status


def _read_utterances(
    options: Namespace, attribute: str, labels: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], int]:
    """Rows of the manifest by ID, and how many more there are whose audio is unusable."""
    from gemoclap_sb.data.manifests import ManifestError, read_manifest

    classes = None if options.ignore_others else {attribute: labels}
    arguments = {"classes": classes, "required": (attribute,)}
    try:
        rows = read_manifest(options.manifest, options.data_root, **arguments)
        failed = 0
    except ManifestError:
        # Should anything but the audio be wrong, this says so again. Every file is decoded
        # on this way, which is why it is not the first.
        rows = read_manifest(options.manifest, options.data_root, skip_bad_audio=True, **arguments)
        with open(options.manifest, encoding="utf-8-sig", newline="") as file:
            failed = sum(1 for _ in csv.DictReader(file)) - len(rows)
    kept = {name: row for name, row in rows.items() if row[attribute] in labels}
    if not kept:
        raise inputs.UsageError(
            f"{options.manifest}: expected utterances whose {attribute} is one of "
            f"{', '.join(labels)}, found none."
        )
    if len(kept) < len(rows):
        print(f"Left out: {len(rows) - len(kept)} utterances of other labels.", file=sys.stderr)
    return kept, failed


def _predictions(answers: Sequence[tuple], labels: Sequence[str]) -> Predictions:
    import numpy as np

    from gemoclap_sb.evaluation.predictions import Predictions

    return Predictions(
        [name for name, _, _ in answers],
        np.array([labels.index(true) for _, true, _ in answers]),
        np.array([labels.index(result.label) for _, _, result in answers]),
        np.array([[*result.probabilities.values()] for _, _, result in answers]),
        labels,
    )


def _write(folder: Path, predictions: Predictions, record: dict) -> None:
    from gemoclap_sb.evaluation.figures import draw_confusion
    from gemoclap_sb.evaluation.predictions import PREDICTIONS
    from gemoclap_sb.files import write_json

    predictions.write(folder / PREDICTIONS)
    title = f"Confusion matrix, {record['attribute']}"
    draw_confusion(predictions.metrics(), folder / "confusion.png", title)
    write_json(folder / "metrics.json", record)
    print(f"Written: {folder}", file=sys.stderr)
