"""Configurations of transformers in a model's description: which, and which of their keys."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from gemoclap_sb.models.errors import ConfigurationError, shown

TEXT_MODEL_TYPES = (
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
# Of a transformers configuration: paths, history, and what the weights themselves say.
_LEFT_OUT = ("_name_or_path", "architectures", "transformers_version", "dtype")


def transformers_keys(model_type: str) -> set[str]:
    """List the keys that a configuration of transformers knows, but for paths and history."""
    from transformers import CONFIG_MAPPING

    default = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    return set(default) - set(_LEFT_OUT)


def check_transformers(
    where: str, key: str, config: Mapping[str, Any], allowed: Collection[str]
) -> None:
    """Let through the keys of the transformers configuration's class only.

    Among the others are some by which transformers fetches code: ``auto_map``, and an
    attention implementation that names a repository of kernels.
    """
    where, model = f"{where}: model.{key}.config.model", config.get("model")
    kind = model.get("model_type") if isinstance(model, Mapping) else model
    if not isinstance(model, Mapping) or not isinstance(kind, str) or kind not in allowed:
        raise ConfigurationError(
            f"{where}: expected a model_type among {', '.join(allowed)}, found {shown(kind)}."
        )
    if unknown := sorted(set(model) - transformers_keys(kind)):
        raise ConfigurationError(
            f"{where}: unknown keys {shown(unknown)}. Expected a file that the export of this "
            "package has written, unchanged."
        )
