"""Cross-validations killed while they write their summary, and two in one folder at a moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import KILLED, Ended, command, telling
from tests.run_folders import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SCRIPT = ROOT / "tests/faults/fold.py"
SUMMARY = ("predictions.csv", "cv_folds.png", "cv_report.md", "cv_metrics.json")


@pytest.fixture(scope="module")
def folds(zygote, tones_corpus, whole, tmp_path_factory) -> Path:
    """Both folds, trained."""
    folder = tmp_path_factory.mktemp("folds")
    shutil.copytree(whole[0], folder / "fold_1")
    assert zygote.run(command(tones_corpus, folder / "fold_2", fold=2)).status == 0
    return folder


@pytest.fixture(scope="module")
def cross_validated(zygote, folds, tones_corpus) -> Callable[..., list[Ended]]:
    def start(*outputs: Path, **faults: object) -> list[Ended]:
        commands = [command(tones_corpus, output) for output in outputs]
        environments = [{"FAULTS_FOLDS": str(folds)}] * len(outputs)
        return zygote.together(commands, environments, script=SCRIPT, **faults)

    return start


@pytest.fixture(scope="module")
def summed_up(cross_validated, tmp_path_factory) -> tuple[dict[str, bytes], list[str]]:
    """What an undisturbed one writes, and by which changes of files."""
    output = tmp_path_factory.mktemp("cv") / "cv"
    [ended] = cross_validated(output)
    assert ended.status == 0, ended.printed
    return summary(output), ended.changes("summary")


def summary(output: Path) -> dict[str, bytes]:
    """What is there of the summary, but for the command, which has the folder's name."""
    return {
        name: (output / name).read_bytes().replace(str(output).encode(), b"cv")
        for name in SUMMARY
        if (output / name).exists()
    }


def test_killed_before_every_change(cross_validated, summed_up, tmp_path):
    expected, changes = summed_up
    output = tmp_path / "cv"
    for number in telling(changes):
        [ended] = cross_validated(output, at=["summary", 1, number])
        assert (ended.status, ended.stage) == (KILLED, "summary"), ended.printed
        assert summary(output).items() <= expected.items()
    [ended] = cross_validated(output)
    assert ended.status == 0 and summary(output) == expected, ended.printed
    assert [path.name for path in output.glob(".*")] == [".lock"]


def test_one_of_two_works(cross_validated, summed_up, tmp_path):
    output = tmp_path / "cv"
    first, second = sorted(cross_validated(output, output), key=lambda ended: ended.status)
    assert (first.status, second.status) == (0, 2), first.printed + second.printed
    assert f"{output}: another run is at work there" in second.error()
    assert summary(output) == summed_up[0]


def test_damaged_fold_is_told(cross_validated, summed_up, tmp_path):
    output = tmp_path / "cv"
    assert cross_validated(output)[0].status == 0
    path = output / "fold_2/metrics.json"
    path.write_text(path.read_text()[:100])
    [ended] = cross_validated(output)
    assert ended.status == 2, ended.printed
    assert f"{path} is damaged" in ended.error()
    path.unlink()
    assert cross_validated(output)[0].status == 0
    assert summary(output) == summed_up[0]
