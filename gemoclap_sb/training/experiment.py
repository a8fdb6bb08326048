"""One experiment from its command line to its result.

    argv -> hyperparameters -> manifests -> datasets -> brain -> metrics.json

A recipe's ``train.py`` calls `main` with the corpus's prepare function and
holds nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.datasets import build_dataset, evaluation_loader_options, train_loader_options
from gemoclap_sb.data.manifests import ManifestError, read_manifest
from gemoclap_sb.evaluation.figures import draw_confusion, draw_training_curves
from gemoclap_sb.evaluation.report import VALIDATION_NOTES, metrics_table
from gemoclap_sb.files import write_json
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.training.brain import GEmoCLAPBrain, needed_attributes
from gemoclap_sb.training.run_folder import (
    METRICS,
    ExperimentError,
    check_settings,
    read_settings,
    record_run,
)

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
DEBUG_METRICS = "debug_metrics.json"
Prepare = Callable[..., Mapping]


def main(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> int:
    """Run an experiment and print its result; errors of the user's making in one line.

    Parameters
    ----------
    prepare : Callable, optional
        ``prepare(data_folder=, save_folder=, fold=, **options)`` writes the
        manifests and returns their paths.
    argv : Sequence[str], optional
        Command line; by default the process's.

    Returns
    -------
    int
        Exit status: 0, or 2 if the experiment could not start as asked.
    """
    try:
        run_experiment(prepare, argv)
    except (ExperimentError, ManifestError, AudioError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run_experiment(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> dict:
    """Train one fold (or go on training it), test it, and write its result.

    Parameters
    ----------
    prepare, argv
        See `main`.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    ExperimentError
        If an option or a file is missing or does not fit.
    ManifestError, AudioError
        If the data are not as described.
    """
    started = time.monotonic()
    hparams_file, run_opts, overrides = sb.parse_arguments(_without_launch_flag(argv))
    settings = read_settings(hparams_file, overrides)
    sb.utils.distributed.ddp_init_group(run_opts)
    folder = Path(settings["output_folder"])
    if if_main_process():
        check_settings(folder, settings)
    with open(hparams_file, encoding="utf-8") as stream:
        try:
            hparams = load_hyperpyyaml(stream, overrides)
        except (ValueError, OSError) as error:
            raise ExperimentError(f"{hparams_file}: {error}") from error
    sb.create_experiment_directory(folder, hparams_file, overrides)

    manifests = _manifests(hparams, prepare)
    brain = GEmoCLAPBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    if if_main_process():
        write_run_config(folder, brain.model, hparams["prompts"])
    attributes = needed_attributes(brain.model, hparams["objective"], hparams["prompts"])
    classes = {name: hparams["prompts"].labels(name) for name in attributes}
    rows = {
        split: read_manifest(
            manifests[f"{split}_csv"],
            data_root=manifests["data_root"],
            classes=classes,
            skip_bad_audio=hparams["skip_bad_audio"],
        )
        for split in SPLITS
    }
    datasets = {
        split: build_dataset(rows[split], attributes, manifest=str(manifests[f"{split}_csv"]))
        for split in SPLITS
    }
    loaders = {
        split: evaluation_loader_options(
            rows[split], hparams["valid_batch_size"], hparams["num_workers"]
        )
        for split in ("valid", "test")
    }
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=train_loader_options(
            rows["train"],
            hparams["batch_size"],
            hparams["seed"],
            hparams["pool_batches"],
            hparams["num_workers"],
        ),
        valid_loader_kwargs=loaders["valid"],
    )
    # Taken now: the evaluation goes back to the best checkpoint, and the history with it.
    history = list(hparams["history"].records)
    brain.evaluate(datasets["test"], max_key="uar", test_loader_kwargs=loaders["test"])

    result = _result(brain, hparams, hparams_file, history, manifests)
    if if_main_process():
        if not brain.debug:
            record_run(folder, time.monotonic() - started, str(brain.device))
        _write(folder, brain, result, history)
    if torch.distributed.is_initialized():
        # Left to the interpreter's end, the group's threads can abort a process.
        ddp_barrier()
        torch.distributed.destroy_process_group()
    return result


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


def _manifests(hparams: Mapping, prepare: Prepare | None) -> dict:
    """Find the three manifests: the user's own, or those that ``prepare`` writes."""
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
        return {
            **given,
            "data_root": data_folder,
            "validation": "test" if same else None,
            "notes": [],
        }
    if prepare is None or not data_folder:
        raise ExperimentError(
            "no data: give --data_folder (the corpus's folder), or three manifests with "
            "--train_csv, --valid_csv and --test_csv."
        )
    if "make_corpus" in hparams:
        try:
            run_on_main(hparams["make_corpus"], kwargs={"folder": data_folder})
        except FileExistsError as error:
            raise ExperimentError(f"--data_folder: {error}") from error
    if not Path(data_folder).is_dir():
        raise ExperimentError(f"--data_folder: no folder {data_folder} (seen from {Path.cwd()}).")
    arguments = {
        "data_folder": data_folder,
        "save_folder": str(Path(hparams["output_folder"]) / "manifests"),
        "fold": hparams["fold"],
        **hparams.get("prepare_options", {}),
    }
    # Every process asks; the first writes, the others find the work done.
    try:
        run_on_main(prepare, kwargs=arguments)
        prepared = dict(prepare(**arguments))
    except (OSError, ValueError, TypeError) as error:
        raise ExperimentError(f"data preparation: {error}") from error
    return {
        **prepared,
        "validation": hparams.get("prepare_options", {}).get("validation"),
        "notes": list(prepared.get("notes", [])),
    }


def _result(
    brain: GEmoCLAPBrain,
    hparams: Mapping,
    hparams_file: str,
    history: Sequence[Mapping],
    manifests: Mapping,
) -> dict:
    best = max(history, key=lambda r: (r["valid_uar"], r["epoch"]), default=None)
    return {
        **brain.test_metrics.to_dict(),
        "fold": hparams["fold"],
        "seed": hparams["seed"],
        "hparams_file": str(hparams_file),
        "experiment": hparams["experiment"],
        "validation": manifests["validation"],
        "notes": list(manifests["notes"]),
        "epoch": best and best["epoch"],
        "valid_uar": best and best["valid_uar"],
    }


def _write(folder: Path, brain: GEmoCLAPBrain, result: dict, history: Sequence[Mapping]) -> None:
    title = f"{result['experiment']}, fold {result['fold']}"
    picture = draw_confusion(brain.test_metrics, folder / "confusion.png", title=title)
    curves = None
    if history:
        curves = draw_training_curves(history, folder / "training.png")
    # Last, because a folder that has it counts as finished; a debug run never does.
    metrics = folder / (DEBUG_METRICS if brain.debug else METRICS)
    write_json(metrics, result)
    print(f"\n{title}")
    print(metrics_table(brain.test_metrics))
    for note in [VALIDATION_NOTES.get(result["validation"]), *result["notes"]]:
        if note:
            print(f"note: {note}")
    print(f"confusion matrix: {picture}")
    if curves:
        print(f"training curves:  {curves}")
    print(f"metrics:          {metrics}")
