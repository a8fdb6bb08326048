"""An exported folder, or a model of the hub, to modules. Only data are read.

``config.json`` is checked and followed (see `gemoclap_sb.models.building`), and the
header of ``model.safetensors`` compared with it, before a weight is loaded. Modules are
built without the random numbers that the weights replace: drawing them for WavLM-large
takes longer than everything else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer
from torch import nn
from transformers.initialization import no_init_weights

from gemoclap_sb.models.building import CONFIG, ConfigurationError, build_model
from gemoclap_sb.models.configuration import TOKENIZER, build_prompts, read_config
from gemoclap_sb.models.gemoclap import LogitScale
from gemoclap_sb.models.tokenizer_files import PATTERNS
from gemoclap_sb.models.towers import (
    LONGEST_SECONDS,
    AudioTower,
    ClassTexts,
    PassThrough,
    TextTower,
)
from gemoclap_sb.models.weights import check_weights, load_weights

WEIGHTS = "model.safetensors"


def load_parts(
    folder: str | os.PathLike, attribute: str | None = None
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Build and fill what a `Pretrained` of SpeechBrain is made of.

    Parameters
    ----------
    folder : str or os.PathLike
        An exported folder.
    attribute : str, optional
        What to classify, for a model with several heads; by default its first.

    Returns
    -------
    modules : dict
        As ``hyperparams.yaml`` has them; the embeddings of the classes' texts are still
        zero.
    hparams : dict
        The rest.

    Raises
    ------
    ConfigurationError, WeightsError
        If the folder is not what an export wrote.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    config = read_config(path)
    # On this device a model takes no memory, so a description may ask for any size.
    with torch.device("meta"):
        model = build_model(config["model"], Path(folder) / TOKENIZER, str(path))
    check_weights(model, weights)
    prompts = build_prompts(config, str(path))
    with no_init_weights():
        tower = AudioTower(
            config["model"],
            head=attribute,
            longest_seconds=config.get("longest_seconds", LONGEST_SECONDS),
            sample_rate=config["sample_rate"],
        )
    tower.load_weights(weights)
    if tower.head not in prompts.templates:
        raise ConfigurationError(f"{path}: templates: expected some for {tower.head!r}.")
    labels = prompts.labels(tower.head)
    classifier = ClassTexts(len(labels), tower.output_size)
    scales = nn.ModuleDict({"audio_scales": nn.ModuleDict({tower.head: LogitScale()})})
    load_weights(scales, weights, others=True)
    classifier.scale.copy_(scales["audio_scales"][tower.head]().detach())
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(labels)
    encoder.expect_len(len(labels))
    pass_through = PassThrough()
    modules = {
        "compute_features": pass_through,
        "mean_var_norm": pass_through,
        "embedding_model": tower,
        "classifier": classifier,
    }
    hparams = {
        "attribute": tower.head,
        "words": config["words"],
        "templates": config["templates"],
        "label_encoder": encoder,
        "sample_rate": config["sample_rate"],
        "audio_normalizer": AudioNormalizer(config["sample_rate"]),
        "mean_var_norm_emb": pass_through,
    }
    return modules, hparams


def load_text_tower(folder: str | os.PathLike) -> TextTower:
    """Load the text tower of an exported folder.

    Parameters
    ----------
    folder : str or os.PathLike
        An exported folder.

    Returns
    -------
    TextTower
        In evaluation mode, without gradients.

    Raises
    ------
    ConfigurationError, WeightsError
        If the folder is not what an export wrote.
    """
    path, weights, tokenizer = (Path(folder) / name for name in (CONFIG, WEIGHTS, TOKENIZER))
    config = read_config(path)["model"]
    with torch.device("meta"):
        check_weights(TextTower(config, tokenizer, str(path)), weights, others=True)
    with no_init_weights():
        tower = TextTower(config, tokenizer, str(path))
    load_weights(tower, weights, others=True)
    return tower.eval().requires_grad_(False)


def local_folder(source: str | os.PathLike, **hub_options: Any) -> Path:
    """Find a folder, or download of a hub's model the files that are read here.

    Parameters
    ----------
    source : str or os.PathLike
        A folder, or ``owner/name`` on the Hugging Face hub.
    **hub_options
        For ``huggingface_hub.snapshot_download``.

    Returns
    -------
    Path

    Raises
    ------
    ConfigurationError
        If it is neither, or the hub's cannot be downloaded.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    nowhere = f"no folder {source} (seen from {Path.cwd()})"
    try:
        validate_repo_id(str(source))
        is_hub_id = "/" in str(source)
    except HFValidationError:
        is_hub_id = False
    if not is_hub_id:
        raise ConfigurationError(f"{nowhere}, and it is no hub id (owner/name) either.")
    patterns = [CONFIG, WEIGHTS, *(f"{TOKENIZER}/{pattern}" for pattern in PATTERNS)]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **hub_options))
    except OSError as error:
        raise ConfigurationError(
            f"{nowhere}, and no model of that name can be had from the hub: {error}"
        ) from error
