"""Which classes a model may be made of, and making it of them from plain data.

A description names a class of the registries below and its arguments. Nothing else is
ever constructed: a name that is not listed, or a key that a class does not have, is an
error, so a description from somebody else cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING

from gemoclap_sb.lobes.pooling import AttentiveStatisticsPooling, MaskedMeanPooling
from gemoclap_sb.lobes.scratch import ScratchEncoder
from gemoclap_sb.lobes.ssl import SSLEncoder
from gemoclap_sb.lobes.ssl_options import MODEL_TYPES as SSL_MODEL_TYPES
from gemoclap_sb.lobes.text import ByteTextEncoder, TextEncoder
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.tokenizer_files import check_tokenizer

CONFIG = "config.json"

AUDIO_ENCODERS = {cls.__name__: cls for cls in (SSLEncoder, ScratchEncoder)}
TEXT_ENCODERS = {cls.__name__: cls for cls in (TextEncoder, ByteTextEncoder)}
POOLINGS = {cls.__name__: cls for cls in (MaskedMeanPooling, AttentiveStatisticsPooling)}
TEXT_MODEL_TYPES = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)

_MODEL = ("audio_encoder", "pooling", "heads", "embedding_size", "hidden_size", "dropout")
# Of a transformers configuration: paths, history, and what the weights themselves say.
_LEFT_OUT = ("_name_or_path", "architectures", "transformers_version", "dtype")


class ConfigurationError(ValueError):
    """A model that cannot be described, or a description that cannot be followed."""


def model_config(model: nn.Module) -> dict[str, Any]:
    """Describe a model so that `build_model` can make it again.

    Parameters
    ----------
    model : nn.Module
        A `GEmoCLAP` whose lobes and pooling are the package's own.

    Returns
    -------
    dict
        Plain data, ready for JSON. No weights and no paths.

    Raises
    ------
    ConfigurationError
        If the model is of another class, or made of modules from elsewhere.

    Examples
    --------
    >>> clap = GEmoCLAP(
    ...     ScratchEncoder(channels=16), ByteTextEncoder(hidden_size=16, heads=2), embedding_size=8
    ... )
    >>> config = model_config(clap)
    >>> config["audio_encoder"]["class"], config["pooling"], config["heads"]
    ('ScratchEncoder', {'class': 'MaskedMeanPooling', 'config': {'input_size': 48}}, ['emotion'])
    >>> [*build_model(config).state_dict()] == [*clap.state_dict()]
    True
    """
    if type(model) is not GEmoCLAP:
        raise ConfigurationError(
            f"{type(model).__name__} has no text tower to be asked with words; only a GEmoCLAP "
            "can be exported"
        )
    return {
        "audio_encoder": _describe("audio_encoder", model.audio_encoder, AUDIO_ENCODERS),
        "pooling": _describe("pooling", model.pooling, POOLINGS),
        "text_encoder": _describe("text_encoder", model.text_encoder, TEXT_ENCODERS),
        "heads": list(model.heads),
        "embedding_size": model.embedding_size,
        "hidden_size": model.text_projection.layers[0].out_features,
        "dropout": model.text_projection.layers[2].p,
    }


def build_model(
    config: Mapping[str, Any],
    tokenizer_folder: str | os.PathLike | None = None,
    where: str = CONFIG,
) -> GEmoCLAP:
    """Make the model that a configuration describes, with random weights.

    Parameters
    ----------
    config : Mapping
        What `model_config` returned, ``config.json``'s ``model``.
    tokenizer_folder : str or os.PathLike, optional
        Needed for a `TextEncoder`.
    where : str
        The file's name, for errors.

    Returns
    -------
    GEmoCLAP
        In training mode, as after its constructor.

    Raises
    ------
    ConfigurationError
        If a class is not in the registry, a key is unknown or missing, or a class
        refuses its arguments.
    """
    check_model(config, where, with_text=True)
    return built(
        where,
        "model",
        GEmoCLAP,
        audio_encoder=build_audio_encoder(config["audio_encoder"], where),
        text_encoder=build_text_encoder(config["text_encoder"], tokenizer_folder, where),
        pooling=build_pooling(config["pooling"], where),
        heads=config["heads"],
        embedding_size=config["embedding_size"],
        hidden_size=config["hidden_size"],
        dropout=config["dropout"],
    )


def check_model(config: object, where: str = CONFIG, with_text: bool = False) -> None:
    """Check the keys and sizes of a model's description.

    Parameters
    ----------
    config : object
        What shall be a description; one of the audio tower alone has no ``text_encoder``.
    where : str
        The file's name, for errors.
    with_text : bool
        Whether ``text_encoder`` is required.

    Raises
    ------
    ConfigurationError
        Naming the key.
    """
    text = ("text_encoder",)
    check_keys(f"{where}: model", config, _MODEL + (text if with_text else ()), text)
    for key in ("embedding_size", "hidden_size"):
        if not is_count(config[key]):
            raise ConfigurationError(
                f"{where}: model.{key}: expected a whole number from 1, found {config[key]!r}."
            )
    heads = config["heads"]
    if not (isinstance(heads, list) and heads and all(isinstance(head, str) for head in heads)):
        raise ConfigurationError(
            f"{where}: model.heads: expected a list of names, found {heads!r}."
        )


def build_audio_encoder(entry: Mapping[str, Any], where: str = CONFIG) -> nn.Module:
    """Make the audio lobe of a description's ``audio_encoder``; see `build_model`."""
    cls, config = _looked_up(where, "audio_encoder", entry, AUDIO_ENCODERS)
    key = "model.audio_encoder"
    if cls is SSLEncoder:
        _check_transformers(where, f"{key}.config.model", config.get("model"), SSL_MODEL_TYPES)
    return built(where, key, cls.from_config, config)


