"""Which classes a model may be made of, and making it of them from plain data.

A description names a class of the registries below and its arguments. Nothing else is
ever constructed: a name that is not listed, or a key that a class does not have, is an
error, so a description from somebody else cannot run code.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from gemoclap_sb.lobes.ssl_options import MODEL_TYPES as SSL_MODEL_TYPES
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.errors import ConfigurationError, shortened, shown
from gemoclap_sb.models.foreign import describe_foreign, is_foreign, refuse_foreign
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.limits import check_arguments, check_description_bounds, check_members
from gemoclap_sb.models.plain_description import (
    ClassifierDescription,
    check_alike,
    check_pooled_size,
    is_plain,
)
from gemoclap_sb.models.pooled_audio import checked_tta_speeds
from gemoclap_sb.models.tokenizer_files import CLASSES as TOKENIZERS
from gemoclap_sb.models.tokenizer_files import check_tokenizer
from gemoclap_sb.models.transformers_configs import (
    TEXT_MODEL_TYPES,
    check_transformers,
    transformers_keys,
)

CONFIG = "config.json"

# Classes by name, and the modules that they are imported from once they are named: some take
# transformers along.
_LOBES = "gemoclap_sb.lobes."
AUDIO_ENCODERS = {"SSLEncoder": _LOBES + "ssl", "ResNetEncoder": _LOBES + "resnet"}
TEXT_ENCODERS = {"TextEncoder": _LOBES + "text", "ByteTextEncoder": _LOBES + "text"}
POOLINGS = dict.fromkeys(["MaskedMeanPooling", "AttentiveStatisticsPooling"], _LOBES + "pooling")


@strict
@dataclass(kw_only=True)
class ModelDescription:
    """The keys of a model's description; one of the audio tower alone has no text encoder.

    A lobe or pooling of another package is there as a module, where a YAML has made it.
    """

    audio_encoder: dict[str, Any] | nn.Module
    pooling: dict[str, Any] | nn.Module
    text_encoder: dict[str, Any] | None = None
    heads: list[str]
    embedding_size: int
    hidden_size: int
    dropout: float | int
    trim_db: float | int | None = None
    tta_speeds: list[int] | None = None
    audio_size: int | None = None

    def validate_sizes(self) -> None:
        """Refuse what no model can have."""
        if self.trim_db is not None and not self.trim_db > 0:
            raise ValueError(f"expected a trim_db of more than 0, found {self.trim_db}")
        checked_tta_speeds(self.tta_speeds)
        if min(self.embedding_size, self.hidden_size) < 1 or not self.heads:
            raise ValueError(
                "expected an embedding_size and a hidden_size of 1 or more and one head or more, "
                f"found {self.embedding_size}, {self.hidden_size} and {shown(self.heads)}"
            )
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"expected each head once, found {shown(self.heads)}")


@strict
@dataclass(kw_only=True)
class EnsembleDescription:
    """The key of an ensemble's description: a `ModelDescription` for each of its models."""

    members: list[dict[str, Any]]

    def validate_members(self) -> None:
        """Refuse an ensemble of one, which is a model."""
        if len(self.members) < 2:
            raise ValueError(f"expected two members or more, found {len(self.members)}")


def check_description(where: str, schema: type, data: object) -> None:
    """Check plain data against a strict dataclass; ConfigurationError names the key."""
    try:
        if not isinstance(data, Mapping):
            raise TypeError(f"expected an object, found {shown(data, 40)}")
        if unknown := sorted(set(data) - set(schema.__dataclass_fields__)):
            raise TypeError(f"unknown keys {unknown}")
        schema(**data)
    except (StrictDataclassError, TypeError) as error:
        raise ConfigurationError(
            f"{where}: {shortened(str(error.__cause__ or error))}. Expected a file that the export "
            "of this package has written, unchanged."
        ) from error


def members_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the descriptions of an ensemble's members; of a model that is none, its own."""
    return config.get("members", [config])


def checked_members(config: Mapping[str, Any], where: str = CONFIG) -> list[Mapping[str, Any]]:
    """Check a description, of a model or of an ensemble, and list its members.

    ConfigurationError if a key is unknown, missing or of another type, or heads differ.
    """
    where = f"{where}: model"
    if "members" in config:
        check_description(where, EnsembleDescription, config)
    members = members_of(config)
    check_members(where, len(members))
    for one in members:
        check_description_bounds(where, one)
        check_description(where, ClassifierDescription if is_plain(one) else ModelDescription, one)
        check_alike(one, members[0], where)
        if one["heads"] != members[0]["heads"]:
            raise ConfigurationError(
                f"{where}: expected members with the same heads, found "
                f"{shown(members[0]['heads'])} and {shown(one['heads'])}."
            )
    return members


