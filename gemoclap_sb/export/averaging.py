"""The models of several runs as one that averages them; what cannot be averaged is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gemoclap_sb.export.trained import ExportError, Model
from gemoclap_sb.files import file_digest
from gemoclap_sb.models.configuration import TOKENIZER
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble

_SHARED = ("sample_rate", "labels", "words", "templates")


def averaged(
    runs: Sequence[Path], configs: Sequence[Mapping[str, Any]], models: Sequence[Model]
) -> tuple[dict[str, Any], GEmoCLAPEnsemble]:
    """Put the models of two or more runs together.

    Returns what ``config.json`` holds, and the ensemble. ExportError if a run is there twice, or
    runs differ in their kind, heads, classes, prompts, sample rate or tokenizer.
    """
    for (first, one), (second, other) in combinations(zip(runs, models, strict=True), 2):
        if _are_equal(one, other):
            raise ExportError(
                f"{first} and {second} hold the same model; averaging it with itself changes "
                "nothing. Name each run once."
            )
    found = [
        {
            "kind of model": type(model).__name__,
            "heads": config["model"]["heads"],
            **{key: config[key] for key in _SHARED},
        }
        for config, model in zip(configs, models, strict=True)
    ]
    for run, of in zip(runs, found, strict=True):
        for key, value in of.items():
            if value != found[0][key]:
                raise ExportError(
                    f"{runs[0]} and {run} cannot be averaged: expected the same {key}, found "
                    f"{found[0][key]} and {value}."
                )
    tokenizers = [_tokenizer(run) for run in runs if (run / TOKENIZER).is_dir()]
    if any(one != tokenizers[0] for one in tokenizers):
        raise ExportError(
            f"{', '.join(map(str, runs))} cannot be averaged: their {TOKENIZER}/ differ, and an "
            "export has one. Average runs of one text encoder."
        )
    members = {"members": [config["model"] for config in configs]}
    return {**configs[0], "model": members}, GEmoCLAPEnsemble(models)


def _are_equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[name]) for name, tensor in mine.items()
    )


def _tokenizer(run: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in (run / TOKENIZER).iterdir()}
