"""SIGKILL at random moments of every stage, and before each change of a file in two of them."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from gemoclap_sb.training.checkpoint_files import compare_sums, listed_checkpoints
from tests.faults.processes import KILLED, RESULT, assert_same, command, telling

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STAGES = ("begin", "prepare", "train", "valid", "checkpoint", "test", "report")
# Slowed down where files are changed, so that each change may be hit.
PAUSES = dict.fromkeys(("begin", "prepare", "checkpoint", "report"), 0.01)
HITS, MOST_TRIES = 2, 50


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(seed, zygote, tones_corpus, whole, undisturbed, tmp_path):
    """Twice in every stage, with checkpoints amid the epochs; whatever ends is as undisturbed."""
    rng = random.Random(seed)
    tried: list[tuple] = []
    folder = tmp_path / "0"
    for stage in STAGES:
        pause = PAUSES.get(stage, 0.0)
        seconds = whole[1].seconds(stage) + pause * len(whole[1].changes(stage))
        hits = 0
        while hits < HITS:
            assert len(tried) < MOST_TRIES, tried
            if stage == "prepare":
                # What was prepared would not be prepared again.
                (folder / "manifests/prepare.json").unlink(missing_ok=True)
            argv = command(tones_corpus, folder, "--ckpt_interval_steps", "4")
            moment = rng.uniform(0, 0.9 * seconds)
            ended = zygote.run(argv, kill=(stage, moment), pause=pause)
            tried.append((folder.name, stage, round(moment, 4), ended.status, ended.stage))
            assert ended.status in (0, KILLED), (tried, ended.printed)
            hits += ended.stage == stage
            if ended.status == 0:
                # There was nothing left to kill.
                assert_same(folder, undisturbed)
                folder = tmp_path / str(len(tried))
    ended = zygote.run(argv)
    assert ended.status == 0, (tried, ended.printed)
    assert_same(folder, undisturbed)


def test_killed_before_every_change_in_a_report(zygote, tones_corpus, whole, undisturbed, tmp_path):
    """Each file is whole or absent, and ``metrics.json`` is there when all others are."""
    folder = tmp_path / "run"
    argv = command(tones_corpus, folder)
    changes = whole[1].changes("report")
    assert len(changes) == 3 * (1 + len(RESULT)), changes
    for number in telling(changes):
        ended = zygote.run(argv, at=["report", 1, number])
        assert (ended.status, ended.stage) == (KILLED, "report"), ended.printed
        there = [name for name in RESULT if (folder / name).exists()]
        assert all((folder / name).read_bytes() == undisturbed[name] for name in there), number
        assert "metrics.json" not in there or there == list(RESULT), number
    assert zygote.run(argv).status == 0
    assert_same(folder, undisturbed)


def test_killed_between_changes_of_a_checkpoint(
    zygote, tones_corpus, two_epochs, whole, undisturbed, tmp_path
):
    """That of the third epoch, for which that of the first is deleted."""
    changes = whole[1].changes("checkpoint", 3)
    assert any(change.startswith("os.rmdir") for change in changes), changes
    for number, change in enumerate(changes, start=1):
        # Of the files in a folder that is hidden, some are enough.
        if number % 3 != 1 and not change.startswith(("os.rename", "os.rmdir")):
            continue
        folder = shutil.copytree(two_epochs, tmp_path / str(number))
        argv = command(tones_corpus, folder)
        # The first of this process.
        ended = zygote.run(argv, at=["checkpoint", 1, number])
        assert (ended.status, ended.stage) == (KILLED, "checkpoint"), ended.printed
        found, damaged = listed_checkpoints(folder / "save")
        assert not damaged and all(compare_sums(checkpoint.path) for checkpoint in found)
        epochs = [checkpoint.meta["epoch"] for checkpoint in found]
        assert epochs in ([2, 1], [3, 2, 1], [3, 2]), change
    ended = zygote.run(argv)
    assert ended.status == 0 and "damaged" not in ended.printed
    assert_same(folder, undisturbed)


def test_killed_amid_a_file_of_a_checkpoint(zygote, tones_corpus, begun, undisturbed):
    """By the system, at the byte that a limit forbids."""
    argv = command(tones_corpus, begun)
    size = max(path.stat().st_size for path in begun.glob("save/CKPT*/*.ckpt")) // 2
    ended = zygote.run(argv, limit=["checkpoint", size, True])
    assert ended.status == -signal.SIGXFSZ and ended.stage == "checkpoint"
    [partial] = begun.glob("save/.partial-*")
    assert max(path.stat().st_size for path in partial.iterdir()) == size
    assert zygote.run(argv).status == 0
    assert_same(begun, undisturbed)


def test_killed_with_checkpoints_by_the_clock(zygote, tones_corpus, undisturbed, tmp_path):
    """Their places depend on how fast the machine is; the result does not."""
    argv = command(tones_corpus, tmp_path / "run", "--ckpt_interval_minutes", "1")
    # A minute in two hundredths of a second.
    for entry in (2, 3, 4):
        ended = zygote.run(argv, at=["checkpoint", entry, 11], clock=3000)
        assert (ended.status, ended.stage) == (KILLED, "checkpoint"), ended.printed
        [amid] = [path for path in (tmp_path / "run/save").glob("CKPT*") if is_amid_an_epoch(path)]
    assert zygote.run(argv).status == 0
    assert_same(tmp_path / "run", undisturbed)


def is_amid_an_epoch(checkpoint: Path) -> bool:
    return "end-of-epoch: false" in (checkpoint / "CKPT.yaml").read_text()
