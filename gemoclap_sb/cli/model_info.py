"""What an exported folder holds, told from its description and its files without loading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.evaluation.report import metrics_table
from gemoclap_sb.inference.loading import WEIGHTS, local_folder
from gemoclap_sb.models.building import CONFIG, build_model
from gemoclap_sb.models.configuration import TOKENIZER, build_prompts, read_config
from gemoclap_sb.models.towers import LONGEST_SECONDS
from gemoclap_sb.models.weights import check_weights


def model_info(source: str | os.PathLike) -> dict[str, Any]:
    """Describe an exported model.

    Parameters
    ----------
    source : str or os.PathLike
        An exported folder, or ``owner/name`` on the Hugging Face hub.

    Returns
    -------
    dict
        Plain JSON types: ``folder``; ``attributes``, of each that can be classified its
        ``labels`` with their words and its ``templates``; ``encoders``; ``parameters``, how
        many each part has; ``embedding_size``;
        ``sample_rate`` in Hz; ``longest_seconds``; ``temperatures``; ``metrics`` of the run,
        or None; ``files``, sizes in bytes.

    Raises
    ------
    ConfigurationError, WeightsError
        If the folder is not what an export wrote.
    """
    folder = local_folder(source)
    path = folder / CONFIG
    config = read_config(path)
    # On this device a model takes no memory.
    with torch.device("meta"):
        model = build_model(config["model"], folder / TOKENIZER, str(path))
    check_weights(model, folder / WEIGHTS)
    prompts = build_prompts(config, str(path))
    encoders = {
        part: config["model"][f"{part}_encoder"]["config"]
        .get("model", {})
        .get("model_type", config["model"][f"{part}_encoder"]["class"])
        for part in ("audio", "text")
    }
    parts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in model.named_children()
    }
    return {
        "folder": str(folder),
        "attributes": {
            name: {"labels": prompts.words[name], "templates": prompts.templates[name]}
            for name in config["model"]["heads"]
            if name in prompts.templates
        },
        "encoders": encoders,
        "parameters": {name: count for name, count in parts.items() if count},
        "embedding_size": config["model"]["embedding_size"],
        "sample_rate": config["sample_rate"],
        "longest_seconds": config.get("longest_seconds", LONGEST_SECONDS),
        "temperatures": config.get("temperatures"),
        "metrics": config.get("metrics"),
        "files": {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }


def info_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Lay out for the terminal what `model_info` returned.

    Parameters
    ----------
    info : Mapping
        See `model_info`.

    Yields
    ------
    str
        Without line ends.
    """
    yield str(info["folder"])
    for name, attribute in info["attributes"].items():
        yield ""
        yield f"{name}: {len(attribute['labels'])} classes"
        width = max(map(len, attribute["labels"]))
        yield from (f"  {label:<{width}}  {word}" for label, word in attribute["labels"].items())
        yield "  in the sentences"
        yield from (f"    {template}" for template in attribute["templates"])
    total = sum(info["parameters"].values())
    yield ""
    yield f"encoders: {info['encoders']['audio']} (audio), {info['encoders']['text']} (text)"
    yield f"embeddings of size {info['embedding_size']}, audio at {info['sample_rate']} Hz"
    yield f"parameters: {total:,}"
    width = max(map(len, info["parameters"]))
    yield from (f"  {name:<{width}}  {count:>13,}" for name, count in info["parameters"].items())
    yield ""
    if info["metrics"]:
        measured = info["metrics"]
        yield f"measured on the run's test set (fold {measured.get('fold')}):"
        table = metrics_table(ClassificationMetrics.from_dict(measured))
        yield from (f"  {line}" for line in table.splitlines())
    else:
        yield "not measured: the run was exported before it was tested"
    yield ""
    yield "files:"
    width = max(map(len, info["files"]))
    yield from (f"  {name:<{width}}  {_size(size):>9}" for name, size in info["files"].items())


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
