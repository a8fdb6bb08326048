"""One experiment from its command line to its result.

    argv -> hyperparameters -> manifests -> datasets -> brain -> metrics.json

A recipe's ``train.py`` calls `main` with the corpus's prepare function and holds nothing
else.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.datasets import AudioCache, build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import LabelError, ManifestError, printable, read_manifest
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.evaluation.assessment import assess
from gemoclap_sb.evaluation.figures import draw_confusion, draw_training_curves
from gemoclap_sb.evaluation.predictions import PREDICTIONS, Predictions
from gemoclap_sb.evaluation.report import VALIDATION_NOTES, metrics_table, uncertainty_lines
from gemoclap_sb.evaluation.uncertainty import NO_INTERVALS
from gemoclap_sb.files import write_json
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.training.command_line import checked_run_options, parse_arguments
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.overrides import check_objects, completed
from gemoclap_sb.training.own_manifest import LABELS, manifest_preparation
from gemoclap_sb.training.resources import OutOfResources, told_resources
from gemoclap_sb.training.run_folder import (
    METRICS,
    ExperimentError,
    check_settings,
    read_settings,
    record_run,
)

DEBUG_METRICS = "debug_metrics.json"
Prepare = Callable[..., Mapping]
History = Sequence[Mapping[str, float]]
Assessment = tuple[Predictions, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """An experiment that may begin: its YAML, loaded, its options, and its folder."""

    hparams_file: str
    hparams: dict[str, Any]
    run_opts: dict[str, Any]
    folder: Path
    started: float


@dataclass(frozen=True)
class Splits:
    """Rows and datasets by split; how validation was chosen, and what a report must say."""

    rows: dict[str, dict[str, dict]]
    datasets: dict[str, DynamicItemDataset]
    validation: str | None
    notes: list[str]


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
        Exit status: 0; 1 if memory or disk did not do, and the same command can go on from
        there; 2 if the experiment could not start as asked.
    """
    try:
        run_experiment(prepare, argv)
    except OutOfResources as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except (ExperimentError, ManifestError, AudioError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    return 0


def run_experiment(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> dict:
    """Train one fold (or go on training it), test it, and write its result.

    Arguments are those of `main`. Returns what ``metrics.json`` holds. ExperimentError if an
    option or a file is missing or does not fit, ManifestError or AudioError if the data are
    not as described.
    """
    run = open_run(argv)
    with told_resources(run.hparams, run.folder):
        splits = load_splits(run, prepare)
        brain = build_brain(run)
        history, assessment = fit_and_test(brain, splits)
        return write_result(run, splits, brain, history, assessment)


def open_run(argv: Sequence[str] | None) -> Run:
    """Read the command line and the YAML, and make the run's folder if it may be used."""
    started = time.monotonic()
    hparams_file, run_opts, overrides = parse_arguments(_without_launch_flag(argv))
    overrides = completed(hparams_file, overrides)
    settings = read_settings(hparams_file, overrides)
    check_objects(settings, hparams_file)
    run_opts = checked_run_options(run_opts, settings)
    sb.utils.distributed.ddp_init_group(run_opts)
    folder = Path(settings["output_folder"])
    try:
        if if_main_process():
            check_settings(folder, settings)
    except OSError as error:
        raise ExperimentError(f"--output_folder: {error}") from error
    with open(hparams_file, encoding="utf-8") as stream:
        try:
            hparams = load_hyperpyyaml(stream, overrides)
        except (TypeError, ValueError, OSError, ImportError, AttributeError) as error:
            raise ExperimentError(f"{hparams_file}: {error}") from error
    sb.create_experiment_directory(folder, hparams_file, overrides)
    if if_main_process():
        _keep_script(folder)
    return Run(hparams_file, hparams, run_opts, folder, started)


def load_splits(run: Run, prepare: Prepare | None = None) -> Splits:
    """Find or prepare the manifests, check them, and make the datasets and label encoders."""
    hparams = run.hparams
    words = hparams["prompts"].words
    columns = needed_labels(hparams["modules"]["clap"], hparams["objective"], hparams["prompts"])
    manifests = _manifests(hparams, prepare, columns)
    try:
        rows = {
            split: read_manifest(
                manifests[f"{split}_csv"],
                data_root=manifests["data_root"],
                classes={name: list(words[name]) for name in columns if name in words},
                skip_bad_audio=hparams["skip_bad_audio"],
                required=columns,
            )
            for split in SPLITS
        }
    except LabelError as error:
        raise LabelError(f"{error}. {LABELS}") from error
    hparams["label_encoders"] = label_encoders(columns, words, rows.values())
    limit = hparams.get("cache_gib")
    cache = AudioCache(limit) if limit else None
    datasets = {
        split: build_dataset(
            rows[split],
            hparams["label_encoders"],
            manifest=str(manifests[f"{split}_csv"]),
            cache=cache,
        )
        for split in SPLITS
    }
    return Splits(rows, datasets, manifests["validation"], list(manifests["notes"]))


def build_brain(run: Run) -> GEmoCLAPBrain:
    """Make the brain, describe its model for export, and load what pretraining left."""
    hparams, objective = run.hparams, run.hparams["objective"]
    heads, trained = hparams["modules"]["clap"].heads, getattr(objective, "heads", None)
    if trained is not None and set(heads) != set(trained):
        raise ExperimentError(
            f"heads: the model has {', '.join(heads)}, the objective trains {', '.join(trained)} "
            "(an attribute that weighs 0 is not trained). Let --heads and the weights agree."
        )
    if getattr(objective, "cross_entropy_weight", 0.0):
        sizes = {head: len(hparams["label_encoders"][head]) for head in trained}
        hparams["modules"]["clap"].add_classifiers(sizes)
    brain = GEmoCLAPBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.check_options()
    if if_main_process():
        write_run_config(run.folder, brain.model, hparams["prompts"])
    if hparams.get("pretrainer") is not None:
        # A checkpoint of this run, if there is one, is recovered over it.
        try:
            hparams["pretrainer"].collect_files()
            hparams["pretrainer"].load_collected()
        except (OSError, ValueError, RuntimeError) as error:
            raise ExperimentError(f"{run.hparams_file}: pretrainer: {error}") from error
        except (EOFError, UnpicklingError) as error:
            # torch's words for it advise to let the file run code.
            raise ExperimentError(
                f"{run.hparams_file}: pretrainer: a file of {hparams['pretrainer'].paths} is "
                "damaged, or holds more than tensors."
            ) from error
    return brain


def fit_and_test(brain: GEmoCLAPBrain, splits: Splits) -> tuple[History, Assessment]:
    """Train, or go on training, and test the selected checkpoint.

    Returns a record per epoch, and what `gemoclap_sb.evaluation.assessment.assess` says.
    """
    train = splits.rows["train"]
    if len(train) < 2:
        raise ExperimentError(f"training set: expected 2 utterances or more, found {len(train)}.")
    try:
        train_options = brain.train_loader_options(train)
    except ValueError as error:
        raise ExperimentError(f"training set: {error}") from error
    brain.fit(
        brain.hparams.epoch_counter,
        splits.datasets["train"],
        splits.datasets["valid"],
        train_loader_kwargs=train_options,
        valid_loader_kwargs=brain.evaluation_loader_options(splits.rows["valid"]),
    )
    # Taken now: the evaluation goes back to the best checkpoint, and the history with it.
    history = list(brain.hparams.history.records)
    # Of the validation set, only the temperature is wanted: it is evaluated in every epoch.
    valid = brain.score_best(splits.datasets["valid"], splits.rows["valid"], logged=False)
    test = brain.score_best(splits.datasets["test"], splits.rows["test"])
    scale = brain.model.class_scale()
    return history, assess(valid, test, scale, brain.labels, splits.rows["test"])


def write_result(
    run: Run, splits: Splits, brain: GEmoCLAPBrain, history: History, assessment: Assessment
) -> dict:
    """Write ``metrics.json``, ``predictions.csv`` and the pictures; end the process group."""
    predictions, sureness = assessment
    too_few = [NO_INTERVALS] if sureness["confidence_intervals"] is None else []
    best = brain.best(history)
    result = {
        **brain.metrics.to_dict(),
        **sureness,
        "fold": run.hparams["fold"],
        "seed": run.hparams["seed"],
        "hparams_file": str(run.hparams_file),
        "experiment": run.hparams["experiment"],
        "validation": splits.validation,
        "notes": splits.notes + too_few,
        "epoch": best and best["epoch"],
        "valid_uar": best and best["valid_uar"],
    }
    if if_main_process():
        if not brain.debug:
            record_run(run.folder, time.monotonic() - run.started, str(brain.device))
        _write(run.folder, brain, result, history, predictions)
    if torch.distributed.is_initialized():
        # Left to the interpreter's end, the group's threads can abort a process.
        ddp_barrier()
        torch.distributed.destroy_process_group()
    return result


def _write(
    folder: Path,
    brain: GEmoCLAPBrain,
    result: dict,
    history: History,
    predictions: Predictions,
) -> None:
    title = f"{result['experiment']}, fold {result['fold']}"
    picture = draw_confusion(brain.metrics, folder / "confusion.png", title=title)
    curves = folder / "training.png" if history else None
    if curves:
        draw_training_curves(history, curves, tested=result["epoch"])
    if not brain.debug:
        predictions.write(folder / PREDICTIONS)
    # Last, because a folder that has it counts as finished; a debug run never does.
    metrics = folder / (DEBUG_METRICS if brain.debug else METRICS)
    write_json(metrics, result)
    print(f"\n{title}\n{metrics_table(brain.metrics)}")
    print("\n".join(uncertainty_lines(result)))
    for note in filter(None, [VALIDATION_NOTES.get(result["validation"]), *result["notes"]]):
        print(f"note: {note}")
    print(f"confusion matrix: {picture}")
    if curves:
        print(f"training curves:  {curves}")
    print(f"metrics:          {metrics}")


def _keep_script(folder: Path) -> None:
    """Keep the recipe's script beside its YAML; SpeechBrain keeps this module in its place."""
    (folder / Path(__file__).name).unlink(missing_ok=True)
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__.py")
    # Of a program that runs by its package's name there is no script.
    if script.suffix == ".py" and script.name != "__main__.py":
        shutil.copy(script, folder)


def _without_launch_flag(argv: Sequence[str] | None) -> list[str]:
    """Accept ``--distributed_launch``, which SpeechBrain 1.1 has replaced by torchrun."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--distributed_launch" in argv:
        if "RANK" not in os.environ:
            raise ExperimentError(
                "--distributed_launch needs torchrun: "
                "torchrun --nproc_per_node=N train.py hparams/x.yaml ..."
            )
        argv.remove("--distributed_launch")
    return argv


def _manifests(hparams: Mapping, prepare: Prepare | None, columns: Sequence[str]) -> dict:
    """Find the three manifests: the user's own, or those that a preparation writes."""
    given = {f"{split}_csv": hparams.get(f"{split}_csv") for split in SPLITS}
    data_folder = hparams.get("data_folder") or None
    if any(given.values()):
        missing = [key for key, path in given.items() if not path]
        if missing:
            raise ExperimentError(
                f"give all three manifests or none: --{' and --'.join(missing)} missing."
            )
        for key, path in given.items():
            if not Path(path).is_file():
                raise ExperimentError(f"--{key}: no file {path} (seen from {Path.cwd()}).")
        same = Path(given["valid_csv"]).read_bytes() == Path(given["test_csv"]).read_bytes()
        how = {"validation": "test" if same else None, "notes": []}
        return {**given, "data_root": data_folder, **how}
    if hparams.get("manifest"):
        return _prepared(hparams, *manifest_preparation(hparams, columns))
    options = hparams.get("prepare_options", {})
    corpora = [key for key in options if key.endswith("_folder")]
    if prepare is None or not data_folder:
        raise ExperimentError(
            f"no data: give --{' and --'.join(corpora or ['data_folder'])}, one manifest of a "
            "corpus with --manifest, or three with --train_csv, --valid_csv and --test_csv."
        )
    if "make_corpus" in hparams:
        try:
            run_on_main(hparams["make_corpus"], kwargs={"folder": data_folder})
        except FileExistsError as error:
            raise ExperimentError(f"--data_folder: {error}") from error
    if not Path(data_folder).is_dir():
        named = next((key for key in corpora if options[key] == data_folder), "data_folder")
        raise ExperimentError(f"--{named}: no folder {data_folder} (seen from {Path.cwd()}).")
    return _prepared(hparams, prepare, data_folder)


def _prepared(hparams: Mapping, prepare: Prepare, data_folder: str) -> dict:
    """Have the three manifests written, by one process of all."""
    options = hparams.get("prepare_options", {})
    arguments = {
        "data_folder": data_folder,
        "save_folder": str(Path(hparams["output_folder"]) / "manifests"),
        "fold": hparams["fold"],
        **options,
    }
    prepared: dict[str, Any] = {}

    def ask() -> None:
        prepared.update(prepare(**arguments))

    # Every process asks; the first writes, the others find the work done.
    try:
        run_on_main(ask, post_func=ask)
    except (OSError, ValueError, TypeError) as error:
        raise ExperimentError(f"data preparation: {error}") from error
    return {"notes": [], "validation": options.get("validation"), **prepared}
