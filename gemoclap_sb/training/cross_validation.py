"""All folds of an experiment, each in a process of its own, and their summary.

A process a fold keeps the folds apart (memory, random state, a crash), and a
fold that has its ``metrics.json`` is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gemoclap_sb.data.manifests import printable
from gemoclap_sb.evaluation.assessment import assess_pooled
from gemoclap_sb.evaluation.figures import draw_cross_validation
from gemoclap_sb.evaluation.predictions import PREDICTIONS, Predictions
from gemoclap_sb.evaluation.report import (
    VALIDATION_NOTES,
    cross_validation_report,
    cross_validation_summary,
)
from gemoclap_sb.evaluation.uncertainty import NO_INTERVALS
from gemoclap_sb.files import clear_leftovers, write_json, write_text
from gemoclap_sb.training.command_line import checked_run_options, is_help, parse_arguments
from gemoclap_sb.training.fold_processes import Fold, run_folds
from gemoclap_sb.training.locks import lock_folder
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.run_folder import (
    METRICS,
    RUN,
    check_settings,
    is_finished,
    learning_options,
    read_record,
    recorded_manifest,
)
from gemoclap_sb.training.settings import ExperimentError, read_settings
from gemoclap_sb.training.split_manifests import check_data


def main(train_script: Path, argv: Sequence[str] | None = None) -> int:
    """Cross-validate from the command line.

    ``train_script`` is the recipe's ``train.py``; ``argv`` is the YAML and whatever ``train.py``
    takes, but ``--fold``, and ``--jobs N`` to run N folds side by side. Returns the exit status:
    0; 2 if it could not start as asked; else that of the fold that failed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--jobs", type=int, default=1)
    try:
        own, argv = parser.parse_known_args(argv)
        if is_help(argv):
            print("--jobs N: so many folds side by side. All other options are those of train.py:")
        return cross_validate(train_script, argv, own.jobs)
    except (ExperimentError, argparse.ArgumentError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2


def cross_validate(train_script: Path, argv: Sequence[str], jobs: int = 1) -> int:
    """Run the folds that are not finished, then write the summary; arguments of `main`.

    Writes ``fold_1/`` to ``fold_N/``, the pooled ``predictions.csv``, ``cv_metrics.json``,
    ``cv_report.md`` and ``cv_folds.png`` into the experiment's ``run_folder``, or into
    ``--output_folder`` where that is given. ``jobs`` folds run at a time (`run_folds`).
    ExperimentError for what `plan` refuses.
    """
    check_jobs(jobs)
    planned = plan(train_script, argv)
    try:
        if failed := run_folds(planned.missing, jobs):
            return next(iter(failed.values()))
        planned.summarize()
    finally:
        planned.close()
    return 0


def check_jobs(jobs: int) -> None:
    """Refuse a number of folds at a time that cannot be; ExperimentError."""
    if jobs < 1:
        raise ExperimentError(f"--jobs: expected 1 or more, found {jobs}.")


@dataclass(frozen=True)
class Plan:
    """What a cross-validation still has to do: the folds that are missing, then the summary.

    No other may work in its folder meanwhile, until `close` or the end of the process.
    """

    missing: list[Fold]
    summarize: Callable[[], None]
    close: Callable[[], object] = lambda: None


def plan(train_script: Path, argv: Sequence[str], called: str = "") -> Plan:
    """Find what is missing; arguments of `main`, without ``--jobs``.

    ``called`` is what messages call this run, where there are several. ExperimentError if
    ``--fold`` is given, a finished fold has other settings, or another process is at work there.
    """
    hparams_file, run_opts, overrides = parse_arguments(argv)
    if "fold" in overrides:
        raise ExperimentError("cross-validation runs all folds: leave --fold out.")
    given = completed(hparams_file, overrides)
    if "--debug" in argv:
        raise ExperimentError("a debug run has no result to sum up: run train.py with --debug.")
    settings = read_settings(hparams_file, given)
    checked_run_options(run_opts, settings)
    if settings.get("stage"):
        raise ExperimentError("cross-validation runs all stages of a fold: leave --stage out.")
    manifests = [key for key in ("train_csv", "valid_csv", "test_csv") if settings.get(key)]
    if manifests:
        raise ExperimentError(
            f"--{manifests[0]}: manifests of your own are one split, so there are no folds to "
            "run; use train.py, once for each split, or give one --manifest of all."
        )
    root = Path(given.get("output_folder") or settings["run_folder"])
    passed = _without_option(argv, "--output_folder")
    total = int(settings["number_of_folds"])
    folders = [root / f"fold_{fold}" for fold in range(1, total + 1)]

    def of_fold(fold: int, more: Mapping[str, Any] = {}) -> dict[str, Any]:
        changed = completed(hparams_file, {**overrides, **more}) if more else given
        place = {"fold": fold, "output_folder": str(folders[fold - 1])}
        return read_settings(hparams_file, {**changed, **place})

    if not all(map(is_finished, folders)):
        check_data(settings)
    lock = lock_folder(root)
    try:
        clear_leftovers(root)
    except OSError as error:
        raise ExperimentError(f"{root}: {error}") from error
    missing = []
    for fold, folder in enumerate(folders, start=1):
        if is_finished(folder):
            options = learning_options(run_opts, settings)
            check_settings(folder, of_fold(fold), options, partial(of_fold, fold))
            print(f"fold {fold}: finished before, in {folder}", flush=True)
        else:
            own = ["--fold", str(fold), "--output_folder", str(folder)]
            command = (sys.executable, str(train_script), *passed, *own)
            missing.append(Fold(fold, total, folder, command, called))
    return Plan(
        missing,
        lambda: _write_summary(root, folders, hparams_file, settings, train_script, argv),
        lock.release,
    )


def _write_summary(
    root: Path,
    folders: Sequence[Path],
    hparams_file: str,
    settings: dict,
    train_script: Path,
    argv: Sequence[str],
) -> None:
    results = [
        {**read_record(folder / METRICS), "seconds": read_record(folder / RUN)["seconds"]}
        for folder in folders
    ]
    run = read_record(folders[0] / RUN)
    machine = (
        f"Machine: {run['device']}, {run['cpu_cores']} CPU cores; "
        + ", ".join(f"{name} {number}" for name, number in run["packages"].items())
        + f"; Python {run['python']}."
    )
    # A preparation of the user's own may have a way of its own.
    validation = results[0]["validation"]
    notes = dict.fromkeys(note for result in results for note in result["notes"])
    # Of a fold; the pooled test set has more speakers.
    notes.pop(NO_INTERVALS, None)
    summary = cross_validation_summary(
        results, validation=validation if validation in VALIDATION_NOTES else None, notes=notes
    )
    summary |= pool_folds(root, folders, results)
    title = f"{settings['experiment']}, cross-validation"
    picture = draw_cross_validation(summary, root / "cv_folds.png", title)
    # A script that is no train.py runs its folds itself.
    script = "cross_validate.py" if train_script.name == "train.py" else train_script.name
    command = " ".join(["python", script, *argv])
    report = cross_validation_report(
        summary, settings["experiment"], [machine], command=command, picture=picture.name
    )
    write_text(root / "cv_report.md", report)
    write_json(root / "cv_metrics.json", summary)
    print(report)
    print(f"report: {root / 'cv_report.md'}")


def pool_folds(
    root: Path, folders: Sequence[Path], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write the folds' predictions as one file, and say how sure the pooled figures are.

    Each fold keeps the temperature of its own validation set. Nothing is written, and nothing
    said, where a fold was tested before predictions were kept, or its manifest is gone.
    """
    try:
        parts = [Predictions.read(folder / PREDICTIONS) for folder in folders]
        calibrations = [result["calibration"] for result in results]
        rows: dict[str, dict] = {}
        for folder in folders:
            rows |= recorded_manifest(folder)
        predictions, sureness = assess_pooled(parts, calibrations, rows)
    except (ValueError, KeyError, ExperimentError) as error:
        print(
            f"the folds' predictions are not pooled: {error} A fold's own command of train.py, "
            "given again, tests it again and writes them.",
            file=sys.stderr,
        )
        return {}
    predictions.write(root / PREDICTIONS)
    return sureness


def _without_option(argv: Sequence[str], option: str) -> list[str]:
    """Drop ``option VALUE`` and ``option=VALUE``."""
    kept, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(option + "="):
            kept.append(argument)
    return kept
