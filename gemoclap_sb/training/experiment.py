"""One experiment from its command line to its result.

    argv -> hyperparameters -> manifests -> datasets -> brain -> metrics.json

A recipe's ``train.py`` calls `main` with the corpus's prepare function and holds nothing
else.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from filelock import BaseFileLock
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.data.contents import (
    check_overlaps,
    left_out_rows,
    rows_digest,
    same_rows,
    unlearnt_classes,
)
from gemoclap_sb.data.datasets import AudioCache, build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.evaluation.assessment import assess
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.uncertainty import NO_INTERVALS
from gemoclap_sb.files import clear_leftovers, kept_on_error
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.audio_source import load_audio_source, load_pretrained, source_notes
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.command_line import checked_run_options, parse_arguments
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.launch import join_group, without_launch_flag
from gemoclap_sb.training.locks import lock_folder
from gemoclap_sb.training.overrides import check_complete, completed
from gemoclap_sb.training.processes import is_group, on_main, place
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.results import DEBUG, UNFINISHED, check_result, record_run, write_files
from gemoclap_sb.training.run_folder import (
    EARLIER_STAGES,
    bind_data,
    check_settings,
    is_finished,
    learning_options,
    recorded_processes,
)
from gemoclap_sb.training.settings import ExperimentError, read_settings
from gemoclap_sb.training.split_manifests import Prepare, check_data, find_manifests, read_splits

# Ways to validate by which it is meant that validation and test are the same.
TESTED_TOO = ("test", "development", "untested")
MANIFESTS = "manifests"
History = Sequence[Mapping[str, float]]
Assessment = tuple[Predictions, dict[str, Any]]


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


@dataclass(frozen=True)
class Splits:
    """Rows and datasets by split; how validation was chosen, and what a report must say.

    ``left_out`` has the IDs of rows whose audio cannot be used, ``contents`` the digests of rows.
    """

    rows: dict[str, dict[str, dict]]
    datasets: dict[str, DynamicItemDataset]
    validation: str | None
    notes: list[str]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)


def main(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> int:
    """Run an experiment and print its result; errors of the user's making in one line.

    Parameters
    ----------
    prepare : Callable, optional
        ``prepare(data_folder=, save_folder=, fold=, **options)`` writes the manifests and
        returns their paths.
    argv : Sequence[str], optional
        Command line; by default the process's.

    Returns
    -------
    int
        Exit status: 0; 1 if memory or disk did not do, or another process of the training is
        gone, and the same command can go on from there; 2 if the experiment could not start as
        asked.
    """
    return exit_status(lambda: run_experiment(prepare, argv))


def run_experiment(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> dict:
    """Train one fold (or go on training it), test it, and write its result.

    Arguments are those of `main`. Returns what ``metrics.json`` holds. ExperimentError if an
    option or a file is missing or does not fit, ManifestError or AudioError if the data are
    not as described.
    """
    run = open_run(argv)
    with told_resources(run.hparams, run.folder), closing(run):
        if any(stage in run.hparams for stage in EARLIER_STAGES):
            raise ExperimentError(
                f"{run.hparams_file} has stages: give it to the train.py of a gmp_tl recipe."
            )
        return conduct(run, prepare)


def conduct(run: Run, prepare: Prepare | None = None) -> dict:
    """Train and test an experiment that may begin; see `run_experiment`."""
    splits = load_splits(run, prepare)
    brain = build_brain(run)
    history, assessment = fit_and_test(brain, splits)
    return write_result(run, splits, brain, history, assessment)


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


def load_splits(run: Run, prepare: Prepare | None = None, labels: Sequence[str] = ()) -> Splits:
    """Find or prepare the manifests, check them, and make the datasets and label encoders.

    ``labels`` are wanted beside those that the model, the objective and the prompts read.
    """
    hparams = run.hparams
    columns = needed_labels(hparams["modules"]["clap"], hparams["objective"], hparams["prompts"])
    columns = list(dict.fromkeys([*columns, *labels]))
    # By one process: the others would read the header of every recording again.
    found, paths = on_main(_find_splits, run, prepare, columns)
    rows = found["rows"]
    hparams["label_encoders"] = label_encoders(columns, hparams["prompts"].words, rows.values())
    limit = hparams.get("cache_gib")
    cache = AudioCache(limit) if limit else None
    datasets = {
        split: build_dataset(
            rows[split], hparams["label_encoders"], manifest=paths[split], cache=cache
        )
        for split in SPLITS
    }
    return Splits(datasets=datasets, **found)


def _find_splits(
    run: Run, prepare: Prepare | None, columns: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give what `Splits` has beside datasets, checked, and the manifests' paths."""
    hparams = run.hparams
    with kept_on_error(run.folder / MANIFESTS):
        manifests = find_manifests(hparams, prepare, columns)
        rows = read_splits(manifests, hparams, columns)
        contents = {
            split: {"rows": len(of), "sha256": rows_digest(of, manifests["data_root"])}
            for split, of in rows.items()
        }
        bind_data(run.folder, run.settings, contents)
    paths = {split: str(manifests[f"{split}_csv"]) for split in SPLITS}
    validation, notes = manifests["validation"], list(manifests["notes"])
    if validation not in TESTED_TOO and same_rows(rows["valid"], rows["test"]):
        validation = "test"
    notes += check_overlaps(rows, paths, validation, notes)
    notes += source_notes(hparams, rows)
    if manifests["validation"] is None:
        # Of manifests that were prepared, the preparation says so.
        notes += unlearnt_classes(rows, hparams["modules"]["clap"].heads[0])
    left_out = left_out_rows(paths, rows, manifests.get("left_out", {}))
    notes += [
        f"Left out of {split}, their audio being unusable: {len(ids)}, first {ids[0]}."
        for split, ids in left_out.items()
    ]
    return {
        "rows": rows,
        "validation": validation,
        "notes": notes,
        "left_out": left_out,
        "contents": contents,
    }, paths


