"""One experiment from its command line to its result.

    argv -> hyperparameters -> manifests -> datasets -> brain -> metrics.json

A recipe's ``train.py`` calls `main` with the corpus's prepare function and holds nothing
else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.distributed import if_main_process

from gemoclap_sb.evaluation.assessment import assess
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.uncertainty import NO_INTERVALS
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.audio_source import load_audio_source, load_pretrained
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain
from gemoclap_sb.training.opening import Run, open_run
from gemoclap_sb.training.processes import is_group, on_main
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.results import DEBUG, UNFINISHED, check_result, record_run, write_files
from gemoclap_sb.training.run_folder import (
    EARLIER_STAGES,
    is_finished,
)
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.split_manifests import Prepare
from gemoclap_sb.training.splits import Splits, load_splits

History = Sequence[Mapping[str, float]]
Assessment = tuple[Predictions, dict[str, Any]]


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
