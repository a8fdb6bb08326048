"""``gemoclap evaluate``: WAR, UAR and confusion on a corpus."""

from __future__ import annotations

import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemoclap_sb.cli import inputs, models, output
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say, visible, visible_data

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

FILES = ("predictions.csv", "confusion.png", "metrics.json")
_MOST_NAMED = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="CSV file")
    models.add_model(parser)
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
    if options.output is not None:
        check_folder("--output", options.output, FILES, [options.manifest])
    if options.data_root is not None and not Path(options.data_root).is_dir():
        raise UsageError(f"--data-root: expected a folder, found none at {options.data_root!r}.")
    classifier = models.load_classifier(options)
    words = inputs.words_by_label(options.labels, classifier)
    templates = inputs.templates(options.templates)
    from gemoclap_sb.evaluation.metrics import ClassificationMetrics
    from gemoclap_sb.evaluation.report import metrics_table, uncertainty_lines
    from gemoclap_sb.evaluation.uncertainty import uncertainty

    labels, attribute = list(words or classifier.labels), classifier.attribute
    with usage_errors():
        rows, lost = _read_utterances(options, attribute, labels)
        paths = [row["wav"] for row in rows.values()]
        results = classifier.classify_files(paths, words, templates, batch_size=options.batch_size)
    failures = output.Failures(len(lost))
    answers = []
    for (name, row), result in zip(rows.items(), failures.watch(results), strict=True):
        if result.label is None:
            lost.append(name)
        else:
            answers.append((name, row[attribute], result))
    if not answers:
        say(f"{options.manifest}: no utterance could be read.")
        return failures.status
    predictions = _predictions(answers, labels)
    metrics = predictions.metrics()
    prompts = classifier.prompts
    record = (
        metrics.to_dict()
        | uncertainty(predictions, rows)
        | {
            "n_failed": failures.count,
            "failed": lost,
            "attribute": attribute,
            "words": words or prompts.words[attribute],
            "templates": templates or prompts.templates.get(attribute, []),
            "model": str(options.model),
            "manifest": str(options.manifest),
        }
    )
    try:
        if options.output is not None:
            _write(Path(options.output), predictions, record)
    finally:
        # What was found is printed, whatever becomes of the files.
        if options.format == "json":
            lines = [output.json_text(record)]
        else:
            shown = ClassificationMetrics.from_dict(visible_data(metrics.to_dict()))
            lines = [metrics_table(shown), *uncertainty_lines(visible_data(record))]
            if lost:
                lines.append(f"without {_few(lost)}, which could not be read")
        output.print_lines((part for line in lines for part in line.split("\n")), out)
    return failures.status


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return visible(", ".join(names[:_MOST_NAMED])) + more


def _read_utterances(
    options: Namespace, attribute: str, labels: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Rows of the manifest by ID, and the IDs of more whose audio is unusable."""
    from gemoclap_sb.data.manifests import ManifestError, read_cells, read_manifest

    classes = None if options.ignore_others else {attribute: labels}
    arguments = {"classes": classes, "required": (attribute,)}
    try:
        cells = read_cells(options.manifest, ("ID", "wav"))
        if options.data_root is None and any("$data_root" in row["wav"] for row in cells):
            raise UsageError(
                f"{options.manifest}: paths in it begin with $data_root; name the folder that it "
                "stands for with --data-root."
            )
        try:
            rows = read_manifest(options.manifest, options.data_root, **arguments)
        except ManifestError:
            # Should anything but the audio be wrong, this says so again. Every file is decoded
            # on this way, which is why it is not the first.
            rows = read_manifest(
                options.manifest, options.data_root, skip_bad_audio=True, **arguments
            )
    except csv.Error as error:
        raise UsageError(f"{options.manifest}: expected CSV: {error}.") from error
    wanted = {row["ID"] for row in cells if row[attribute] in labels}
    kept = {name: row for name, row in rows.items() if name in wanted}
    lost = [row["ID"] for row in cells if row["ID"] in wanted and row["ID"] not in rows]
    if not wanted:
        raise UsageError(
            f"{options.manifest}: expected utterances whose {attribute} is one of "
            f"{', '.join(labels)}, found none."
        )
    if others := len(cells) - len(wanted):
        say(f"Left out: {others} utterances of other labels.")
    return kept, lost


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
    from gemoclap_sb.files import write_json

    table, picture, figures = (folder / name for name in FILES)
    title = f"Confusion matrix, {record['attribute']}"
    with writing(table):
        predictions.write(table)
    with writing(picture):
        draw_confusion(predictions.metrics(), picture, title)
    with writing(figures):
        write_json(figures, record)
    say(f"Written: {folder}")
