"""What the commands of `gemoclap` do, once `gemoclap_sb.cli.parser` has read their arguments.

Each takes the parsed options and the stream for data, and returns the exit code. What
needs torch is imported where it is used, so that ``gemoclap --help`` need not wait for it
and misuse is found before it.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemoclap_sb.cli.inputs import (
    CommandError,
    Failures,
    find_audio,
    load_classifier,
    misuse,
    words_by_label,
)
from gemoclap_sb.cli.output import csv_lines, json_lines, table_lines

if TYPE_CHECKING:
    from gemoclap_sb.inference.many_files import Classification

_DECIMALS = 6


def classify(options: Namespace, out: TextIO) -> int:
    """Print the class of each recording."""
    paths = find_audio(options.inputs)
    classifier = load_classifier(options)
    words = words_by_label(options.labels, classifier)
    with misuse():
        rows = classifier.classify_files(
            paths,
            words,
            options.templates,
            batch_size=options.batch_size,
            # A bar and rows would write over each other.
            progress=not out.isatty(),
        )
    failures = Failures()
    rows = failures.watch(rows)
    labels = list(words or classifier.labels)
    if options.format == "json":
        lines = json_lines(
            {
                "path": row.path,
                "label": row.label,
                "score": _rounded(row.score),
                "probabilities": {k: _rounded(p) for k, p in row.probabilities.items()},
                "error": row.error,
            }
            for row in rows
        )
    elif options.format == "csv":
        lines = csv_lines(
            ["path", "label", "score", "error", *(f"probability_{name}" for name in labels)],
            (
                [row.path, row.label, _rounded(row.score), row.error, *_probabilities(row, labels)]
                for row in rows
            ),
        )
    else:
        columns = [("label", -_widest(labels)), *((name, 5) for name in labels), ("file", -1)]
        lines = table_lines(
            columns, ([row.label, *_probabilities(row, labels), row.path] for row in rows)
        )
    _print(lines, out)
    return failures.status


def timeline(options: Namespace, out: TextIO) -> int:
    """Print, and draw, the classes along one recording."""
    if options.output is not None and Path(options.output).suffix.lower() != ".png":
        raise CommandError(f"--output: expected a file that ends in .png, found {options.output}.")
    classifier = load_classifier(options)
    words = words_by_label(options.labels, classifier)
    from gemoclap_sb.data.audio import AudioError
    from gemoclap_sb.inference.timeline import draw_timeline
    from gemoclap_sb.inference.timeline import timeline as classify_windows

    try:
        with misuse():
            found = classify_windows(
                classifier, options.file, options.window, options.hop, words, options.templates
            )
    except AudioError as error:
        print(error, file=sys.stderr)
        return 1
    if options.output is not None:
        draw_timeline(found, options.output)
        print(f"Drawn: {options.output}", file=sys.stderr)
    if options.format == "json":
        windows = [
            row
            | {
                "score": _rounded(row["score"]),
                "probabilities": {k: _rounded(p) for k, p in row["probabilities"].items()},
            }
            for row in found.rows()
        ]
        _print(json_lines(windows), out)
        return 0
    cells = (
        [*map(_rounded, (row["start"], row["end"])), row["label"]]
        + ([_rounded(row["score"])] if options.format == "csv" else [])
        + [_rounded(p) for p in row["probabilities"].values()]
        for row in found.rows()
    )
    if options.format == "csv":
        names = [f"probability_{name}" for name in found.labels]
        _print(csv_lines(["start", "end", "label", "score", *names], cells), out)
    else:
        columns = [("start", 9), ("end", 9), ("label", -_widest(found.labels))]
        _print(table_lines(columns + [(name, 5) for name in found.labels], cells), out)
    return 0


def embed(options: Namespace, out: TextIO) -> int:
    """Write the embeddings of recordings, and which row is whose."""
    output = Path(options.output)
    if output.suffix not in (".npy", ".parquet"):
        raise CommandError(
            f"--output: expected a file that ends in .npy or .parquet, found {output}."
        )
    if output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise CommandError(
            "--output: Parquet files need pyarrow, which is not installed. Install it with "
            "`pip install 'gemoclap_sb[parquet]'`, or write a .npy file."
        )
    paths = find_audio(options.inputs)
    classifier = load_classifier(options)
    failures = Failures()
    names, vectors = [], []
    for row in failures.watch(classifier.encode_files(paths, batch_size=options.batch_size)):
        if row.embedding is not None:
            names.append(row.path)
            vectors.append(row.embedding.numpy())
    if not names:
        print(f"Nothing to write into {output}: no file could be read.", file=sys.stderr)
        return failures.status
    _write_embeddings(output, names, vectors)
    print(f"{output}: {len(names)} embeddings of size {len(vectors[0])}", file=sys.stderr)
    return failures.status


def evaluate(options: Namespace, out: TextIO) -> int:
    """Compare what the model says with a manifest's labels."""
    classifier = load_classifier(options)
    words = words_by_label(options.labels, classifier)
    from gemoclap_sb.evaluation.metrics import classification_metrics
    from gemoclap_sb.evaluation.report import draw_confusion, metrics_table

    labels, attribute = list(words or classifier.labels), classifier.attribute
    with misuse():
        rows, failed = _read_utterances(options, attribute, labels)
        results = classifier.classify_files(
            [row["wav"] for row in rows.values()],
            words,
            options.templates,
            batch_size=options.batch_size,
        )
    failures = Failures(failed)
    answers = [
        (name, row[attribute], result)
        for (name, row), result in zip(rows.items(), failures.watch(results), strict=True)
        if result.label is not None
    ]
    if not answers:
        print(f"{options.manifest}: no utterance could be read.", file=sys.stderr)
        return failures.status
    index = {label: i for i, label in enumerate(labels)}
    metrics = classification_metrics(
        [index[true] for _, true, _ in answers],
        [index[result.label] for _, _, result in answers],
        labels,
    )
    prompts = classifier.prompts
    record = metrics.to_dict() | {
        "n_failed": failures.count,
        "attribute": attribute,
        "words": words or prompts.words[attribute],
        "templates": options.templates or prompts.templates[attribute],
        "model": str(options.model),
        "manifest": str(options.manifest),
    }
    if options.output is not None:
        from gemoclap_sb.files import write_json, write_text

        folder = Path(options.output)
        cells = [[name, true, found.label, _rounded(found.score)] for name, true, found in answers]
        lines = csv_lines(["ID", "true", "predicted", "score"], cells)
        write_text(folder / "predictions.csv", "\n".join(lines) + "\n")
        draw_confusion(metrics, folder / "confusion.png", f"Confusion matrix, {attribute}")
        write_json(folder / "metrics.json", record)
        print(f"Written: {folder}", file=sys.stderr)
    if options.format == "json":
        _print(_json(record), out)
    else:
        _print([metrics_table(metrics)], out)
    return failures.status


