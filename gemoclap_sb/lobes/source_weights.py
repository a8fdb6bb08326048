"""Which weights of a lobe are its source's still, so that a checkpoint need not hold them.

A frozen encoder, or one with LoRA, has hundreds of millions of parameters that nobody trains. They
can be had again from where they came from, if that still has the same: each is known by a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SourceWeights:
    """What lobes have in common whose ``model`` comes from a ``source``.

    Beside `nn.Module` among the bases. A lobe calls `remember_source` once it is loaded.
    """

    source: str
    source_save_path: str = ""
    _source_digests: Mapping[str, str] = {}

    def remember_source(self: Any, save_path: str, random: Collection[str]) -> None:
        """Note the frozen parameters of ``model``, but those that are ``random``: by no source."""
        self.source_save_path = str(save_path)
        self._source_digests = {
            f"model.{name}": digest(parameter)
            for name, parameter in self.model.named_parameters()
            if not parameter.requires_grad and name not in random
        }

    def source_weights(self: Any) -> dict[str, str]:
        """Name the frozen parameters that are as the source has them, each with its digest.

        A subclass from elsewhere may load in a way of its own: it names none.
        """
        if not type(self).__module__.startswith("gemoclap_sb."):
            return {}
        own = dict(self.named_parameters())
        return {
            name: known
            for name, known in self._source_digests.items()
            if name in own and not own[name].requires_grad and digest(own[name]) == known
        }

    @classmethod
    def from_source(cls, source: str, save_path: str, config: Mapping[str, Any]) -> SourceWeights:
        """Load the module that ``to_config`` described from its source again."""
        return cls(source, save_path, **{k: of for k, of in config.items() if k != "model"})


def sources(module: nn.Module) -> dict[str, SourceWeights]:
    """List the lobes inside a module that come from a source, by name."""
    named = module.named_modules()
    return {name: of for name, of in named if isinstance(of, SourceWeights)}


def digest(tensor: Tensor) -> str:
    """Tell a tensor from others by its values, shape and type, wherever it lies.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(1, 2)), len(digest(torch.zeros(2)))
    (False, 32)
    """
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype} {list(plain.shape)}".encode())
    found.update(plain.flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:32]
