"""What a disk loses of a run is told; nothing is made up, nor begun from zero unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import assert_same, command

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("way", "name", "said"),
    [
        (truncate, "optimizer.ckpt", "were written)"),
        (os.unlink, "clap.ckpt", "clap.ckpt is missing"),
    ],
)
def test_newest_checkpoint(
    way: Callable, name: str, said: str, zygote, tones_corpus, begun, undisturbed
):
    newest = max(begun.glob("save/CKPT*"))
    way(newest / name)
    ended = zygote.run(command(tones_corpus, begun))
    assert ended.status == 0, ended.printed
    assert f"{newest} is damaged" in ended.printed and said in ended.printed
    assert_same(begun, undisturbed)


def test_all_checkpoints(zygote, tones_corpus, begun):
    for path in begun.glob("save/CKPT*"):
        truncate(path / "clap.ckpt")
    ended = zygote.run(command(tones_corpus, begun))
    assert ended.status == 2
    assert "none of its 2 checkpoints can be loaded" in ended.error()
    assert "Put one back from a copy, or delete" in ended.error()
    assert "train" not in [stage for _, stage, *_ in ended.events]


def test_settings(zygote, tones_corpus, begun, undisturbed):
    """Or the run could be gone on with by others."""
    kept = (begun / "settings.json").rename(begun / "kept.json")
    argv = command(tones_corpus, begun)
    for options in ({"lr": 0.002}, {}):
        ended = zygote.run(command(tones_corpus, begun, **options))
        assert ended.status == 2, ended.printed
        assert "not the settings.json" in ended.error() and "put it back" in ended.error()
    kept.rename(begun / "settings.json")
    assert zygote.run(argv).status == 0
    assert_same(begun, undisturbed)


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
def test_result(name, zygote, whole, tones_corpus, undisturbed, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    truncate(folder / name)
    argv = command(tones_corpus, folder)
    ended = zygote.run(argv)
    assert ended.status == 2, ended.printed
    assert f"{folder / name} is damaged" in ended.error() and "or delete it" in ended.error()
    (folder / name).unlink()
    assert zygote.run(argv).status == 0
    assert_same(folder, undisturbed)
