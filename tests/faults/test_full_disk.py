"""A disk that is full is told in one line, and with room the run ends as an undisturbed one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import assert_same, command

pytestmark = [pytest.mark.faults, pytest.mark.slow]

AGAIN = "Make room there. The same command goes on from the last checkpoint."


@pytest.mark.parametrize(
    ("stage", "size"), [("prepare", 500), ("train", 100), ("checkpoint", 20_000), ("report", 500)]
)
def test_files_that_may_not_grow(stage, size, zygote, tones_corpus, begun, undisturbed):
    """A write fails as on a full disk: in a manifest, in the logs, in weights, in a picture."""
    shutil.rmtree(begun / "manifests")
    argv = command(tones_corpus, begun)
    ended = zygote.run(argv, limit=[stage, size, False])
    assert ended.status == 1, ended.printed
    assert ended.error().startswith(f"error: {begun} cannot be written: ")
    assert ended.error().endswith(AGAIN)
    assert not (begun / "metrics.json").exists()
    assert zygote.run(argv).status == 0
    assert_same(begun, undisturbed)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, without room for a whole run."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_full_disk(small_disk, zygote, tones_corpus, undisturbed):
    argv = command(tones_corpus, small_disk / "run")
    ended = zygote.run(argv)
    assert ended.status == 1, ended.printed
    assert ended.error().startswith(f"error: {small_disk}/run cannot be written: ")
    assert list(small_disk.glob("run/save/CKPT*"))
    assert not (small_disk / "run/metrics.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert zygote.run(argv).status == 0
    assert_same(small_disk / "run", undisturbed)
