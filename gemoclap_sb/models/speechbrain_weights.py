"""Weights as SpeechBrain's checkpoints hold them: pickles, of which only tensors are taken."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint
from torch import Tensor, nn

from gemoclap_sb.models.errors import shortened, shown
from gemoclap_sb.models.weights import WeightsError


def read_state(path: Path) -> Mapping[str, Any]:
    """Read what SpeechBrain's checkpoint saved; WeightsError if it is anything but plain data."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch writes none, and would unpack a bomb.
                if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                    raise ValueError("packed")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
            raise ValueError(f"{type(state).__name__}")
        for name, tensor in state.items():
            if isinstance(tensor, Tensor) and tensor.is_meta:
                raise ValueError(f"{shortened(name, 80)} has no numbers")
            # One of a single number may claim any shape, with strides of 0.
            if isinstance(tensor, Tensor) and tensor.nbytes > tensor.untyped_storage().nbytes():
                raise ValueError(f"{shortened(name, 80)} is larger than what the file holds of it")
    # Damage shows as whatever the reader stumbles over.
    except Exception as error:
        raise WeightsError(
            f"{path}: expected a state dict that SpeechBrain has saved, found one that is damaged "
            f"or holds more than tensors ({type(error).__name__}: {shortened(str(error), 120)}). "
            "Nothing in it was run; copy or download it again."
        ) from error
    return state


def fill(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Load a state whose names, shapes and kinds of numbers must be the module's own."""
    if isinstance(module, InputNormalization):
        expected: dict[str, Any] = {"glob_mean": torch.zeros(0), "glob_std": torch.zeros(0)}
        _compare(expected, {key: state.get(key) for key in expected}, path, of_any_shape=True)
        module.count, module.glob_mean, module.glob_std = (
            state.get("count", 0), state["glob_mean"], state["glob_std"],
        )  # fmt: skip
        return
    state = hook_on_loading_state_dict_checkpoint(dict(state))
    _compare(module.state_dict(), state, path)
    module.load_state_dict(state)


def _compare(
    expected: Mapping[str, Tensor], state: Mapping[str, Any], path: Path, of_any_shape: bool = False
) -> None:
    if differing := sorted(expected.keys() ^ state.keys()):
        where = "only in the file" if differing[0] in state else "only in the model"
        raise WeightsError(
            f"{path}: expected the weights of this model, found {len(differing)} other names, "
            f"{shown(differing[0])} {where}. The file belongs to another model."
        )
    for name, tensor in expected.items():
        found = state[name]
        is_alike = (
            isinstance(found, Tensor)
            and found.layout is torch.strided
            and (of_any_shape or found.shape == tensor.shape)
            and found.is_floating_point() == tensor.is_floating_point()
        )
        if not is_alike:
            what = (
                f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else shown(found)
            )
            raise WeightsError(
                f"{path}: {shortened(name, 80)}: expected {tensor.dtype} {list(tensor.shape)}, "
                f"found {what}. The file belongs to another model."
            )
        # As the model holds it: not every kind of numbers can be looked at.
        if not torch.isfinite(found.to(tensor.dtype)).all():
            raise WeightsError(
                f"{path}: {shortened(name, 80)}: expected finite numbers, found NaN or infinity. "
                "Take another copy of the model."
            )
