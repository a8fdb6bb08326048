"""A run of all stages, for all tests of a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas
import pytest

from tests.training.gmp_tl.runs import Data, run


@pytest.fixture(scope="session")
def data(small_manifests, tmp_path_factory) -> Data:
    """Three manifests of few utterances, each class and gender among them, and their root."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", 30), ("valid", 8), ("test", 12)):
        table = pandas.read_csv(small_manifests[f"{split}_csv"], dtype=str)
        table.iloc[:: max(1, len(table) // rows)].to_csv(folder / f"{split}.csv", index=False)
    given = {f"{split}_csv": folder / f"{split}.csv" for split in ("train", "valid", "test")}
    return {**given, "data_folder": Path(small_manifests["data_root"])}


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory) -> Path:
    """A run of all stages that nothing disturbed."""
    folder = tmp_path_factory.mktemp("gmp_tl") / "fold_1"
    assert run(folder, data) == 0
    return folder


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of `whole`, elsewhere."""
    return shutil.copytree(whole, tmp_path / "fold_1")
