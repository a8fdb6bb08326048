"""A table of results in one command: objectives x encoders x seeds, each cross-validated.

An experiment is named by its YAML, ``hparams/{objective}_{encoder}.yaml`` beside the recipe's
``train.py``. The runs of an encoder come one after another, all objectives of a seed first, so
that rows of the table are soon whole. The tables are written after every run, from what is
there; a run that fails stops no other, and the end tells of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import speechbrain as sb
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gemoclap_sb.data.preparation import RECORD
from gemoclap_sb.evaluation.comparison import Cell, Comparison, FoldScore, Published
from gemoclap_sb.evaluation.comparison_figure import draw_comparison
from gemoclap_sb.evaluation.comparison_tables import (
    comparison_csv,
    comparison_latex,
    comparison_markdown,
)
from gemoclap_sb.evaluation.report import VALIDATION_NOTES
from gemoclap_sb.files import read_json, write_text
from gemoclap_sb.training import cross_validation
from gemoclap_sb.training.run_folder import METRICS, ExperimentError, read_settings

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
class GridRun:
    """One cross-validation of a grid: its folder, and what ``cross_validate.py`` is given."""

    objective: str
    encoder: str
    seed: int
    folder: Path
    number_of_folds: int
    argv: list[str]

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"{self.objective}_{self.encoder}, seed {self.seed}"

    def scores(self) -> list[FoldScore | None]:
        """Read the results of its folds, None for one that is not finished."""
        return [
            _read_score(self.folder / f"fold_{fold}") for fold in range(1, self.number_of_folds + 1)
        ]


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
    folder = Path(options.output_folder)
    try:
        runs = plan(train_script, options, passed)
        if options.list:
            print("\n".join(map(_listed, runs)))
            return 0
        # Now, too: what cannot be read is told before anything is trained.
        paths = write_tables(runs, folder, table)
        failed = []
        if not options.tables_only:
            failed = run_all(train_script, runs, lambda: write_tables(runs, folder, table))
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(paths[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
    if failed:
        print(
            f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}. "
            "The same command goes on from there.",
            file=sys.stderr,
        )
    return 1 if failed else 0


def plan(train_script: Path, options: argparse.Namespace, passed: Sequence[str]) -> list[GridRun]:
    """List the runs of a grid in their order, and refuse what could not run.

    ExperimentError if an experiment has no YAML, an option is a key of none, or no data are
    given.
    """
    experiments = {
        (objective, encoder): _experiment(train_script, f"{objective}_{encoder}")
        for encoder in options.encoders
        for objective in options.objectives
    }
    given = _check_keys(passed, {path.stem: keys for path, keys in experiments.values()})
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
                argv = [*_without(passed, given - keys), *own]
                settings = read_settings(path, _overrides(argv))
                if not (options.list or options.tables_only):
                    _check_data(settings.get("data_folder"))
                argv += [] if options.jobs is None else ["--jobs", options.jobs]
                folds = int(settings["number_of_folds"])
                runs.append(GridRun(objective, encoder, seed, folder, folds, [str(path), *argv]))
    return runs


def run_all(
    train_script: Path, runs: Sequence[GridRun], after_each: Callable[[], object]
) -> list[str]:
    """Cross-validate each run, call ``after_each``, and say which runs failed, and how."""
    failed = []
    for number, run in enumerate(runs, start=1):
        finished = None not in run.scores()
        state = " (finished before)" if finished else ""
        print(f"run {number} of {len(runs)}: {run.called}{state}", flush=True)
        # A finished one goes there too, to be refused if its settings are others; its report
        # was printed when it ran.
        quiet = contextlib.redirect_stdout(io.StringIO()) if finished else contextlib.nullcontext()
        try:
            with quiet:
                status = cross_validation.main(train_script, run.argv)
        except Exception:
            # Whatever it is, the other runs have days of work to do.
            traceback.print_exc()
            status = 1
        if status:
            failed.append(f"{run.called} (exit status {status})")
        after_each()
    return failed


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
    try:
        texts = [
            comparison_markdown(comparison, table.title, picture=paths[-1].name),
            comparison_csv(comparison),
            comparison_latex(comparison, table.title, table.name),
        ]
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    try:
        for path, text in zip(paths, texts, strict=False):
            write_text(path, text)
        draw_comparison(comparison, paths[-1], table.title)
    except OSError as error:
        raise ExperimentError(f"--output_folder: {error}") from error
    return paths


def _parser(table: Table) -> argparse.ArgumentParser:
    # Abbreviations would take keys of the YAMLs for options: --seed for --seeds.
    parser = argparse.ArgumentParser(
        description=f"{table.title}: runs what is missing and writes {table.name}.md, .csv, .tex "
        "and .png. Any other option is a key of the experiments' YAMLs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    for name in ("objectives", "encoders"):
        every = getattr(table, name)
        add(f"--{name}", type=_listed_names, default=list(every), help=",".join(every))
    add("--seeds", type=_listed_seeds, default=[1, 2, 3], help="1,2,3")
    add("--audio_source", help="ENCODER=PATH,ENCODER=PATH: hub ids or folders")
    add("--output_folder", default=f"results/{table.name}", help=f"results/{table.name}")
    add("--jobs", help="folds side by side, as cross_validate.py takes it")
    add("--list", action="store_true", help="list the runs and what is finished, and end")
    add("--tables_only", action="store_true", help="write the tables from what is there")
    return parser


def _listed_names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, found {text!r}")
    return names


def _listed_seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(name) for name in _listed_names(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas between, found {text!r}"
        ) from error


def _listed(run: GridRun) -> str:
    """Say of a run how much of it is finished, and where it is."""
    scores = run.scores()
    there = len(scores) - scores.count(None)
    state = "finished" if there == len(scores) else "begun   " if there else "missing "
    return f"{state}  {there} of {len(scores)} folds  {run.called}  {run.folder}"


def _experiment(train_script: Path, name: str) -> tuple[Path, set[str]]:
    """Find an experiment's YAML and the keys that it has."""
    path = train_script.parent / "hparams" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise ExperimentError(
            f"no experiment {path}: expected objective and encoder of one of {there}."
        )
    return path, set(read_settings(path))


