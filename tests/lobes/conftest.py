"""Small self-supervised encoders on disk, each saved once per test session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_models import save_small_ssl


@pytest.fixture(scope="session")
def small_ssl(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`small_ssl(family, norm, **overrides)` gives the folder of a small model."""
    folders: dict[tuple, Path] = {}

    def folder(family: str = "wavlm", norm: str = "layer", **overrides: object) -> Path:
        key = (family, norm, *sorted(overrides.items()))
        if key not in folders:
            target = tmp_path_factory.mktemp(f"{family}-{norm}")
            folders[key] = save_small_ssl(target, family, norm, **overrides)
        return folders[key]

    return folder