def model_config(model: nn.Module, hparams_file: Path | None = None) -> dict[str, Any]:
    """Describe a model so that `build_model` can make it again: no weights, no paths.

    A lobe or pooling that is not the package's own is described by the run's YAML, and an export
    alone can follow that (see `gemoclap_sb.models.foreign`). ConfigurationError if the model is of
    another class than `GEmoCLAP` and `AudioClassifier`, or one of its parts cannot be described.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
    >>> clap = GEmoCLAP(
    ...     ResNetEncoder(channels=[8], strides=[2]),
    ...     ByteTextEncoder(hidden_size=16, heads=2),
    ...     embedding_size=8,
    ... )
    >>> config = model_config(clap)
    >>> config["audio_encoder"]["class"], config["pooling"], config["heads"]
    ('ResNetEncoder', {'class': 'MaskedMeanPooling', 'config': {'input_size': 256}}, ['emotion'])
    >>> [*build_model(config).state_dict()] == [*clap.state_dict()]
    True
    """
    if type(model) not in (GEmoCLAP, AudioClassifier):
        raise ConfigurationError(
            f"{type(model).__name__} is a model of one's own; a GEmoCLAP or an AudioClassifier can "
            "be exported"
        )
    encoder = _describe("audio_encoder", model.audio_encoder, AUDIO_ENCODERS, hparams_file)
    pooling = _describe("pooling", model.pooling, POOLINGS, hparams_file)
    if isinstance(model, AudioClassifier):
        return {
            "audio_encoder": encoder,
            "pooling": pooling,
            "heads": list(model.heads),
            "num_classes": model.classifier.out_features,
            "embedding_size": model.embedding_size,
            "dropout": model.dropout.p,
            "trim_db": model.trim_db,
            "tta_speeds": model.tta_speeds,
            # Left out of a linear layer's description, which earlier versions read too.
            **({"cosine_scale": scale} if (scale := model.cosine_scale) is not None else {}),
        }
    # A pooling from elsewhere need not tell its size.
    pooled_size = model.audio_projections[model.heads[0]].layers[0].in_features
    return {
        "audio_encoder": encoder,
        "pooling": pooling,
        "text_encoder": _describe("text_encoder", model.text_encoder, TEXT_ENCODERS),
        **({"audio_size": pooled_size} if is_foreign(pooling) else {}),
        "heads": list(model.heads),
        "embedding_size": model.embedding_size,
        "hidden_size": model.text_projection.layers[0].out_features,
        "dropout": model.text_projection.layers[2].p,
        "trim_db": model.trim_db,
        "tta_speeds": model.tta_speeds,
    }


def encoder_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Name the encoders of a description, ``audio`` and ``text``, by kind, each kind once.

    A plain classifier has no text.
    """
    names: dict[str, dict[str, None]] = {"audio": {}, "text": {}}
    for one in members_of(config):
        for part, kinds in names.items():
            if entry := one.get(f"{part}_encoder"):
                model = entry.get("config", {}).get("model", {})
                kinds[model.get("model_type", entry["class"])] = None
    return {part: " and ".join(kinds) for part, kinds in names.items() if kinds}


def heard_speeds(config: Mapping[str, Any]) -> list[int]:
    """Speeds in % at which a description's model hears an utterance in use: 100 alone is once."""
    return sorted({speed for one in members_of(config) for speed in one.get("tta_speeds") or [100]})


def build_model(
    config: Mapping[str, Any],
    tokenizer_folder: str | os.PathLike | None = None,
    where: str = CONFIG,
    pad_short: bool = False,
) -> GEmoCLAP | AudioClassifier | GEmoCLAPEnsemble:
    """Make the model that `model_config` described, or an ensemble, with random weights.

    A `TextEncoder` needs its tokenizer's folder. ``where`` names the file in errors.
    ConfigurationError if a class is not in the registry, a key is unknown or missing, or a
    class refuses its arguments.
    """
    models = [
        _build_one(one, tokenizer_folder, where, pad_short)
        for one in checked_members(config, where)
    ]
    return GEmoCLAPEnsemble(models) if len(models) > 1 else models[0]


def _build_one(
    config: Mapping[str, Any],
    tokenizer_folder: str | os.PathLike | None,
    where: str,
    pad_short: bool,
) -> GEmoCLAP | AudioClassifier:
    shared = {
        "audio_encoder": build_audio_encoder(config["audio_encoder"], where, pad_short),
        "pooling": build_pooling(config["pooling"], where),
        "dropout": config["dropout"],
        "trim_db": config.get("trim_db"),
        "tta_speeds": config.get("tta_speeds"),
    }
    if is_plain(config):
        check_pooled_size(config, shared["pooling"], where)
        return built(
            where,
            "model",
            AudioClassifier,
            head=config["heads"][0],
            num_classes=config["num_classes"],
            cosine_scale=config.get("cosine_scale"),
            **shared,
        )
    return built(
        where,
        "model",
        GEmoCLAP,
        text_encoder=build_text_encoder(config.get("text_encoder"), tokenizer_folder, where),
        heads=config["heads"],
        embedding_size=config["embedding_size"],
        hidden_size=config["hidden_size"],
        **shared,
    )