def build_brain(run: Run) -> GEmoCLAPBrain:
    """Make the brain, describe its model for export, and load what pretraining left."""
    hparams = run.hparams
    add_classifiers(hparams)
    brain = GEmoCLAPBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.check_options()
    if is_finished(run.folder) and not any((run.folder / "save").glob("CKPT*")):
        raise ExperimentError(
            f"{run.folder} is finished, and its checkpoints are gone: the result stays. Give "
            "another --output_folder to train again."
        )
    if brain.debug:
        own = Path(hparams["train_logger"].save_file)
        hparams["train_logger"].save_file = str(own.with_name(DEBUG + own.name))
    elif if_main_process():
        write_run_config(run.folder, brain.model, hparams["prompts"])
    # A checkpoint of this run, if there is one, is recovered over what these two load.
    load_audio_source(brain.model, hparams, run.hparams_file)
    load_pretrained(hparams, run.hparams_file)
    return brain


def fit(brain: ResumableBrain, splits: Splits) -> None:
    """Train, or go on training; ExperimentError if the training set is too small."""
    train = splits.rows["train"]
    if len(train) < 2:
        raise ExperimentError(f"training set: expected 2 utterances or more, found {len(train)}.")
    try:
        train_options = {} if brain.test_only else brain.train_loader_options(train)
    except ValueError as error:
        raise ExperimentError(f"training set: {error}") from error
    if brain.test_only and brain.checkpointer is not None:
        # For its history: the evaluation goes back to the best.
        brain.checkpointer.recover_if_possible()
    brain.fit(
        brain.hparams.epoch_counter,
        splits.datasets["train"],
        splits.datasets["valid"],
        train_loader_kwargs=train_options,
        valid_loader_kwargs=brain.evaluation_loader_options(splits.rows["valid"]),
    )


def fit_and_test(brain: GEmoCLAPBrain, splits: Splits) -> tuple[History, Assessment]:
    """Train, or go on training, and test the selected checkpoint.

    Returns a record per epoch, and what `gemoclap_sb.evaluation.assessment.assess` says.
    ExperimentError if the model was never trained, or for more epochs than are asked for.
    """
    fit(brain, splits)
    # Taken now: the evaluation goes back to the best checkpoint, and the history with it.
    history = list(brain.hparams.history.records)
    epochs = brain.hparams.epoch_counter.limit
    if not history:
        raise ExperimentError(
            "nothing to test, since nothing was trained: there is no checkpoint of a whole epoch, "
            f"and {'--test_only trains none' if brain.test_only else f'{epochs} epochs are asked'}."
        )
    if history[-1]["epoch"] > epochs:
        raise ExperimentError(
            f"--number_of_epochs {epochs}: the run has been trained for {history[-1]['epoch']} "
            "epochs already. Ask for as many, or give another --output_folder."
        )
    # Of the validation set, only the temperature is wanted: it is evaluated in every epoch.
    valid = brain.score_best(splits.datasets["valid"], splits.rows["valid"], logged=False)
    test = brain.score_best(splits.datasets["test"], splits.rows["test"])
    scale = brain.model.class_scale()
    return history, on_main(assess, valid, test, scale, brain.labels, splits.rows["test"])


def write_result(
    run: Run, splits: Splits, brain: GEmoCLAPBrain, history: History, assessment: Assessment
) -> dict:
    """Write ``metrics.json``, ``predictions.csv`` and the pictures; end the process group.

    The result of a finished run stays: ExperimentError if the test gives another.
    """
    predictions, sureness = assessment
    too_few = [NO_INTERVALS] if sureness["confidence_intervals"] is None else []
    trained = history[-1]["epoch"]
    tested = brain.tested.meta["epoch"] if brain.tested else trained
    best = next(record for record in history if record["epoch"] == tested)
    amid = brain.test_only and trained < brain.hparams.epoch_counter.limit
    result = {
        **brain.metrics.to_dict(),
        **sureness,
        "fold": run.hparams["fold"],
        "seed": run.hparams["seed"],
        "hparams_file": str(run.hparams_file),
        "experiment": run.hparams["experiment"],
        "validation": splits.validation,
        "notes": splits.notes + too_few,
        "epoch": tested,
        "valid_uar": best["valid_uar"],
        "checkpoint": {"epoch": tested, "sha256": weights_digest(brain.model)},
        "data": splits.contents,
        **run.options,
    }
    if splits.left_out:
        result["left_out"] = splits.left_out
    prefix = DEBUG if brain.debug else UNFINISHED if amid else ""

    def write() -> None:
        if not prefix:
            check_result(run.folder, result)
            record_run(run.folder, time.monotonic() - run.started, str(brain.device))
        write_files(run.folder, brain.metrics, result, history, predictions, prefix)

    on_main(write)
    if is_group():
        # Left to the interpreter's end, the group's threads can abort a process.
        torch.distributed.destroy_process_group()
    return result


def _keep_script(folder: Path) -> None:
    """Keep the recipe's script beside its YAML; SpeechBrain keeps this module in its place."""
    (folder / Path(__file__).name).unlink(missing_ok=True)
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__.py")
    # Of a program that runs by its package's name there is no script.
    if script.suffix == ".py" and script.name != "__main__.py":
        shutil.copy(script, folder)
