"""Modules that can be made again from the arguments they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn


class Configured(nn.Module):
    """A module described by its constructor's arguments.

    A subclass begins its constructor with ``super().__init__(locals())``. Arguments that matter to
    training alone stand in its ``TRAINING_ONLY``: with others the module computes the same.
    """

    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        given = arguments.items()
        self._config = {name: value for name, value in given if name not in ("self", "__class__")}

    def to_config(self) -> dict[str, Any]:
        """Plain data from which `from_config` builds the same module, without weights."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Configured:
        """Build the module of a configuration; weights are random."""
        return cls(**config)
