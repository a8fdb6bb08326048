"""Folds of many runs wait in one queue; each run's summary follows its last fold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gemoclap_sb.data.splits import share_of_each_class
from gemoclap_sb.files import write_json
from gemoclap_sb.training import runs
from gemoclap_sb.training.cross_validation import Plan
from gemoclap_sb.training.fold_processes import Fold
from gemoclap_sb.training.runs import CrossValidation, run_all
from gemoclap_sb.training.settings import ExperimentError

CODE = """
import pathlib, sys, time
root = pathlib.Path({root!r})
for _ in range(1200):
    if {awaited!r} == "" or (root / {awaited!r}).exists():
        break
    time.sleep(0.05)
else:
    sys.exit("nobody came")
(root / {name!r}).touch()
sys.exit({status})
"""


class Planned:
    """Runs by name, each a list of folds: what a fold waits for, and its exit status."""

    def __init__(self, root: Path, monkeypatch, **folds: list[tuple[str, int]]):
        self.root, self.folds, self.summarized = root, folds, []
        monkeypatch.setattr(runs.cross_validation, "plan", self.plan)
        self.runs = [CrossValidation(name, root / name, 3, []) for name in folds]

    def plan(self, script, argv, called):
        if called == "refused":
            raise ExperimentError("a finished fold has other settings")
        if called == "damaged":
            raise RuntimeError("no such thing")
        folds = []
        for number, (awaited, status) in enumerate(self.folds[called], start=1):
            folder = self.root / called / f"fold_{number}"
            code = CODE.format(
                root=str(self.root), awaited=awaited, name=f"{called}{number}", status=status
            )
            command = (sys.executable, "-c", code)
            folds.append(Fold(number, len(self.folds[called]), folder, command, called))
        return Plan(folds, lambda: self.summarize(called))

    def summarize(self, called: str) -> None:
        there = sorted(path.name for path in self.root.iterdir() if path.is_file())
        self.summarized.append((called, [name for name in there if name.startswith(called)]))
        (self.root / f"{called} summarized").touch()
        if called == "b":
            raise OSError("disk full")


def test_a_run_is_summed_up_after_its_last_fold_while_others_go_on(tmp_path, monkeypatch, capfd):
    # The folds of c wait until a is summed up; the first of b and the last of a run together.
    planned = Planned(
        tmp_path,
        monkeypatch,
        a=[("", 0), ("", 0), ("b1", 0)],
        b=[("", 0)],
        c=[("a summarized", 0), ("a summarized", 0)],
    )
    written = []
    failed = run_all(tmp_path / "train.py", planned.runs, 2, lambda: written.append(1))
    assert failed == ["b (exit status 1)"]
    assert dict(planned.summarized) == {
        "a": ["a1", "a2", "a3"],
        "b": ["b1"],
        "c": ["c1", "c2"],
    }
    assert len(planned.summarized) == 3
    # After each run, and at the end.
    assert len(written) == 4
    printed = capfd.readouterr()
    assert "b:\nTraceback" in printed.err and "disk full" in printed.err
    assert "run 2 of 3: b" in printed.out and "c, fold 2 of 2: finished" in printed.out
    assert [line for line in printed.out.splitlines() if "runs finished" in line] == [
        "1 of 3 runs finished: a",
        "2 of 3 runs finished: c",
    ]


def test_tables_that_cannot_be_written_end_no_training(tmp_path, monkeypatch, capfd):
    # The fold of c goes on until after the table of a has failed.
    planned = Planned(tmp_path, monkeypatch, a=[("", 0)], c=[("failed", 0)])

    def write():
        (tmp_path / "failed").touch()
        raise ExperimentError("no room for tables")

    with pytest.raises(ExperimentError, match="no room"):
        run_all(tmp_path / "train.py", planned.runs, 2, write)
    assert sorted(name for name, _ in planned.summarized) == ["a", "c"]
    assert capfd.readouterr().err.count("error: no room for tables") == 2


def test_what_cannot_be_planned_stops_no_other(tmp_path, monkeypatch, capfd):
    planned = Planned(
        tmp_path, monkeypatch, refused=[], damaged=[], a=[("", 7), ("", 0)], d=[("", 0)]
    )
    failed = run_all(tmp_path / "train.py", planned.runs, 1, lambda: None)
    assert failed == [
        "refused (exit status 2)",
        "damaged (exit status 1)",
        "a (exit status 7)",
    ]
    assert planned.summarized == [("d", ["d1"])]
    assert not (tmp_path / "a2").exists()
    assert "error: refused: a finished fold has other settings" in capfd.readouterr().err


def test_a_share_of_the_labels_leaves_the_test_between_rows_as_it_is(tmp_path):
    """Two folds' training sets have as much in common, whatever share of them is learnt from."""
    learnt = {"data": {"train": {"rows": 4}}}
    write_json(tmp_path / "fold_1/metrics.json", {"war": 0.5, "uar": 0.5, "n_test": 9, **learnt})
    counts = {"counts": {"train": {"utterances": 40}}}
    write_json(tmp_path / "fold_1/manifests/prepare.json", counts)
    [score] = CrossValidation("a", tmp_path, 1, []).scores()
    assert score.n_train == 40


def test_a_share_has_of_two_folds_what_they_have_in_common():
    """The claim that this rests on: thinned by their IDs, two sets overlap as before."""
    rows = {f"u{n:04d}": {"emotion": "abcdefgh"[n % 8], "actor": n % 24} for n in range(4800)}
    folds = [
        {name: row for name, row in rows.items() if row["actor"] not in out}
        for out in (range(0, 7), range(5, 12))
    ]
    for share in (0.1, 0.25, 1.0):
        one, other = (share_of_each_class(of, share, "emotion", seed=1) for of in folds)
        common = len(one.keys() & other.keys()) / len(one)
        assert common == pytest.approx(12 / 17, abs=0.06)