def build_text_encoder(
    entry: Mapping[str, Any],
    tokenizer_folder: str | os.PathLike | None = None,
    where: str = CONFIG,
) -> nn.Module:
    """Make the text lobe of a description's ``text_encoder``; see `build_model`."""
    cls, config = _looked_up(where, "text_encoder", entry, TEXT_ENCODERS)
    key = "model.text_encoder"
    if cls is not TextEncoder:
        return built(where, key, cls.from_config, config)
    check_keys(f"{where}: {key}.config", config, ("model", "freeze", "gradient_checkpointing"))
    _check_transformers(where, f"{key}.config.model", config["model"], TEXT_MODEL_TYPES)
    if tokenizer_folder is None:
        raise ConfigurationError(f"{where}: {key}: a TextEncoder needs its tokenizer's folder.")
    try:
        check_tokenizer(tokenizer_folder)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    encoder = built(where, key, cls.from_config, config, tokenizer_folder)
    rows = encoder.model.get_input_embeddings().num_embeddings
    if len(encoder.tokenizer) > rows:
        raise ConfigurationError(
            f"{tokenizer_folder}: expected a tokenizer of {rows} tokens at most, as many as the "
            f"text encoder of {where} has embeddings, found {len(encoder.tokenizer)}. They belong "
            "to different models."
        )
    return encoder


def build_pooling(entry: Mapping[str, Any], where: str = CONFIG) -> nn.Module:
    """Make the pooling of a description's ``pooling``; see `build_model`."""
    cls, config = _looked_up(where, "pooling", entry, POOLINGS)
    return built(where, "model.pooling", lambda: cls(**config))


def _describe(key: str, module: nn.Module, known: Mapping[str, type]) -> dict[str, Any]:
    name = type(module).__name__
    if known.get(name) is not type(module):
        raise ConfigurationError(
            f"{key}: {type(module).__module__}.{name} is not one of the package's own "
            f"({', '.join(known)}), so an exported folder could not build it again"
        )
    if isinstance(module, MaskedMeanPooling):
        config = {"input_size": module.output_size}
    elif isinstance(module, AttentiveStatisticsPooling):
        config = {
            "input_size": module.output_size // 2,
            "attention_channels": module.attention.conv.conv.in_channels,
        }
    else:
        config = module.to_config()
    if isinstance(module, SSLEncoder | TextEncoder):
        allowed = SSL_MODEL_TYPES if isinstance(module, SSLEncoder) else TEXT_MODEL_TYPES
        kind = config["model"]["model_type"]
        if kind not in allowed:
            raise ConfigurationError(
                f"{key}: the model_type {kind!r} is not among those that an exported folder may "
                f"name ({', '.join(allowed)})"
            )
        # Checkpoints carry keys of their authors' own, which the class does not read.
        known_keys = _transformers_keys(kind)
        config["model"] = {k: v for k, v in config["model"].items() if k in known_keys}
    return {"class": name, "config": config}


def _looked_up(
    where: str, key: str, entry: object, known: Mapping[str, type]
) -> tuple[type, dict[str, Any]]:
    key = f"model.{key}"
    check_keys(f"{where}: {key}", entry, ("class", "config"))
    name, config = entry["class"], entry["config"]
    if not isinstance(name, str) or name not in known:
        raise ConfigurationError(
            f"{where}: {key}.class: expected one of {', '.join(known)}, found {name!r}. "
            "Nothing else is constructed."
        )
    if not isinstance(config, dict):
        raise ConfigurationError(f"{where}: {key}.config: expected an object, found {config!r}.")
    return known[name], dict(config)


def _transformers_keys(model_type: str) -> set[str]:
    default = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    return set(default) - set(_LEFT_OUT)


def _check_transformers(where: str, key: str, config: object, allowed: Collection[str]) -> None:
    """Let through the keys of the configuration's class only.

    Among the others are some by which transformers fetches code: ``auto_map``, and an
    attention implementation that names a repository of kernels.
    """
    if not isinstance(config, dict) or config.get("model_type") not in allowed:
        found = config.get("model_type") if isinstance(config, dict) else config
        raise ConfigurationError(
            f"{where}: {key}: expected a model_type among {', '.join(allowed)}, found {found!r}."
        )
    check_keys(f"{where}: {key}", config, ("model_type",), _transformers_keys(config["model_type"]))


def check_keys(
    where: str, mapping: object, required: Collection[str], optional: Collection[str] = ()
) -> None:
    """Check that an object has the keys it needs and no others.

    Parameters
    ----------
    where : str
        File and key of the object, for errors.
    mapping : object
        What shall be an object.
    required, optional : Collection[str]
        The keys it must and may have.

    Raises
    ------
    ConfigurationError
        Naming the keys.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(f"{where}: expected an object, found {mapping!r}.")
    missing = [key for key in required if key not in mapping]
    unknown = [key for key in mapping if key not in required and key not in optional]
    if missing or unknown:
        raise ConfigurationError(
            f"{where}: missing keys {missing}, unknown keys {unknown}. Expected a file that the "
            "export of this package has written, unchanged."
        )


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def built(where: str, key: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a constructor; whatever it says against its arguments becomes one kind of error."""
    try:
        return make(*args, **kwargs)
    except ConfigurationError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigurationError(
            f"{where}: {key}: nothing can be built from these values: "
            f"{type(error).__name__}: {error}"
        ) from error