def build_audio_encoder(entry: object, where: str = CONFIG, pad_short: bool = False) -> nn.Module:
    """Make the audio lobe of a description's ``audio_encoder``.

    With ``pad_short`` it takes waveforms shorter than a frame, whatever training chose: one
    short file must not stop a batch.
    """
    if isinstance(entry, nn.Module):
        return entry
    cls, config = _looked_up(where, "audio_encoder", entry, AUDIO_ENCODERS)
    if cls.__name__ == "SSLEncoder":
        check_transformers(where, "audio_encoder", config, SSL_MODEL_TYPES)
        config |= {"pad_short": True} if pad_short else {}
    return built(where, "model.audio_encoder", cls.from_config, config)


def build_text_encoder(
    entry: object, tokenizer_folder: str | os.PathLike | None = None, where: str = CONFIG
) -> nn.Module:
    """Make the text lobe of a description's ``text_encoder``."""
    cls, config = _looked_up(where, "text_encoder", entry, TEXT_ENCODERS)
    key = "model.text_encoder"
    if cls.__name__ != "TextEncoder":
        return built(where, key, cls.from_config, config)
    check_transformers(where, "text_encoder", config, TEXT_MODEL_TYPES)
    if tokenizer_folder is None:
        raise ConfigurationError(f"{where}: {key}: a TextEncoder needs its tokenizer's folder.")
    check_tokenizer(tokenizer_folder, config["model"].get("vocab_size"))
    encoder = built(where, key, cls.from_config, config, tokenizer_folder)
    rows = encoder.model.get_input_embeddings().num_embeddings
    if len(encoder.tokenizer) > rows:
        raise ConfigurationError(
            f"{tokenizer_folder}: expected a tokenizer of {rows} tokens at most, as many as the "
            f"text encoder of {where} has embeddings, found {len(encoder.tokenizer)}. They belong "
            "to different models."
        )
    return encoder


def build_pooling(entry: object, where: str = CONFIG) -> nn.Module:
    """Make the pooling of a description's ``pooling``."""
    if isinstance(entry, nn.Module):
        return entry
    cls, config = _looked_up(where, "pooling", entry, POOLINGS)
    return built(where, "model.pooling", cls.from_config, config)


def _describe(
    key: str, module: nn.Module, known: Mapping[str, str], hparams_file: Path | None = None
) -> dict[str, Any]:
    name = type(module).__name__
    if known.get(name) != type(module).__module__:
        if hparams_file is not None:
            return describe_foreign(key, module, hparams_file)
        raise ConfigurationError(
            f"{key}: {type(module).__module__}.{name} is not one of the package's own "
            f"({', '.join(known)}), so an exported folder could not build it again"
        )
    config = module.to_config()
    if name in ("SSLEncoder", "TextEncoder"):
        allowed = SSL_MODEL_TYPES if name == "SSLEncoder" else TEXT_MODEL_TYPES
        kind = config["model"]["model_type"]
        if kind not in allowed:
            raise ConfigurationError(
                f"{key}: the model_type {kind!r} is not among those that an exported folder may "
                f"name ({', '.join(allowed)})"
            )
        tokenizer = type(getattr(module, "tokenizer", None)).__name__
        if name == "TextEncoder" and tokenizer not in TOKENIZERS:
            raise ConfigurationError(
                f"{key}: the tokenizer {tokenizer} is not among those that an exported folder may "
                f"name ({', '.join(sorted(TOKENIZERS))})"
            )
        # Checkpoints carry keys of their authors' own, which the class does not read.
        known_keys = transformers_keys(kind)
        config["model"] = {k: v for k, v in config["model"].items() if k in known_keys}
    return {"class": name, "config": config}


def _looked_up(
    where: str, key: str, entry: object, known: Mapping[str, str]
) -> tuple[type, dict[str, Any]]:
    if is_foreign(entry):
        refuse_foreign(where, key, entry)
    if not (isinstance(entry, Mapping) and set(entry) == {"class", "config"}):
        raise ConfigurationError(
            f"{where}: model.{key}: expected a class and its config, found {shown(entry)}."
        )
    name, config = entry["class"], entry["config"]
    if not isinstance(name, str) or name not in known:
        raise ConfigurationError(
            f"{where}: model.{key}.class: expected one of {', '.join(known)}, found "
            f"{shown(name)}. "
            "Nothing else is constructed."
        )
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            f"{where}: model.{key}.config: expected an object, found {shown(config)}."
        )
    cls = getattr(import_module(known[name]), name)
    built(where, f"model.{key}", check_arguments, cls, config)
    return cls, dict(config)


def built(where: str, key: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a constructor; whatever it says against its arguments becomes one kind of error."""
    try:
        return make(*args, **kwargs)
    except ConfigurationError:
        raise
    # The tokenizers, in Rust, panic with an error of their own, which is no Exception.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ConfigurationError(
            f"{where}: {key}: nothing can be built from these values: "
            f"{type(error).__name__}: {shortened(str(error))}"
        ) from error
