"""Many cross-validations in one command: which are finished, what is missing, tables after each.

`gemoclap_sb.training.grid` and `gemoclap_sb.training.comparisons` say which runs there are and
what their tables are.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemoclap_sb.data.manifests import printable
from gemoclap_sb.data.preparation import RECORD
from gemoclap_sb.evaluation.comparison import FoldScore
from gemoclap_sb.evaluation.report import VALIDATION_NOTES
from gemoclap_sb.files import read_json
from gemoclap_sb.training import cross_validation
from gemoclap_sb.training.command_line import parse_arguments
from gemoclap_sb.training.fold_processes import Fold, run_folds
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.run_folder import METRICS, RUN
from gemoclap_sb.training.settings import ExperimentError, read_settings, told_permissions


@dataclass(frozen=True)
class CrossValidation:
    """One of many runs: what messages call it, its folder, what ``cross_validate.py`` is given."""

    called: str
    folder: Path
    number_of_folds: int
    argv: list[str]

    def scores(self) -> list[FoldScore | None]:
        """Read the results of its folds, None for one that is not finished."""
        return [
            _read_score(self.folder / f"fold_{fold}") for fold in range(1, self.number_of_folds + 1)
        ]


Write = Callable[[], list[Path]]


def conduct(
    train_script: Path,
    options: argparse.Namespace,
    plan: Callable[[], tuple[Sequence[CrossValidation], Write]],
) -> int:
    """Do what the options ask for: list the runs, or run them and write their tables.

    ``plan`` gives the runs in their order and what writes the tables, whose paths it returns,
    Markdown first; `add_options` makes the options. Returns the exit status: 0; 1 if a run failed;
    2 if they could not start as asked.
    """
    try:
        cross_validation.check_jobs(options.jobs)
        runs, write = plan()
        if options.list:
            print("\n".join(map(_listed, runs)))
            return 0
        # Now, too: what cannot be read is told before anything is trained.
        paths = _written(write)
        failed = []
        if not options.tables_only:
            failed = run_all(train_script, runs, options.jobs, lambda: _written(write))
    except ExperimentError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
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


def run_all(
    train_script: Path,
    runs: Sequence[CrossValidation],
    jobs: int,
    after_each: Callable[[], object],
) -> list[str]:
    """Run the missing folds of all runs, ``jobs`` at a time, and say which runs failed, and how.

    The folds of a run come before those of the next, and its summary is written, and
    ``after_each`` called, when it has all of its folds; ``after_each`` once more at the end.
    """
    failed: dict[str, int] = {}
    plans: dict[str, cross_validation.Plan] = {}
    done = 0
    for number, run in enumerate(runs, start=1):
        finished = None not in run.scores()
        state = " (finished before)" if finished else ""
        print(f"run {number} of {len(runs)}: {run.called}{state}", flush=True)
        # A finished one goes there too, to be refused if its settings are others; its report
        # was printed when it ran.
        quiet = contextlib.redirect_stdout(io.StringIO()) if finished else contextlib.nullcontext()
        with _recorded_failure(run.called, failed), quiet:
            planned = cross_validation.plan(train_script, run.argv, run.called)
            plans[run.called] = planned
            if not planned.missing:
                planned.summarize()
                done += 1
    waiting = [fold for planned in plans.values() for fold in planned.missing]
    missing = Counter(fold.run for fold in waiting)

    def one_less(fold: Fold) -> None:
        nonlocal done
        missing[fold.run] -= 1
        if missing[fold.run]:
            return
        with _recorded_failure(fold.run, failed):
            plans[fold.run].summarize()
            done += 1
            print(f"{done} of {len(runs)} runs finished: {fold.run}", flush=True)
        try:
            after_each()
        except ExperimentError as error:
            # Others are under way, and the end tries again.
            print(f"error: {printable(error)}", file=sys.stderr)

    failed |= run_folds(waiting, jobs, one_less)
    after_each()
    return [f"{called} (exit status {status})" for called, status in failed.items()]


@contextlib.contextmanager
def _recorded_failure(called: str, failed: dict[str, int]) -> Iterator[None]:
    """Record a run that cannot be done: whatever it is, the others have days of work to do."""
    try:
        yield
    except ExperimentError as error:
        print(f"error: {called}: {error}", file=sys.stderr)
        failed[called] = 2
    except Exception:
        print(f"{called}:", file=sys.stderr)
        traceback.print_exc()
        failed[called] = 1


def add_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options that `conduct` reads; ``folder`` is the default of ``--output_folder``."""
    add = parser.add_argument
    add("--output_folder", default=folder, help=folder)
    add("--jobs", type=int, default=1, help="folds side by side, of whichever runs")
    add("--list", action="store_true", help="list the runs and what is finished, and end")
    add("--tables_only", action="store_true", help="write the tables from what is there")


