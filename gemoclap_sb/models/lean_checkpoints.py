"""Checkpoints that hold what was trained, and name the rest by its source.

What a frozen encoder, or the one below LoRA, has from its ``source`` and nobody has changed is left
out, and stands in the checkpoint under `LEFT_OUT`: the source, and a digest of each parameter. It
is taken from the model that is being recovered, which has loaded the source by itself, and only if
the digests agree. Parameters that are trained, changed, or of no source are kept, and so are all
buffers. A checkpoint that leaves nothing out is a plain ``state_dict``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint
from speechbrain.utils.logger import get_logger
from torch import Tensor, nn

from gemoclap_sb.lobes.source_weights import digest, sources

logger = get_logger(__name__)

LEFT_OUT = "left_out"
_RECORDED = {"source", "save_path", "digests"}


class SourceError(ValueError):
    """The pretrained weights that a checkpoint counts on are others, or gone."""


def lean_state(model: nn.Module) -> dict[str, Any]:
    """Give a model's ``state_dict`` without what its sources have."""
    state = model.state_dict()
    left_out = {}
    for name, lobe in sources(model).items():
        if digests := lobe.source_weights():
            left_out[name] = {
                "source": _absolute(lobe.source),
                "save_path": os.path.abspath(lobe.source_save_path),
                "digests": digests,
            }
            for parameter in digests:
                del state[_joined(name, parameter)]
    if left_out:
        state[LEFT_OUT] = left_out
    return state


def read_state(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Read a checkpoint, tensors and text only: what it holds, and by lobe what it leaves out.

    SourceError if what it leaves out is not told as here.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    left_out = state.pop(LEFT_OUT, {})
    if not _is_record(left_out):
        raise SourceError(f"{path}: what it leaves out is not told as this version tells it.")
    # Modules of SpeechBrain's have had other names.
    return hook_on_loading_state_dict_checkpoint(state), left_out


def complete(
    state: dict[str, Tensor], left_out: dict[str, dict[str, Any]], model: nn.Module, path: object
) -> None:
    """Add what a checkpoint leaves out from a model that has it; SourceError if that is not so.

    A parameter that the model has not is not added.
    """
    own = dict(model.named_parameters())
    for name, of in left_out.items():
        for parameter, known in of["digests"].items():
            whole = _joined(name, parameter)
            if whole not in own:
                continue
            if digest(own[whole]) != known:
                used = getattr(sources(model).get(name), "source", "this model")
                raise SourceError(
                    f"{path} goes with the pretrained weights of {of['source']}, which it leaves "
                    f"out; those of {used} are others ({whole}). Give the weights that it was "
                    "trained on."
                )
            state[whole] = own[whole].detach()


def recover(model: nn.Module, path: str | os.PathLike) -> None:
    """Load a checkpoint into a model that has loaded its sources.

    SourceError if the sources are not those of the checkpoint, RuntimeError if the model is
    another.
    """
    state, left_out = read_state(path)
    complete(state, left_out, model, path)
    model.load_state_dict(state)


def transfer(model: nn.Module, path: str | os.PathLike) -> None:
    """Load what a checkpoint and a model have in common, as SpeechBrain's Pretrainer does.

    What only one of them has is told. SourceError as of `recover`.
    """
    state, left_out = read_state(path)
    complete(state, left_out, model, path)
    differing = model.load_state_dict(state, strict=False)
    for where, names in (("checkpoint", differing.missing_keys), ("model", differing[1])):
        if names:
            few = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}"
            logger.warning("%s: no place in the %s for %s", path, where, few)


def _is_record(left_out: object) -> bool:
    return isinstance(left_out, dict) and all(
        isinstance(of, dict)
        and of.keys() == _RECORDED
        and isinstance(of["source"], str)
        and isinstance(of["save_path"], str)
        and isinstance(of["digests"], dict)
        for of in left_out.values()
    )


def _absolute(source: str) -> str:
    """Spell a folder so that it is found from anywhere; a hub's id stays."""
    return os.path.abspath(source) if Path(source).exists() else source


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))
