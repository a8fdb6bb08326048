"""An experiment that may begin: its command line and YAML read, its folder open."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speechbrain as sb
from filelock import BaseFileLock
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.files import clear_leftovers
from gemoclap_sb.training.command_line import checked_run_options, parse_arguments
from gemoclap_sb.training.launch import join_group, without_launch_flag
from gemoclap_sb.training.locks import lock_folder
from gemoclap_sb.training.overrides import check_complete, completed
from gemoclap_sb.training.processes import on_main, place
from gemoclap_sb.training.run_folder import (
    MANIFESTS,
    check_settings,
    learning_options,
    recorded_processes,
)
from gemoclap_sb.training.settings import ExperimentError, read_settings
from gemoclap_sb.training.split_manifests import check_data


@dataclass(frozen=True)
class Run:
    """An experiment that may begin: its YAML, loaded, its options, and its folder.

    ``lock`` is the main process's alone.
    """

    hparams_file: str
    hparams: dict[str, Any]
    run_opts: RunOptions
    folder: Path
    started: float
    options: dict[str, Any]
    settings: dict[str, Any]
    lock: BaseFileLock | None

    def close(self) -> None:
        """Let others into the folder; the end of the process does so too."""
        if self.lock is not None:
            self.lock.release()


def check_experiment(settings: Mapping[str, Any], hparams_file: str) -> None:
    """Refuse a YAML that is no experiment, or that names no data; ExperimentError."""
    check_complete(settings, hparams_file)
    check_data(settings)


def open_run(
    argv: Sequence[str] | None,
    check: Callable[[Mapping[str, Any], str], None] = check_experiment,
) -> Run:
    """Read the command line and the YAML, and make the run's folder if it may be used.

    ``check`` refuses settings before anything is made.
    """
    started = time.monotonic()
    hparams_file, run_opts, typed = parse_arguments(without_launch_flag(argv))
    # Before anything else can fail, so that all processes hear of it.
    run_opts = join_group(run_opts)
    overrides = completed(hparams_file, typed)
    settings = read_settings(hparams_file, overrides)
    check(settings, hparams_file)
    run_opts = checked_run_options(run_opts, settings)
    if run_opts.debug and run_opts.debug_persistently:
        raise ExperimentError(
            "--debug_persistently would leave checkpoints of a few batches where a run has its "
            "own. Leave it out."
        )
    processes = place()[1]
    options = {"processes": processes, **learning_options(run_opts, settings)}
    folder = Path(settings["output_folder"])
    lock: BaseFileLock | None = None

    def resolve(given: Mapping[str, Any]) -> dict[str, Any]:
        return read_settings(hparams_file, completed(hparams_file, {**typed, **given}))

    def claim() -> tuple[dict[str, Any], dict[str, Any]]:
        nonlocal lock
        lock = lock_folder(folder)
        try:
            for written in (folder, folder / MANIFESTS):
                clear_leftovers(written)
            if run_opts.test_only:
                # What evaluates may be another number than what has trained.
                options["processes"] = recorded_processes(folder) or processes
            return options, check_settings(folder, settings, options, resolve)
        except OSError as error:
            raise ExperimentError(f"--output_folder: {error}") from error

    try:
        options, recorded = on_main(claim)
        with open(hparams_file, encoding="utf-8") as stream:
            try:
                hparams = load_hyperpyyaml(stream, overrides)
            except (TypeError, ValueError, OSError, ImportError, AttributeError) as error:
                said = ": ".join(map(str, error.args))
                raise ExperimentError(f"{hparams_file}: {said or error}") from error
        try:
            sb.create_experiment_directory(folder, hparams_file, overrides)
            if lock:
                _keep_script(folder)
        except OSError as error:
            raise ExperimentError(f"--output_folder: {error}") from error
        return Run(hparams_file, hparams, run_opts, folder, started, options, recorded, lock)
    except BaseException:
        if lock:
            lock.release()
        raise


def _keep_script(folder: Path) -> None:
    """Keep the recipe's script beside its YAML; SpeechBrain keeps this module in its place."""
    (folder / Path(__file__).name).unlink(missing_ok=True)
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__.py")
    # Of a program that runs by its package's name there is no script.
    if script.suffix == ".py" and script.name != "__main__.py":
        shutil.copy(script, folder)
