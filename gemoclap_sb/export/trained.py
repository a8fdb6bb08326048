"""The best model of a run, built from what its folder holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from gemoclap_sb.files import read_json
from gemoclap_sb.models.building import CONFIG, ConfigurationError, build_model
from gemoclap_sb.models.configuration import TOKENIZER, read_config
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.training.checkpoint_files import DAMAGE, selected_checkpoint
from gemoclap_sb.training.checkpoints import SELECTED_BY
from gemoclap_sb.training.run_folder import METRICS, SETTINGS, ExperimentError


class ExportError(RuntimeError):
    """A run that cannot be exported as asked; the message says what to do."""


def load_trained(run_folder: str | os.PathLike) -> tuple[dict[str, Any], GEmoCLAP, Path]:
    """Load the model that a run's test used, in evaluation mode.

    Returns what ``config.json`` holds, the model, and the path of its weights. ExportError if
    the run has no description or no checkpoint, its model cannot be described, or its weights
    are not finite.
    """
    run_folder = Path(run_folder)
    try:
        config = read_config(run_folder / CONFIG)
        model = build_model(config["model"], run_folder / TOKENIZER, str(run_folder / CONFIG))
    except ConfigurationError as error:
        raise ExportError(f"{run_folder} cannot be exported: {error}") from error
    checkpoint = _best_checkpoint(run_folder)
    _load_checkpoint(model, checkpoint)
    return config, model, checkpoint


def _best_checkpoint(run_folder: Path) -> Path:
    """Find the checkpoint that the run's test used, the newest of equals."""
    folder, settings = run_folder / "save", run_folder / SETTINGS
    given = read_json(settings) if settings.is_file() else {}
    figure = given.get("select_by", SELECTED_BY)
    metrics = read_json(run_folder / METRICS) if (run_folder / METRICS).is_file() else {}
    try:
        best = selected_checkpoint(folder, figure, (metrics.get("checkpoint") or {}).get("epoch"))
    except ExperimentError as error:
        raise ExportError(f"{run_folder} cannot be exported: {error}.") from error
    if best is None or "clap" not in best.paramfiles:
        raise ExportError(
            f"{run_folder}: expected a checkpoint with its `{figure}` in {folder}, found none. "
            "Export the output folder of a run that has finished an epoch."
        )
    return Path(best.paramfiles["clap"])


def _load_checkpoint(model: GEmoCLAP, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise ExportError(f"{path}: the weights are damaged, or hold more than tensors.") from error
    # Layers that only a joint loss reads.
    state = {name: value for name, value in state.items() if not name.startswith("classifiers.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(
            f"{path}: these are not the weights of the model that the run's {CONFIG} describes: "
            f"{error}"
        ) from error
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ExportError(
            f"{path}: NaN or infinite values in {bad[0]} and {len(bad) - 1} more. The training "
            "diverged; train again with a lower learning rate."
        )
    model.eval()
