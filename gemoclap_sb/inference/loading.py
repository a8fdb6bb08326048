"""An exported folder, or a model of the hub, to modules. Only data are read.

``config.json`` is checked and followed (see `gemoclap_sb.models.building`), and the header
of ``model.safetensors`` compared with it, before a weight is loaded. Modules are built
without the random numbers that the weights replace: drawing them for WavLM-large takes
longer than everything else.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from speechbrain.dataio.preprocess import AudioNormalizer
from torch import nn
from transformers.initialization import no_init_weights

from gemoclap_sb.data.labels import label_encoder
from gemoclap_sb.inference.answering import check_audio, check_scale, check_tokens
from gemoclap_sb.models.building import CONFIG, build_model
from gemoclap_sb.models.class_layer import ClassLayer, class_rows
from gemoclap_sb.models.configuration import (
    LONGEST_SECONDS,
    TOKENIZER,
    build_prompts,
    read_config,
)
from gemoclap_sb.models.data_files import check_inside
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble, TextEnsemble
from gemoclap_sb.models.errors import ConfigurationError, shortened
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.limits import Budget
from gemoclap_sb.models.plain_description import NO_TEXTS, check_labels, is_plain
from gemoclap_sb.models.tokenizer_files import PATTERNS
from gemoclap_sb.models.towers import (
    AudioTower,
    ClassTexts,
    PassThrough,
    TextTower,
    build_text_tower,
    text_tower_of,
)
from gemoclap_sb.models.weights import WEIGHTS, WeightsError, load_weights, weights_size

DEFAULT_MODEL = "default"
"""Name of the model that is part of this package."""
DEFAULT_FOLDER = Path(__file__).with_name("default_model")
_ABOUT_DEFAULT = (
    "model: default, the small one in this package, trained on acted speech in English and Polish "
    "(CC BY-NC-SA 4.0: no commercial use). `gemoclap info default` says more; --model names "
    "another."
)

# Sizes up to this are believed, whatever the number of weights.
_HARMLESS_SIZE = 10**6


def load_parts(
    folder: str | os.PathLike, attribute: str | None = None
) -> tuple[dict[str, nn.Module], dict[str, Any], TextTower | TextEnsemble | None]:
    """Build and fill what a `Pretrained` of SpeechBrain is made of, and the text tower.

    Returns the modules as ``hyperparams.yaml`` has them, the embeddings of the classes'
    texts still zero; the other hyperparameters; the text tower. Of a plain classifier its linear
    layer, filled, and None. ConfigurationError or
    WeightsError if the folder is not what an export wrote, ValueError for an attribute that
    is no head of the model.
    """
    config, model = open_model(folder, pad_short=True)
    path, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    load_weights(model, weights)
    model.eval()
    tower = AudioTower.of(
        model, attribute, config.get("longest_seconds", LONGEST_SECONDS), config["sample_rate"]
    )
    plain = is_plain(config["model"])
    if tower.head not in (config["words"] if plain else config["templates"]):
        raise ConfigurationError(f"{path}: templates: expected some for {tower.head!r}.")
    check_audio(tower, str(path))
    labels = list(config["words"][tower.head])
    check_labels(config["model"], labels, str(path))
    classifier = (ClassLayer if plain else ClassTexts)(len(labels), tower.output_size)
    if plain:
        classifier.classes.copy_(class_rows(model))
    # A folder of an earlier version, and a head that was not tested, has the model's own.
    own_scale = model.class_scale(tower.head)
    classifier.scale.fill_((config.get("calibration") or {}).get(tower.head, own_scale))
    check_scale(classifier.scale, str(path))
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
        "label_encoder": label_encoder(labels),
        "sample_rate": config["sample_rate"],
        "audio_normalizer": AudioNormalizer(config["sample_rate"]),
        "mean_var_norm_emb": pass_through,
    }
    if plain:
        return modules, hparams, None
    texts = text_tower_of(model).eval().requires_grad_(False)
    check_tokens(texts, build_prompts(config, str(path)).class_sentences(tower.head), str(path))
    return modules, hparams, texts


def load_text_tower(folder: str | os.PathLike) -> TextTower | TextEnsemble:
    """Load the text tower of an exported folder alone, in evaluation mode, without gradients.

    ConfigurationError if it is a plain classifier's.
    """
    _, tower = _opened(folder, _build_text_tower)
    load_weights(tower, Path(folder) / WEIGHTS, others=True)
    return tower.eval().requires_grad_(False)


def _build_text_tower(
    config: Mapping[str, Any], tokenizer: Path, where: str
) -> TextTower | TextEnsemble:
    if is_plain(config):
        raise ConfigurationError(NO_TEXTS)
    return build_text_tower(config, tokenizer, where)


def open_model(
    folder: str | os.PathLike, pad_short: bool = False
) -> tuple[dict[str, Any], GEmoCLAP | GEmoCLAPEnsemble]:
    """Read a folder's ``config.json`` and build its model, with weights that are not loaded.

    The description is bounded by the header of the weights before and while it is followed.
    ConfigurationError or WeightsError if the folder is not what an export wrote.
    """
    return _opened(folder, partial(build_model, pad_short=pad_short))


def _opened(folder: str | os.PathLike, build: Callable[..., Any]) -> tuple[dict[str, Any], Any]:
    folder = Path(folder)
    path, weights = folder / CONFIG, folder / WEIGHTS
    for file in (path, weights):
        check_inside(folder, file)
    config = read_config(path)
    if not weights.exists() and (folder / "save").is_dir():
        raise ConfigurationError(
            f"{folder} is the folder of a run, which is to be exported first: `gemoclap export "
            f"{folder} OUT`. Name OUT then."
        )
    size = weights_size(weights)
    _check_sizes(config["model"], size.numbers, weights)
    with no_init_weights(), Budget(str(path), *size):
        return config, build(config["model"], folder / TOKENIZER, str(path))


def _check_sizes(config: Mapping[str, Any], count: int, weights: Path) -> None:
    """Refuse sizes that would fill the memory before anything is allocated.

    A layer has at least as many weights as the size of any of its sides.
    """

    def largest(value: object) -> float:
        if isinstance(value, Mapping):
            return max(map(largest, value.values()), default=0)
        if isinstance(value, list):
            return max(map(largest, value), default=0)
        return abs(value) if isinstance(value, int | float) else 0

    if (found := largest(config)) > max(count, _HARMLESS_SIZE):
        raise WeightsError(
            f"{weights}: {CONFIG} asks for a size of {found:,}, more than the {count:,} weights in "
            f"this file. It belongs to another {CONFIG}."
        )


def local_folder(source: str | os.PathLike, **hub_options: Any) -> Path:
    """Find a folder, or download of a hub's model (``owner/name``) the files that are read here.

    ``default`` is the model in this package, and standard error is told that it answers; a
    folder of that name is ``./default``. ``hub_options`` are
    ``huggingface_hub.snapshot_download``'s. ConfigurationError if it is none of these, or the
    hub's cannot be downloaded.
    """
    if str(source) == DEFAULT_MODEL:
        if not (DEFAULT_FOLDER / WEIGHTS).is_file():
            raise ConfigurationError(
                f"the default model is not in this package: expected {DEFAULT_FOLDER}. Install "
                "the package again, make the model with make_default.py of the recipe "
                "recipes/across_corpora/gemoclap, or name another (--model)."
            )
        print(_ABOUT_DEFAULT, file=sys.stderr)
        return DEFAULT_FOLDER
    text = os.fspath(source)
    # Path("") is the working directory.
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(
            f"expected a model: {DEFAULT_MODEL}, a folder that `gemoclap export RUN OUT` has "
            f"written, or a hub id (owner/name), found {source!r}."
        )
    folder = Path(source)
    try:
        kind = folder.stat().st_mode
    except FileNotFoundError:
        kind = None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise ConfigurationError(
                f"{shortened(text)} cannot be read: {error.strerror}. Name a folder that "
                "`gemoclap export RUN OUT` has written and that you may read."
            ) from error
        kind = None
    if kind is not None and not stat.S_ISDIR(kind):
        raise ConfigurationError(
            f"{source} is a file: expected a model's folder. Name the folder that `gemoclap export "
            "RUN OUT` has written, not a file in it."
        )
    if kind is not None:
        return folder
    nowhere = f"no folder {shortened(text)} (seen from {Path.cwd()})"
    try:
        validate_repo_id(str(source))
        is_hub_id = "/" in str(source)
    except HFValidationError:
        is_hub_id = False
    if not is_hub_id:
        raise ConfigurationError(
            f"{nowhere}, and it is no hub id (owner/name) either. "
            "`gemoclap export RUN OUT` writes a folder."
        )
    patterns = [CONFIG, WEIGHTS, *(f"{TOKENIZER}/{pattern}" for pattern in PATTERNS)]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **hub_options))
    except OSError as error:
        raise ConfigurationError(
            f"{nowhere}, and no model of that name can be had from the hub: {error}"
        ) from error
