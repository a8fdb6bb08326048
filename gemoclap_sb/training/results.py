"""What a run writes when it has been tested."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gemoclap_sb.evaluation.figures import draw_confusion, draw_training_curves
from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.evaluation.predictions import PREDICTIONS, Predictions
from gemoclap_sb.evaluation.report import VALIDATION_NOTES, metrics_table, uncertainty_lines
from gemoclap_sb.files import write_json
from gemoclap_sb.training.run_folder import METRICS, RUN, is_finished, read_record
from gemoclap_sb.training.settings import ExperimentError

DEBUG, UNFINISHED = "debug_", "test_only_"
"""Before the names of what ``--debug``, or ``--test_only`` amid a training, writes."""


def record_run(folder: str | os.PathLike, seconds: float, device: str) -> None:
    """Write ``run.json``: seconds, versions, machine.

    The seconds are those of this process, added to those of earlier processes that came to
    their end; what a killed process spent is not known.
    """
    path = Path(folder) / RUN
    before = read_record(path)["seconds"] if path.exists() else 0.0
    packages = ("torch", "torchaudio", "speechbrain", "transformers", "gemoclap_sb")
    record = {
        "seconds": round(before + seconds, 1),
        "device": device,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
    write_json(path, record)


def check_result(folder: str | os.PathLike, result: Mapping[str, Any]) -> None:
    """Refuse a result other than the one that a finished run has; ExperimentError.

    Answers and the checkpoint are compared; probabilities differ a little from machine to machine.
    """
    path = Path(folder) / METRICS
    if not is_finished(folder):
        return
    before = read_record(path)
    for key in ("labels", "n_test", "epoch", "confusion", "checkpoint"):
        if key in before and before[key] != result[key]:
            raise ExperimentError(
                f"{path} stays: testing this finished run again gave another result ({key} was "
                f"{before[key]}, now {result[key]}). What it was tested with has changed: its "
                "checkpoint, the audio, or the packages. Delete the file to have the new one."
            )


def write_files(
    folder: Path,
    metrics: ClassificationMetrics,
    result: dict,
    history: Sequence[Mapping[str, float]],
    predictions: Predictions,
    prefix: str = "",
) -> None:
    """Write what a run has found, under names with a prefix, and print it.

    Predictions are not written by a debug run, ``metrics.json`` not again by a finished one.
    """
    title = f"{result['experiment']}, fold {result['fold']}"
    picture = draw_confusion(metrics, folder / f"{prefix}confusion.png", title=title)
    curves = folder / f"{prefix}training.png"
    draw_training_curves(history, curves, tested=result["epoch"])
    if prefix != DEBUG:
        predictions.write(folder / f"{prefix}{PREDICTIONS}")
    # Last, because a folder that has it counts as finished, and then it stays as it is.
    path = folder / f"{prefix}{METRICS}"
    if prefix or not is_finished(folder):
        write_json(path, result)
    print(f"\n{title}\n{metrics_table(metrics)}")
    print("\n".join(uncertainty_lines(result)))
    for note in filter(None, [VALIDATION_NOTES.get(result["validation"]), *result["notes"]]):
        print(f"note: {note}")
    print(f"confusion matrix: {picture}")
    print(f"training curves:  {curves}")
    print(f"metrics:          {path}")
