"""An exported folder, or a model of the hub, to modules. Only data are read.

``config.json`` is checked and followed (see `gemoclap_sb.models.building`), and the header
of ``model.safetensors`` compared with it, before a weight is loaded. Modules are built
without the random numbers that the weights replace: drawing them for WavLM-large takes
longer than everything else. The text tower is left for when it is needed, where the folder has
the embeddings of the classes (see `gemoclap_sb.models.stored_classes`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from speechbrain.dataio.preprocess import AudioNormalizer
from torch import nn

from gemoclap_sb.data.labels import label_encoder
from gemoclap_sb.inference.answering import check_audio, check_classes, check_scale, check_tokens
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import CONFIG, build_model, checked_members
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
from gemoclap_sb.models.foreign import with_held
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.limits import Budget
from gemoclap_sb.models.plain_description import NO_TEXTS, check_labels, is_plain
from gemoclap_sb.models.speechbrain_folder import is_speechbrain_folder
from gemoclap_sb.models.stored_classes import CLASSIFIER, load_classes, texts_digest
from gemoclap_sb.models.tokenizer_files import PATTERNS
from gemoclap_sb.models.towers import (
    AudioTower,
    ClassTexts,
    PassThrough,
    TextTower,
    build_text_tower,
    chosen_head,
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

_PATCHING = Lock()
# Sizes up to this are believed, whatever the number of weights.
_HARMLESS_SIZE = 10**6


def load_parts(
    folder: str | os.PathLike, attribute: str | None = None
) -> tuple[dict[str, nn.Module], dict[str, Any], TextTower | TextEnsemble | str | None]:
    """Build and fill what a `Pretrained` of SpeechBrain is made of, and the text tower.

    Returns the modules as ``hyperparams.yaml`` has them; the other hyperparameters; the text
    tower, the embeddings of the classes' texts still being zero, or where the folder has those,
    the digest of what they belong to; of a plain classifier None. ConfigurationError or
    WeightsError if the folder is not what an export wrote, ValueError for an attribute that is
    no head of the model.
    """
    folder = Path(folder)
    where, weights = str(folder / CONFIG), folder / WEIGHTS
    config = _described(folder)
    plain, members = is_plain(config["model"]), checked_members(config["model"], where)
    head = chosen_head(members[0]["heads"], attribute)
    if head not in (config["words"] if plain else config["templates"]):
        raise ConfigurationError(f"{where}: templates: expected some for {head!r}.")
    labels = list(config["words"][head])
    check_labels(config["model"], labels, where)
    size = sum(one["embedding_size"] for one in members)
    classifier = (ClassLayer if plain else ClassTexts)(len(labels), size)
    settings = config.get("longest_seconds", LONGEST_SECONDS), config["sample_rate"]
    texts = None if plain else load_classes(folder, config, head, classifier)
    if texts is not None:
        tower = _followed(
            folder, config, lambda: AudioTower(config["model"], head, *settings, where=where)
        )
        load_weights(tower, weights, others=True)
        tower.eval()
        check_classes(classifier.classes, _own_sentences(config, head, where), where)
    else:
        model = _built(folder, config, pad_short=True)
        load_weights(model, weights)
        tower = AudioTower.of(model.eval(), head, *settings)
        # A folder of an earlier version, and a head that was not tested, has the model's own.
        classifier.scale.fill_(model.class_scale(head))
        if plain:
            classifier.classes.copy_(class_rows(model))
        else:
            texts = text_tower_of(model).eval().requires_grad_(False)
            check_tokens(texts, _own_sentences(config, head, where), where)
    if head in (config.get("calibration") or {}):
        classifier.scale.fill_(config["calibration"][head])
    check_audio(tower, where)
    check_scale(classifier.scale, where)
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
    return modules, hparams, texts


def head_of(folder: str | os.PathLike, attribute: str | None = None) -> str:
    """Name the head that a folder is used with, its first if none is asked for; no weight is read.

    ConfigurationError if the folder is not what an export wrote, ValueError for no head of its.
    """
    config = _described(folder)
    members = checked_members(config["model"], str(Path(folder) / CONFIG))
    return chosen_head(members[0]["heads"], attribute)


def load_text_tower(
    folder: str | os.PathLike, texts: tuple[str, str] | None = None
) -> TextTower | TextEnsemble:
    """Load the text tower of an exported folder alone, in evaluation mode, without gradients.

    ConfigurationError if it is a plain classifier's. With ``texts``, a head and what `load_parts`
    gave for it, WeightsError if the folder has become another model's since.
    """
    folder = Path(folder)
    where, config = str(folder / CONFIG), _described(folder)
    if is_plain(config["model"]):
        raise ConfigurationError(NO_TEXTS)
    if texts is not None and texts_digest(folder, config, texts[0]) != texts[1]:
        raise WeightsError(
            f"{folder}: the text encoder is not the one that was here when the model was loaded. "
            "Load the model again."
        )
    tower = _followed(
        folder, config, lambda: build_text_tower(config["model"], folder / TOKENIZER, where)
    )
    load_weights(tower, folder / WEIGHTS, others=True)
    head = texts[0] if texts else checked_members(config["model"], where)[0]["heads"][0]
    check_tokens(tower, _own_sentences(config, head, where), where)
    return tower.eval().requires_grad_(False)


def open_model(
    folder: str | os.PathLike,
) -> tuple[dict[str, Any], GEmoCLAP | GEmoCLAPEnsemble | AudioClassifier]:
    """Read a folder's ``config.json`` and build its model, with weights that are not loaded.

    The description is bounded by the header of the weights before and while it is followed. A
    lobe or pooling from elsewhere is a `gemoclap_sb.models.foreign.Held`, without weights.
    ConfigurationError or WeightsError if the folder is not what an export wrote.
    """
    config = _described(folder)
    members = checked_members(config["model"], str(Path(folder) / CONFIG))
    held = [with_held(one) for one in members]
    model = {"members": held} if held[1:] else held[0]
    return config, _built(folder, {**config, "model": model}, pad_short=False)


def _described(folder: str | os.PathLike) -> dict[str, Any]:
    """Read ``config.json``, and see that the weights beside it could be its."""
    folder = Path(folder)
    path, weights = folder / CONFIG, folder / WEIGHTS
    for file in (path, weights, folder / CLASSIFIER):
        check_inside(folder, file)
    if is_speechbrain_folder(folder):
        raise ConfigurationError(
            f"{folder} is a model of SpeechBrain, with which `gemoclap embed` and SpeakerEncoder "
            "embed recordings. For all else name the folder of a run or of an export."
        )
    config = read_config(path)
    if not weights.exists() and (folder / "save").is_dir():
        raise ConfigurationError(
            f"{folder} is the folder of a run, which is to be exported first: `gemoclap export "
            f"{folder} OUT`. Name OUT then."
        )
    _check_sizes(config["model"], weights_size(weights).numbers, weights)
    return config


def _built(folder: str | os.PathLike, config: Mapping[str, Any], pad_short: bool) -> Any:
    """Build the whole model of a description, whose weights are not loaded."""
    tokenizer, where = Path(folder) / TOKENIZER, str(Path(folder) / CONFIG)
    return _followed(
        folder, config, lambda: build_model(config["model"], tokenizer, where, pad_short)
    )


def _followed(folder: str | os.PathLike, config: Mapping[str, Any], build: Callable) -> Any:
    """Build something of a description, no larger than the weights explain."""
    where = str(Path(folder) / CONFIG)
    members = checked_members(config["model"], where)
    size = weights_size(Path(folder) / WEIGHTS)
    with _no_random_weights(members), Budget(where, *size):
        return build()


def _own_sentences(config: Mapping[str, Any], head: str, where: str) -> list[list[str]]:
    return build_prompts(config, where).class_sentences(head)


@contextlib.contextmanager
def _no_random_weights(members: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Leave out the random numbers that weights replace, where a large model would draw them."""
    entries = [one.get(part) for one in members for part in ("audio_encoder", "text_encoder")]
    named = [entry.get("class") for entry in entries if isinstance(entry, Mapping)]
    if "SSLEncoder" in named or "TextEncoder" in named:
        from transformers.initialization import no_init_weights

        # It patches torch for all threads: of two at once, one would leave it patched.
        with _PATCHING, no_init_weights():
            yield
    else:
        yield


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


