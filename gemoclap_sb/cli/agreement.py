"""``gemoclap agreement``: how far each speaker's clusters follow the labels of a manifest."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gemoclap_sb.cli import inputs, output
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say, visible

if TYPE_CHECKING:
    from gemoclap_sb.evaluation.cluster_agreement import ClusterAgreement

SUMMARY = "how far each speaker's clusters follow emotion"
DESCRIPTION = (
    "Compare the clusters that `gemoclap cluster` has made with the labels of a manifest: "
    "normalised mutual information, adjusted Rand index and purity of each speaker, and each "
    "against labels that change places among the speaker's utterances. Utterances without a label "
    "are left out, and speakers with one label or one cluster alone."
)
EXAMPLES = """\
  gemoclap agreement clusters/ --manifest corpus.csv --output agreement/
  gemoclap agreement clusters/ --manifest corpus.csv --column style --output agreement/"""

FILES = (
    "agreement.csv",
    "agreement.md",
    "agreement.json",
    "agreement.png",
    "agreement_clusters.png",
)
_SHUFFLES = 1000


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("clusters", metavar="CLUSTERS", help="folder that `gemoclap cluster` has written")
    add("--manifest", metavar="CSV", required=True, help="CSV file with the columns ID and COLUMN")
    help = "the manifest's column of labels (default: emotion)"
    add("--column", metavar="COLUMN", default="emotion", help=help)
    help = f"how often each speaker's labels change places (default: {_SHUFFLES})"
    add("--shuffles", type=inputs.count, metavar="N", default=_SHUFFLES, help=help)
    add("--seed", type=inputs.seed, metavar="N", default=1, help="of the shuffles (default: 1)")
    help = f"where to write {', '.join(FILES[:-1])} and {FILES[-1]}"
    add("--output", metavar="FOLDER", required=True, help=help)


def run(options: Namespace, out: TextIO) -> int:
    """Compare, write and print."""
    folder = check_folder("--output", options.output, FILES, [options.manifest])
    from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    from gemoclap_sb.evaluation.cluster_agreement_report import agreement_summary, left_out_lines

    speakers, clusters, labels = _joined(options)
    try:
        found = cluster_agreement(speakers, clusters, labels, options.shuffles, options.seed)
    except ValueError as error:
        raise UsageError(f"{options.clusters}, {options.column}: {error}") from error
    summary = agreement_summary(found)
    given = {name: getattr(options, name) for name in ("clusters", "manifest", "column")}
    try:
        _write(folder, found, given | summary)
    finally:
        # What was found is printed, whatever becomes of the files.
        output.print_lines([*_table(summary), *map(visible, left_out_lines(found))], out)
    return 0


def _joined(options: Namespace) -> tuple[Any, Any, Any]:
    """Give the speaker, the cluster and the label of each utterance, arrays of N."""
    import numpy as np
    import pandas as pd

    from gemoclap_sb.data.speaker_clusters import read_clusters

    with usage_errors():
        clusters = read_clusters(options.clusters)
        labels = _labels(options.manifest, options.column)
    names = [name for table in clusters.tables for name in table.column("ID").to_pylist()]
    rows = pd.Index(list(labels)).get_indexer(names)
    if (rows < 0).any():
        lost = np.flatnonzero(rows < 0)
        raise UsageError(
            f"{options.clusters} is of another manifest: {len(lost)} of its {len(names)} "
            f"utterances are not in {options.manifest}, first {names[lost[0]]!r}."
        )
    speaker, cluster = clusters.of(np.arange(len(names)))
    called = np.array(clusters.speakers, dtype=object)
    return called[speaker], cluster, np.array(list(labels.values()), dtype=object)[rows]


def _labels(manifest: str, column: str) -> dict[str, str]:
    """Read the labels by ID; ManifestError if the manifest lacks the column or repeats an ID."""
    from gemoclap_sb.data.csv_rows import ManifestError, read_records, summary

    path = Path(manifest)
    records, problems = read_records(path, ("ID", column))
    labels: dict[str, str] = {}
    for record in records:
        name = record.cells["ID"]
        if name in labels:
            problems.append(f"{record.where}: duplicate ID, used before")
        labels[name] = record.cells[column]
    if problems:
        raise ManifestError(summary(path, problems))
    return labels


def _table(summary: dict[str, Any]) -> Iterator[str]:
    """Lay the means out for the terminal."""
    from gemoclap_sb.evaluation.cluster_agreement_report import (
        TITLES,
        interval_text,
        number_text,
        p_text,
    )

    speakers, alpha = summary["speakers"], summary["alpha"]
    columns = [
        (f"mean of {speakers}", -9),
        ("measured", 8),
        ("95 % interval", 16),
        ("shuffled", 8),
        ("95 % interval", 16),
        ("p", 6),
        (f"speakers with p < {alpha:g}", 6),
    ]
    rows = [
        [
            TITLES[name],
            number_text(found["mean"]),
            interval_text(found["interval"]) or None,
            number_text(found["shuffled"]),
            interval_text(found["shuffled_interval"]),
            p_text(found["p"]),
            f"{found['speakers_with_p_below_alpha']} of {speakers}",
        ]
        for name, found in summary["measures"].items()
    ]
    yield from output.table_lines(columns, rows)


def _write(folder: Path, found: ClusterAgreement, record: dict[str, Any]) -> None:
    from gemoclap_sb.evaluation.cluster_agreement_figure import draw_agreement, draw_clusters
    from gemoclap_sb.evaluation.cluster_agreement_report import agreement_markdown, agreement_rows
    from gemoclap_sb.files import write_json, write_text

    table, text, figures, picture, of_clusters = (folder / name for name in FILES)
    title = f"How far speakers' clusters follow {record['column']}"
    rows = list(map(output.rounded, agreement_rows(found)))
    with writing(table):
        lines = output.csv_lines(list(rows[0]), (row.values() for row in rows))
        write_text(table, "".join(f"{line}\n" for line in lines))
    with writing(picture):
        draw_agreement(found, picture, title)
    with writing(of_clusters):
        draw_clusters(found, of_clusters, f"What clusters hold: {record['column']}")
    pictures = [("Measured, and shuffled", picture.name), ("Each cluster", of_clusters.name)]
    with writing(text):
        write_text(text, agreement_markdown(found, title, pictures))
    with writing(figures):
        write_json(figures, record)
    say(f"Written: {folder}")