def listed_names(text: str) -> list[str]:
    """Read names with commas between, each once; the type of an option."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, found {text!r}")
    return names


def listed_seeds(text: str) -> list[int]:
    """Read whole numbers with commas between, each once; the type of an option."""
    try:
        return list(dict.fromkeys(int(name) for name in listed_names(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas between, found {text!r}"
        ) from error


def experiment(train_script: Path, name: str) -> tuple[Path, set[str]]:
    """Find an experiment's YAML beside a recipe's ``train.py``, and the keys that it has."""
    path = train_script.parent / "hparams" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise ExperimentError(f"no experiment {path}: expected one of {there}.")
    return path, set(read_settings(path))


def check_keys(
    passed: Sequence[str], keys: Mapping[str, set[str]], own_keys: Mapping[str, str]
) -> dict:
    """Read the YAML keys among options, each of which some experiment must have.

    ``keys`` are those of each experiment, ``own_keys`` say to whom a key is left that may not be
    given.
    """
    given = overrides(passed)
    for key in given:
        if key in own_keys:
            raise ExperimentError(f"--{key} is left to {own_keys[key]}.")
        lacking = [name for name, known in keys.items() if key not in known]
        if len(lacking) == len(keys):
            every = ", ".join(sorted(set().union(*keys.values())))
            raise ExperimentError(f"--{key} is no key of {', '.join(lacking)}. Keys: {every}.")
        if lacking:
            print(f"note: {', '.join(lacking)} run without --{key}, no key of theirs.")
    return given


@told_permissions()
def check_data(settings: Mapping[str, Any]) -> None:
    """Refuse what would let every run fail; a ``manifest`` has been read before."""
    folder = settings.get("data_folder")
    if not (folder or settings.get("manifest")):
        raise ExperimentError("no data: give --data_folder (the corpus's folder), or --manifest.")
    if folder and not Path(folder).is_dir():
        raise ExperimentError(f"--data_folder: no folder {folder} (seen from {Path.cwd()}).")


def overrides(options: Sequence[str]) -> dict:
    """Read the YAML keys among options; those of SpeechBrain are none."""
    return parse_arguments(["no.yaml", *options])[2]


def resolved(path: Path, options: Sequence[str]) -> dict:
    """Read an experiment's settings as a run with these options will have them."""
    return read_settings(path, completed(path, overrides(options)))


def without(options: Sequence[str], keys: set[str]) -> list[str]:
    """Leave out ``--key value`` and ``--key=value``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for key in keys:
        parser.add_argument(f"--{key}", nargs="?")
    return parser.parse_known_args(options)[1]


def _written(write: Write) -> list[Path]:
    """Write tables; ExperimentError if they cannot be made or written."""
    try:
        return write()
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    except OSError as error:
        raise ExperimentError(f"--output_folder: {error}") from error


def _listed(run: CrossValidation) -> str:
    """Say of a run how much of it is finished, and where it is."""
    scores = run.scores()
    there = len(scores) - scores.count(None)
    state = "finished" if there == len(scores) else "begun   " if there else "missing "
    return f"{state}  {there} of {len(scores)} folds  {run.called}  {run.folder}"


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
            # Whatever the train_share: it takes the same utterances of all folds, whose training
            # sets have as much in common as without it.
            n_train=_recorded(folder / "manifests" / RECORD, "counts", "train", "utterances"),
            notes=tuple(filter(None, [chosen, *metrics.get("notes", [])])),
            seconds=_recorded(folder / RUN, "seconds"),
            valid_uar=metrics.get("valid_uar"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"{path} is no result of a fold ({error!r}): delete {folder} to run the fold again."
        ) from error


def _recorded(path: Path, *keys: str) -> float | None:
    """Read a number of a record; None if there is no such record."""
    try:
        record = read_json(path)
        for key in keys:
            record = record[key]
        return record
    except (FileNotFoundError, KeyError):
        return None