def local_folder(source: str | os.PathLike, also: Sequence[str] = (), **hub_options: Any) -> Path:
    """Find a folder, or download of a hub's model (``owner/name``) the files that are read here.

    ``default`` is the model in this package, and standard error is told that it answers; a
    folder of that name is ``./default``. Of a hub's, ``also`` names more files. ``hub_options``
    are ``huggingface_hub.snapshot_download``'s. ConfigurationError if it is none of these, or the
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
    text = source if isinstance(source, str | os.PathLike) else ""
    text = os.fspath(text)
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
    from huggingface_hub.utils import validate_repo_id

    nowhere = _nowhere(text)
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
    tokenizer = (f"{TOKENIZER}/{pattern}" for pattern in PATTERNS)
    return hub_files(text, [CONFIG, WEIGHTS, CLASSIFIER, *tokenizer, *also], **hub_options)


def hub_files(name: str, patterns: Sequence[str], **hub_options: Any) -> Path:
    """Download files of a hub's model; ConfigurationError if they cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **hub_options))
    except OSError as error:
        raise ConfigurationError(
            f"{_nowhere(name)}, and no model of that name can be had from the hub: {error}"
        ) from error


def _nowhere(text: str) -> str:
    return f"no folder {shortened(text)} (seen from {Path.cwd()})"


def checked_device(device: str | torch.device) -> str:
    """Name a device so that SpeechBrain takes it; ValueError if it cannot compute here."""
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(0, device=device)
    # A build of torch without CUDA asserts.
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device: {str(device)!r} cannot be used: {reason}.") from error
    # SpeechBrain warns of a "cuda" without a number.
    return "cuda:0" if str(device) == "cuda" else str(device)
