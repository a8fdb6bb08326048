"""One zygote and one undisturbed run for all tests of a process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import KILLED, Ended, Zygote, command, result
from tests.faults.train import write_corpus


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def tones_corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("tones") / "corpus")


@pytest.fixture(scope="session")
def whole(zygote, tones_corpus, tmp_path_factory) -> tuple[Path, Ended]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = zygote.run(command(tones_corpus, folder))
    assert ended.status == 0, ended.printed
    return folder, ended


@pytest.fixture(scope="session")
def undisturbed(whole) -> dict[str, Any]:
    return result(whole[0])


@pytest.fixture(scope="session")
def two_epochs(zygote, tones_corpus, tmp_path_factory) -> Path:
    """A run killed when the checkpoint of its third epoch, the last one, was to be written."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    ended = zygote.run(command(tones_corpus, folder), at=["checkpoint", 3, 1])
    assert ended.status == KILLED and ended.stage == "checkpoint", ended.printed
    return folder


@pytest.fixture
def begun(two_epochs, tmp_path) -> Path:
    """A copy of `two_epochs`."""
    return shutil.copytree(two_epochs, tmp_path / "run")
