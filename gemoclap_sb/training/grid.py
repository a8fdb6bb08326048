"""A table of results in one command: objectives x encoders x seeds, each cross-validated.

An experiment is named by its YAML, ``hparams/{objective}_{encoder}.yaml`` beside the recipe's
``train.py``. The runs of an encoder come one after another, all objectives of a seed first, so
that rows of the table are soon whole. The tables are written after every run, from what is
there; a run that fails stops no other, and the end tells of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.evaluation.comparison import Cell, Comparison, FoldScore, Published
from gemoclap_sb.evaluation.comparison_figure import draw_comparison
from gemoclap_sb.evaluation.comparison_tables import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
)
from gemoclap_sb.files import write_text
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

# What the grid itself says to each run, and the options that say it to the grid.
OWN_KEYS = {
    "seed": "--seeds",
    "fold": "cross-validation, which runs all folds",
    "experiment": "--objectives and --encoders",
}


@dataclass(frozen=True)
class Table:
    """What a recipe's table is about.

    ``name`` is that of its files, ``objectives`` and ``encoders`` are those of the whole table,
    ``names`` what they are called in print, ``published`` what stands beside our figures.
    """

    name: str
    title: str
    objectives: Sequence[str]
    encoders: Sequence[str]
    names: Mapping[str, str]
    published: Published | None = None


@dataclass(frozen=True)
class GridRun(CrossValidation):
    """One cross-validation of a grid, and its place there."""

    objective: str
    encoder: str
    seed: int


def main(train_script: Path, table: Table, argv: Sequence[str] | None = None) -> int:
    """Run a grid from the command line and write its tables.

    Parameters
    ----------
    train_script : Path
        The recipe's ``train.py``, beside which ``hparams/`` lies.
    table : Table
        Which objectives and encoders there are, and what their table is called.
    argv : Sequence[str], optional
        Command line; by default the process's. What is no option of the grid goes on to every
        run whose YAML has that key.

    Returns
    -------
    int
        Exit status: 0; 1 if a run failed; 2 if the grid could not start as asked.
    """
    options, passed = _parser(table).parse_known_args(sys.argv[1:] if argv is None else argv)

    def planned() -> tuple:
        runs = plan(train_script, options, passed)
        return runs, lambda: write_tables(runs, Path(options.output_folder), table)

    return conduct(train_script, options, planned)


def plan(train_script: Path, options: argparse.Namespace, passed: Sequence[str]) -> list[GridRun]:
    """List the runs of a grid in their order, and refuse what could not run.

    ExperimentError if an experiment has no YAML, an option is a key of none, or no data are
    given.
    """
    experiments = {
        (objective, encoder): experiment(train_script, f"{objective}_{encoder}")
        for encoder in options.encoders
        for objective in options.objectives
    }
    given = set(
        check_keys(passed, {path.stem: keys for path, keys in experiments.values()}, OWN_KEYS)
    )
    sources = _audio_sources(options.audio_source, options.encoders)
    runs = []
    for encoder in options.encoders:
        for seed in options.seeds:
            for objective in options.objectives:
                path, keys = experiments[objective, encoder]
                folder = Path(options.output_folder) / path.stem / f"seed_{seed}"
                own = ["--seed", str(seed), "--output_folder", str(folder)]
                if encoder in sources:
                    own += ["--audio_source", sources[encoder]]
                argv = [*without(passed, given - keys), *own]
                settings = resolved(path, argv)
                if not (options.list or options.tables_only):
                    check_data(settings)
                folds = int(settings["number_of_folds"])
                called = f"{path.stem}, seed {seed}"
                run = called, folder, folds, [str(path), *argv]
                runs.append(GridRun(*run, objective, encoder, seed))
    return runs


def write_tables(runs: Sequence[GridRun], folder: Path, table: Table) -> list[Path]:
    """Write tables and picture of what the runs have finished; their paths, Markdown first."""
    scores: dict[tuple[str, str], dict[int, list[FoldScore | None]]] = {}
    for run in runs:
        scores.setdefault((run.objective, run.encoder), {})[run.seed] = run.scores()
    # The table goes by objectives, the runs by encoders.
    objectives = list(dict.fromkeys(run.objective for run in runs))
    rows = sorted(scores, key=lambda row: objectives.index(row[0]))
    cells = [Cell(*row, scores[row]) for row in rows]
    comparison = Comparison(cells, table.published, table.names)
    paths = [folder / f"{table.name}.{ending}" for ending in ("md", "csv", "tex", "png")]
    texts = [
        comparison_markdown(comparison, table.title, picture=paths[-1].name),
        comparison_csv(comparison),
        comparison_latex(comparison, table.title, table.name),
    ]
    for path, text in zip(paths, texts, strict=False):
        write_text(path, text)
    draw_comparison(comparison, paths[-1], table.title)
    return paths


def _parser(table: Table) -> argparse.ArgumentParser:
    # Abbreviations would take keys of the YAMLs for options: --seed for --seeds.
    parser = OneLineParser(
        description=f"{table.title}: runs what is missing and writes {table.name}.md, .csv, .tex "
        "and .png. Any other option is a key of the experiments' YAMLs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    for name in ("objectives", "encoders"):
        every = getattr(table, name)
        add(f"--{name}", type=listed_names, default=list(every), help=",".join(every))
    add("--seeds", type=listed_seeds, default=[1, 2, 3], help="1,2,3")
    add("--audio_source", help="ENCODER=PATH,ENCODER=PATH: hub ids or folders")
    add_options(parser, f"results/{table.name}")
    return parser


def _audio_sources(text: str | None, encoders: Sequence[str]) -> dict[str, str]:
    """Read ``wavlm=PATH,hubert=PATH``; a path alone is that of the only encoder."""
    if text is None:
        return {}
    if "=" not in text:
        if len(encoders) > 1:
            raise ExperimentError(
                f"--audio_source {text} would give {', '.join(encoders)} the same weights: give "
                f"--audio_source {','.join(f'{encoder}=PATH' for encoder in encoders)}."
            )
        return {encoders[0]: text}
    sources = dict(part.split("=", 1) if "=" in part else (part, "") for part in text.split(","))
    for encoder, source in sources.items():
        if encoder not in encoders or not source:
            raise ExperimentError(
                f"--audio_source {text}: expected ENCODER=PATH with commas between, an encoder "
                f"being one of {', '.join(encoders)}; found {encoder!r}."
            )
    return sources
