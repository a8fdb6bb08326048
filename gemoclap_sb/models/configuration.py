"""``config.json``: a model's description, its prompts and its waveforms, as plain data.

It is written when a run starts, travels with the exported model, and is all that is
needed to build the model again without the encoder's hub page or folder.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from speechbrain.utils.logger import get_logger
from torch import nn

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.files import atomic_folder, write_json
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import CONFIG, built, check_description, model_config
from gemoclap_sb.models.data_files import read_json
from gemoclap_sb.models.errors import ConfigurationError, shortened, shown
from gemoclap_sb.models.limits import LONGEST_SECONDS as LONGEST_RANGE
from gemoclap_sb.models.limits import RANGES, check_sentences
from gemoclap_sb.models.limits import SCALES as SCALE_RANGE

logger = get_logger(__name__)

TOKENIZER, HYPERPARAMS = "tokenizer", "hyperparams.yaml"
FORMAT, FORMAT_VERSION = "gemoclap_sb", 1
LONGEST_SECONDS = 60.0


@strict
@dataclass(kw_only=True)
class AveragedRun:
    """What an export of several runs keeps of each one's metrics."""

    experiment: str | None = None
    fold: int | None = None
    seed: int | None = None
    validation: str | None = None
    n_test: int | None = None
    war: float | int | None = None
    uar: float | int | None = None


@strict
@dataclass(kw_only=True)
class RunDescription:
    """The keys of ``config.json``; those with a default are an export's."""

    format: str
    format_version: int
    sample_rate: int
    model: dict[str, Any]
    words: dict[str, dict[str, str]]
    templates: dict[str, list[str]]
    labels: dict[str, list[str]]
    temperatures: dict[str, Any] | None = None
    calibration: dict[str, float | int] | None = None
    metrics: dict[str, Any] | None = None
    longest_seconds: float | int = LONGEST_SECONDS
    runs: list[dict[str, Any]] | None = None

    def validate_values(self) -> None:
        """Refuse a rate, a length or a scale that is none, and labels without words."""
        _check_range("sample_rate", self.sample_rate, RANGES["sample_rate"])
        _check_range("longest_seconds", self.longest_seconds, LONGEST_RANGE)
        for head, scale in (self.calibration or {}).items():
            _check_range(f"calibration: {head}", scale, SCALE_RANGE)
        labels = {name: sorted(of) for name, of in self.labels.items()}
        if labels != {name: sorted(of) for name, of in self.words.items()}:
            raise ValueError(
                "expected a word for each of the labels and no other, found the labels "
                f"{shown(self.labels, 80)} and the words {shown(self.words, 80)}"
            )


def _check_range(name: str, value: float, bounds: tuple[float, float]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{name}: expected {bounds[0]:g} to {bounds[1]:g}, found {shown(value)}")


def averaged_run(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a run's metrics what an export of several keeps; None for what is not there."""
    return {key: metrics.get(key) for key in AveragedRun.__dataclass_fields__}


def run_config(
    model: nn.Module,
    prompts: Prompts,
    sample_rate: int = 16000,
    hparams_file: Path | None = None,
) -> dict[str, Any]:
    """Describe a model, its prompts and its waveforms: what ``config.json`` holds.

    ConfigurationError as `gemoclap_sb.models.building.model_config` raises it.
    """
    said = prompts.to_config()
    if isinstance(model, AudioClassifier):
        # It reads none.
        said["templates"] = {}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": sample_rate,
        "model": model_config(model, hparams_file),
        **said,
        # Readers of JSON need not keep the order of words, and it is that of the classes.
        "labels": {attribute: list(words) for attribute, words in prompts.words.items()},
    }


def write_run_config(
    folder: str | os.PathLike, model: nn.Module, prompts: Prompts, sample_rate: int = 16000
) -> Path:
    """Write ``config.json``, and ``tokenizer/`` where the text lobe has one, into a run's folder.

    A lobe or pooling from elsewhere is described by the ``hyperparams.yaml`` in the folder. A
    model that cannot be described (its own class, a text lobe from elsewhere) trains all the same:
    its ``config.json`` then holds the reason, which the export repeats.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
    >>> from gemoclap_sb.models import GEmoCLAP
    >>> folder = getfixture("tmp_path")
    >>> prompts = Prompts({"emotion": {"ang": "angry", "sad": "sad"}}, {"emotion": ["so {}"]})
    >>> text = ByteTextEncoder(hidden_size=16, heads=2)
    >>> clap = GEmoCLAP(ResNetEncoder(channels=[8], strides=[2]), text)
    >>> read_config(write_run_config(folder, clap, prompts))["labels"]
    {'emotion': ['ang', 'sad']}
    """
    path = Path(folder) / CONFIG
    try:
        config = run_config(model, prompts, sample_rate, Path(folder) / HYPERPARAMS)
    except ConfigurationError as error:
        logger.info("This run can be trained but not exported: %s", error)
        config = {"format": FORMAT, "format_version": FORMAT_VERSION, "unsupported": str(error)}
    else:
        if hasattr(getattr(model, "text_encoder", None), "save_tokenizer"):
            with atomic_folder(Path(folder) / TOKENIZER) as temporary:
                model.text_encoder.save_tokenizer(temporary)
    write_json(path, config)
    return path


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check a ``config.json``, of a run or of an exported model.

    ``words`` come in the order of ``labels``. The model's own part is checked by
    `gemoclap_sb.models.building.build_model`. ConfigurationError if the file is missing, is
    no JSON (see `gemoclap_sb.models.data_files.read_json`), is of another format, holds unknown
    keys or lacks some, or values out of bounds, or gives the reason why its model cannot be
    described.
    """
    path = Path(path)
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise ConfigurationError(
            f"no file {path} (seen from {Path.cwd()}). Expected the folder of a run of this "
            "package, or one that its export has written."
        ) from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ConfigurationError(
            f'{path}: expected a description with "format": "{FORMAT}", found another file. '
            "Export a run to get a folder that can be loaded."
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise ConfigurationError(
            f"{path}: expected format_version {FORMAT_VERSION}, found "
            f"{shown(config.get('format_version'))}. It was written by another version of "
            "gemoclap_sb; install that one, or export the run again."
        )
    if "unsupported" in config:
        raise ConfigurationError(
            f"{path}: {shortened(str(config['unsupported']), 500)}. If an earlier version wrote "
            "this, give the run's own command again."
        )
    check_description(str(path), RunDescription, config)
    for run in config.get("runs") or ():
        check_description(f"{path}: runs", AveragedRun, run)
    words = config["words"]
    config["words"] = {
        name: {label: words[name][label] for label in of} for name, of in config["labels"].items()
    }
    build_prompts(config, str(path))
    check_sentences(str(path), config["words"], config["templates"])
    return config


def build_prompts(config: Mapping[str, Any], where: str = CONFIG) -> Prompts:
    """Make the prompts that a configuration describes; ``where`` names the file in errors."""
    return built(where, "words and templates", Prompts, config["words"], config["templates"])
