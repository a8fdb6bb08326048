"""The newest checkpoint damaged: the run falls back, says so, and ends as an undisturbed one."""

from __future__ import annotations

import os
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
def test_damaged(way: Callable, name: str, said: str, zygote, tones_corpus, begun, undisturbed):
    newest = max(begun.glob("save/CKPT*"))
    way(newest / name)
    ended = zygote.run(command(tones_corpus, begun))
    assert ended.status == 0, ended.printed
    assert f"{newest} is damaged" in ended.printed and said in ended.printed
    assert_same(begun, undisturbed)


def test_all_damaged(zygote, tones_corpus, begun):
    """Nothing starts from zero unasked."""
    for path in begun.glob("save/CKPT*"):
        truncate(path / "clap.ckpt")
    ended = zygote.run(command(tones_corpus, begun))
    assert ended.status == 2
    assert "none of its 2 checkpoints can be loaded" in ended.error()
    assert "Put one back from a copy, or delete" in ended.error()
    assert "train" not in [stage for _, stage, *_ in ended.events]
