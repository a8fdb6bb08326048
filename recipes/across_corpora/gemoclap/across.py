#!/usr/bin/env python3
"""What carries over from one corpus to the other: all runs, and their tables, in one command.

    python across.py --ravdess_folder FOLDER --nemo_folder FOLDER [--seeds 1,2,3] [--key value ...]

For each seed the protocols ``transfer`` (trained on one corpus, tested on the other) and
``both`` (trained on both, tested on unheard speakers of both). Writes ``across.md``,
``across.csv`` and ``across.png`` after every run; what is finished is not run again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from across_prepare import CLASSES, CORPORA, FOLDS, NEMO, RAVDESS, TESTED
from across_tables import Cell, Tables, draw, read_run

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.files import write_text
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.runs import (
    CrossValidation,
    add_options,
    check_keys,
    conduct,
    listed_seeds,
)
from gemoclap_sb.training.settings import ExperimentError, read_settings, told_permissions

HERE = Path(__file__).resolve().parent
HPARAMS = HERE / "hparams" / "across_scratch.yaml"
TABLES = "across"
FIGURES = ("uar", "war")
PROTOCOLS = ("transfer", "both")
OWN_KEYS = {
    "protocol": "this script, which runs transfer and both",
    "seed": "--seeds",
    "fold": "cross-validation, which runs all folds",
    "number_of_folds": "the protocol",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables; 0, 1 if a run failed, 2 if it could not start."""
    # Abbreviations would take keys of the YAML for options: --seed for --seeds.
    parser = OneLineParser(
        description=f"{__doc__.splitlines()[0]} Any other option is a key of {HPARAMS.name}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--seeds", type=listed_seeds, default=[1, 2, 3], help="1,2,3")
    add_options(parser, f"results/{TABLES}")
    for corpus in CORPORA:
        key = corpus.lower()
        help = f"folder with the seed_N of a cross-validation by the recipe of {corpus} alone"
        add(f"--{key}_runs", type=Path, metavar="FOLDER", help=help)
    options, passed = parser.parse_known_args(argv)
    root = Path(options.output_folder)
    within = {RAVDESS: options.ravdess_runs, NEMO: options.nemo_runs}

    def planned() -> tuple:
        settings = checked(passed, data=not (options.list or options.tables_only))
        if missing := [folder for folder in within.values() if folder and not folder.is_dir()]:
            raise ExperimentError(f"no folder {missing[0]} (seen from {Path.cwd()}).")
        classes = settings["classes"] or CLASSES
        runs = []
        for seed in options.seeds:
            for protocol in PROTOCOLS:
                folder = root / protocol / f"seed_{seed}"
                given = protocol_argv(passed, protocol, seed, folder)
                called = f"{protocol}, seed {seed}"
                runs.append(CrossValidation(called, folder, len(FOLDS[protocol]), given))
        return runs, lambda: write_tables(root, options.seeds, within, classes)

    return conduct(HERE / "train.py", options, planned)


@told_permissions()
def checked(passed: Sequence[str], data: bool = True) -> dict:
    """Read the settings of all runs; ExperimentError for a key or a corpus that cannot be."""
    keys = {HPARAMS.stem: set(read_settings(HPARAMS))}
    settings = read_settings(HPARAMS, completed(HPARAMS, check_keys(passed, keys, OWN_KEYS)))
    for corpus in CORPORA if data else ():
        key = f"{corpus.lower()}_folder"
        if not (settings[key] and Path(settings[key]).is_dir()):
            found = f"no folder {settings[key]} (seen from {Path.cwd()})"
            raise ExperimentError(f"--{key}: {found if settings[key] else 'not given'}.")
    return settings


def protocol_argv(passed: Sequence[str], protocol: str, seed: int, folder: Path) -> list[str]:
    """Give the command line of the cross-validation of one protocol with one seed."""
    own = {
        "--protocol": protocol,
        "--number_of_folds": str(len(FOLDS[protocol])),
        "--seed": str(seed),
        "--output_folder": str(folder),
    }
    return [str(HPARAMS), *passed, *(part for pair in own.items() for part in pair)]


def write_tables(
    root: Path, seeds: Sequence[int], within: dict[str, Path | None], classes: Sequence[str]
) -> list[Path]:
    """Write tables and picture of what is finished; their paths, Markdown first.

    ``classes`` are those of runs that are still to come.
    """
    tables = Tables(
        [
            Cell(
                trained,
                tested,
                {
                    seed: read_run(*_run(root, trained, tested, seed, within), tested)
                    for seed in seeds
                },
            )
            for trained in (*CORPORA, "both")
            for tested in CORPORA
        ],
        classes,
    )
    paths = [root / f"{TABLES}.{ending}" for ending in ("md", "csv", "png")]
    write_text(paths[0], tables.markdown(paths[-1].name))
    write_text(paths[1], tables.csv())
    draw(tables, paths[-1])
    return paths


def _run(
    root: Path, trained: str, tested: str, seed: int, within: dict[str, Path | None]
) -> tuple[Path | None, Sequence[int]]:
    """Find the cross-validation that tests a corpus, and its folds that do."""
    if trained == "both":
        return root / "both" / f"seed_{seed}", FOLDS["both"]
    if trained == tested:
        return within[trained] and within[trained] / f"seed_{seed}", CORPORA[tested]
    [fold] = [fold for fold, corpus in TESTED.items() if corpus == tested]
    return root / "transfer" / f"seed_{seed}", (fold,)


if __name__ == "__main__":
    sys.exit(main())