def _check_keys(passed: Sequence[str], keys: Mapping[str, set[str]]) -> set[str]:
    """Give the YAML keys among options, each of which some experiment must have."""
    given = _overrides(passed)
    for key in given:
        if key in OWN_KEYS:
            raise ExperimentError(f"--{key} is left to {OWN_KEYS[key]}.")
        lacking = [name for name, known in keys.items() if key not in known]
        if len(lacking) == len(keys):
            every = ", ".join(sorted(set().union(*keys.values())))
            raise ExperimentError(f"--{key} is no key of {', '.join(lacking)}. Keys: {every}.")
        if lacking:
            print(f"note: {', '.join(lacking)} run without --{key}, no key of theirs.")
    return set(given)


def _check_data(folder: str | None) -> None:
    """Refuse what would let every run fail."""
    if not folder:
        raise ExperimentError("no data: give --data_folder (the corpus's folder).")
    if not Path(folder).is_dir():
        raise ExperimentError(f"--data_folder: no folder {folder} (seen from {Path.cwd()}).")


def _overrides(options: Sequence[str]) -> dict:
    """Read the YAML keys among options; those of SpeechBrain are none."""
    _, _, text = sb.parse_arguments(["no.yaml", *options])
    try:
        given = YAML(typ="safe").load(text) or {}
    except YAMLError as error:
        given = error
    if not isinstance(given, dict):
        raise ExperimentError(f"expected --key value, each key once; found {' '.join(options)}.")
    return given


def _without(options: Sequence[str], keys: set[str]) -> list[str]:
    """Leave out ``--key value`` and ``--key=value``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for key in keys:
        parser.add_argument(f"--{key}")
    return parser.parse_known_args(options)[1]


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


def _read_score(folder: Path) -> FoldScore | None:
    """Read the result of a fold; ExperimentError if it is damaged."""
    path = folder / METRICS
    if not path.is_file():
        return None
    try:
        metrics = read_json(path)
        chosen = VALIDATION_NOTES.get(metrics.get("validation"))
        return FoldScore(
            war=metrics["war"],
            uar=metrics["uar"],
            n_test=metrics["n_test"],
            n_train=_n_train(folder),
            notes=tuple(filter(None, [chosen, *metrics.get("notes", [])])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"{path} is no result of a fold ({error!r}): delete {folder} to run the fold again."
        ) from error


def _n_train(folder: Path) -> int | None:
    """Read how many utterances trained a fold; None if its preparation left no record."""
    try:
        return read_json(folder / "manifests" / RECORD)["counts"]["train"]["utterances"]
    except (FileNotFoundError, KeyError):
        return None
