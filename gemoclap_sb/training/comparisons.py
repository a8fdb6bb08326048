"""Settings of a recipe compared in one command: groups of rows, each row cross-validated.

A row is an experiment's YAML and what it changes there. Rows of the same settings are one run,
whichever groups they stand in. The tables are written after every run, from what is there; a run
that fails stops no other, and the end tells of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.evaluation.comparison import Cell, Comparison
from gemoclap_sb.evaluation.comparison_figure import draw_groups
from gemoclap_sb.evaluation.comparison_tables import groups_csv, groups_markdown
from gemoclap_sb.files import write_text
from gemoclap_sb.training.run_folder import UNRECORDED
from gemoclap_sb.training.runs import (
    CrossValidation,
    add_options,
    check_data,
    check_keys,
    conduct,
    experiment,
    listed_names,
    listed_seeds,
    resolved,
    without,
)
from gemoclap_sb.training.settings import ExperimentError

# What this itself says to each run, and who says it to this.
OWN_KEYS = {
    "seed": "--seeds",
    "fold": "cross-validation, which runs all folds",
    "experiment": "the rows",
}


@dataclass(frozen=True)
class Row:
    """One setting: what a table calls it, the experiment's YAML by its stem, what it changes there.

    Examples
    --------
    >>> Row("Emo-CLAP", "ravdess_scratch", {"alpha_e": 1.0}).options
    ['--alpha_e', '1.0']
    """

    label: str
    yaml: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """The changes as a command line; JSON is YAML too."""
        return [
            part
            for key, value in self.changes.items()
            for part in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
        ]


@dataclass(frozen=True)
class Group:
    """Rows that are compared with the first of them, each with these seeds."""

    title: str
    seeds: Sequence[int]
    rows: Sequence[Row]

    def name(self, row: Row) -> str:
        """Name a row of the group for folders and command lines.

        Examples
        --------
        >>> row = Row("SL-GEmo-CLAP", "ravdess_scratch")
        >>> Group("objective", (1, 2), [row]).name(row)
        'objective_sl_gemo_clap'
        """
        return re.sub(r"[^a-z0-9.]+", "_", f"{self.title}_{row.label}".lower()).strip("_")


@dataclass(frozen=True)
class Comparisons:
    """What a recipe compares: the name of its files, their title, the groups in their order.

    ``draw`` makes the picture: `draw_groups`, or another of its arguments.
    """

    name: str
    title: str
    groups: Sequence[Group]
    draw: Callable[[Mapping[str, Comparison], Path, str], Path] = draw_groups


def main(train_script: Path, comparisons: Comparisons, argv: Sequence[str] | None = None) -> int:
    """Run comparisons from the command line and write their table and picture.

    Parameters
    ----------
    train_script : Path
        The recipe's ``train.py``, beside which ``hparams/`` lies.
    comparisons : Comparisons
        What is compared.
    argv : Sequence[str], optional
        Command line; by default the process's. What is no option of this command goes on to
        every run whose YAML has that key.

    Returns
    -------
    int
        Exit status: 0; 1 if a run failed; 2 if it could not start as asked.
    """
    parser = _parser(comparisons)
    options, passed = parser.parse_known_args(sys.argv[1:] if argv is None else argv)

    def planned() -> tuple:
        runs = plan(train_script, comparisons, options, passed)
        chosen = list(
            {run.called: run for run in _chosen(runs, comparisons, options.only)}.values()
        )
        shown = _shown(comparisons, options.only) if options.tables_only else comparisons
        return chosen, lambda: write_tables(runs, Path(options.output_folder), shown)

    return conduct(train_script, options, planned)


Runs = dict[tuple[str, str], dict[int, CrossValidation]]


def plan(
    train_script: Path,
    comparisons: Comparisons,
    options: argparse.Namespace,
    passed: Sequence[str],
) -> Runs:
    """Give the runs of each group and row, by seed; rows of the same settings share theirs.

    ExperimentError if an experiment has no YAML, an option is a key of none or of a row that
    is to run, ``--only`` names what is not there, or no data are given.
    """
    rows = [(group, row) for group in comparisons.groups for row in group.rows]
    known = {group.title for group, _ in rows} | {group.name(row) for group, row in rows}
    if unknown := [name for name in options.only or () if name not in known]:
        raise ExperimentError(
            f"--only {unknown[0]}: expected groups or rows of {', '.join(sorted(known))}."
        )
    experiments = {row.yaml: experiment(train_script, row.yaml) for _, row in rows}
    own_keys = OWN_KEYS | {
        key: f"the rows of {group.title}"
        for group, row in rows
        if _named(group, row, options.only)
        for key in row.changes
    }
    given = set(check_keys(passed, {n: keys for n, (_, keys) in experiments.items()}, own_keys))
    names: dict[str, str] = {}
    runs: Runs = {}
    for group, row in rows:
        path, keys = experiments[row.yaml]
        argv = [*without(passed, (given - keys) | set(row.changes)), *row.options]
        settings = resolved(path, argv)
        if not (options.list or options.tables_only):
            check_data(settings)
        kept = {key: value for key, value in settings.items() if key not in UNRECORDED}
        name = names.setdefault(json.dumps(kept, sort_keys=True), group.name(row))
        for seed in options.seeds or group.seeds:
            folder = Path(options.output_folder) / name / f"seed_{seed}"
            own = ["--seed", str(seed), "--output_folder", str(folder)]
            runs.setdefault((group.title, row.label), {})[seed] = CrossValidation(
                f"{name}, seed {seed}",
                folder,
                int(settings["number_of_folds"]),
                [str(path), *argv, *own],
            )
    return runs


def write_tables(runs: Runs, folder: Path, comparisons: Comparisons) -> list[Path]:
    """Write table and picture of what the runs have finished; their paths, Markdown first."""
    groups = {}
    for group in comparisons.groups:
        cells = []
        for row in group.rows:
            of_seeds = runs[group.title, row.label]
            scores = {seed: run.scores() for seed, run in of_seeds.items()}
            cells.append(Cell(row.label, group.title, scores))
        groups[group.title] = Comparison(cells)
    paths = [folder / f"{comparisons.name}.{ending}" for ending in ("md", "csv", "png")]
    write_text(paths[0], groups_markdown(groups, comparisons.title, picture=paths[-1].name))
    write_text(paths[1], groups_csv(groups))
    comparisons.draw(groups, paths[-1], comparisons.title)
    return paths


def _chosen(
    runs: Runs, comparisons: Comparisons, only: Sequence[str] | None
) -> list[CrossValidation]:
    """Order the runs that ``--only`` names: seed by seed, so that the rows of a group are alike."""
    return [
        runs[group.title, row.label][seed]
        for group in comparisons.groups
        for seed in runs[group.title, group.rows[0].label]
        for row in group.rows
        if _named(group, row, only)
    ]


def _shown(comparisons: Comparisons, only: Sequence[str] | None) -> Comparisons:
    """Keep the groups of which ``--only`` names something."""
    groups = [of for of in comparisons.groups if any(_named(of, row, only) for row in of.rows)]
    return replace(comparisons, groups=groups)


def _named(group: Group, row: Row, only: Sequence[str] | None) -> bool:
    return only is None or bool({group.title, group.name(row)} & set(only))


def _parser(comparisons: Comparisons) -> argparse.ArgumentParser:
    # Abbreviations would take keys of the YAMLs for options: --seed for --seeds.
    parser = OneLineParser(
        description=f"{comparisons.title}: runs what is missing and writes {comparisons.name}.md, "
        ".csv and .png. Any other option is a key of the experiments' YAMLs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    groups = ",".join(group.title for group in comparisons.groups)
    help = f"run these alone, or with --tables_only show their groups alone: groups ({groups}) or "
    add("--only", type=listed_names, help=f"{help}rows, as listed")
    add("--seeds", type=listed_seeds, help="1,2: in place of those that each group has")
    add_options(parser, f"results/{comparisons.name}")
    return parser