def export(options: Namespace, out: TextIO) -> int:
    """Write a run's model into a folder, and upload it if asked to; print where they are."""
    from huggingface_hub.utils import validate_repo_id

    if options.push_to_hub is not None:
        with misuse():
            validate_repo_id(options.push_to_hub)
    elif options.private:
        raise CommandError("--private: expected --push-to-hub beside it.")
    from gemoclap_sb.export.folder import ExportError
    from gemoclap_sb.export.folder import export as export_run
    from gemoclap_sb.export.hub import push_to_hub

    try:
        folder = export_run(
            options.run_folder,
            options.out_folder,
            overwrite=options.overwrite,
            name=options.name,
            license=options.license,
            datasets=options.datasets,
            language=options.language,
        )
    except ExportError as error:
        raise CommandError(str(error)) from error
    _print([str(folder)], out)
    if options.push_to_hub is None:
        return 0
    try:
        address = push_to_hub(folder, options.push_to_hub, private=options.private)
    # Whatever the network, the hub or a missing login raises, the export stands.
    except Exception as error:  # noqa: BLE001
        print(f"{folder} is written, but was not uploaded: {error}", file=sys.stderr)
        return 1
    _print([address], out)
    return 0


def info(options: Namespace, out: TextIO) -> int:
    """Print what an exported model is."""
    from gemoclap_sb.cli.model_info import info_lines, model_info

    with misuse():
        found = model_info(options.model)
    _print(_json(found) if options.format == "json" else info_lines(found), out)
    return 0


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
        raise CommandError(
            f"{options.manifest}: expected utterances whose {attribute} is one of "
            f"{', '.join(labels)}, found none."
        )
    if len(kept) < len(rows):
        print(f"Left out: {len(rows) - len(kept)} utterances of other labels.", file=sys.stderr)
    return kept, failed


def _write_embeddings(output: Path, names: list[str], vectors: list[Any]) -> None:
    import numpy as np

    from gemoclap_sb.files import atomic_path, write_text

    if output.suffix == ".parquet":
        import pandas as pd

        with atomic_path(output) as temporary:
            pd.DataFrame({"ID": names, "embedding": vectors}).to_parquet(temporary, index=False)
        return
    lines = csv_lines(["ID"], ([name] for name in names))
    write_text(output.with_suffix(".ids.csv"), "\n".join(lines) + "\n")
    with atomic_path(output) as temporary:
        np.save(temporary, np.stack(vectors))


def _print(lines: Iterable[str], out: TextIO) -> None:
    for line in lines:
        # Each at once: the next program in a pipe need not wait for the last file.
        print(line, file=out, flush=True)


def _json(record: Mapping[str, Any]) -> list[str]:
    import json

    return [json.dumps(record, indent=2, allow_nan=False)]


def _probabilities(row: Classification, labels: Sequence[str]) -> list[float | None]:
    return [_rounded(row.probabilities.get(name)) for name in labels]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)


def _widest(labels: Sequence[str]) -> int:
    return max(map(len, labels))
