"""The best model of a run, built from what its folder holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from gemoclap_sb.files import read_json
from gemoclap_sb.lobes.source_weights import SourceWeights, sources
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import CONFIG, ConfigurationError, build_model
from gemoclap_sb.models.configuration import TOKENIZER, read_config
from gemoclap_sb.models.foreign import with_held
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.lean_checkpoints import SourceError, complete, read_state
from gemoclap_sb.models.plain_description import check_labels
from gemoclap_sb.training.checkpoint_files import DAMAGE, selected_checkpoint
from gemoclap_sb.training.checkpoints import SELECTED_BY
from gemoclap_sb.training.run_folder import METRICS, SETTINGS
from gemoclap_sb.training.settings import ExperimentError

Model = GEmoCLAP | AudioClassifier


class ExportError(RuntimeError):
    """A run that cannot be exported as asked; the message says what to do."""


def load_trained(run_folder: str | os.PathLike) -> tuple[dict[str, Any], Model, Path]:
    """Load the model that a run's test used, in evaluation mode.

    No class is imported but the package's own: what a lobe or pooling from elsewhere holds can be
    copied, but not run (`gemoclap_sb.models.foreign.Held`). Returns what ``config.json`` holds,
    the model, and the path of its weights. ExportError if the run has no description or no
    checkpoint, its model cannot be described, or its weights are not finite.
    """
    run_folder = Path(run_folder)
    try:
        config = read_config(run_folder / CONFIG)
        where = str(run_folder / CONFIG)
        model = build_model(with_held(config["model"]), run_folder / TOKENIZER, where)
        check_labels(config["model"], config["labels"].get(model.heads[0], []), where)
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


def _load_checkpoint(model: Model, path: Path) -> None:
    try:
        state, left_out = read_state(path)
    except SourceError as error:
        raise ExportError(str(error)) from error
    except DAMAGE as error:
        raise ExportError(f"{path}: the weights are damaged, or hold more than tensors.") from error
    lobes = sources(model)
    for name in left_out.keys() & lobes.keys():
        _load_source(lobes[name], left_out[name], path)
    try:
        complete(state, left_out, model, path)
    except SourceError as error:
        raise ExportError(str(error)) from error
    # Layers that only a joint loss reads.
    state = {name: value for name, value in state.items() if not name.startswith("classifiers.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(
            f"{path}: these are not the weights of the model that the run's {CONFIG} describes: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ExportError(
            f"{path}: NaN or infinite values in {bad[0]} and {len(bad) - 1} more. The training "
            "diverged; train again with a lower learning rate."
        )
    model.eval()


def _load_source(lobe: SourceWeights, left_out: Mapping[str, Any], path: Path) -> None:
    """Fill a lobe with the pretrained weights that a checkpoint leaves out."""
    source, save_path = left_out["source"], left_out["save_path"]
    folder = save_path if Path(save_path).is_dir() else HF_HUB_CACHE
    try:
        loaded = type(lobe).from_source(source, folder, lobe.to_config())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{path} leaves out the pretrained weights of {source}, which cannot be loaded: "
            f"{reason}. Bring them back there and export again."
        ) from error
    found, lobe.source = dict(loaded.named_parameters()), source
    with torch.no_grad():
        for name, parameter in lobe.named_parameters():
            known = found.get(name) if name in left_out["digests"] else None
            if known is not None and known.shape == parameter.shape:
                parameter.copy_(known)
