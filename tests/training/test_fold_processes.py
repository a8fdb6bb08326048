"""Folds run so many at a time, fail apart from each other, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemoclap_sb.training.fold_processes import LOG, Fold, environment_for, run_folds

# Each fold is a few lines of Python with its folder in argv.
PRELUDE = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
def wait_for(path):
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise SystemExit("nobody came")
"""
DRIVER = """
import pathlib, signal, sys
from gemoclap_sb.training.fold_processes import Fold, run_folds
# A shell lets its background jobs, and what they start, ignore the one, and nohup the other.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
root, jobs = pathlib.Path(sys.argv[1]), int(sys.argv[2])
code = "import os, pathlib, sys, time\\np = pathlib.Path(sys.argv[1], 'pid')\\n" \\
    "p.with_name('.p').write_text(str(os.getpid()))\\np.with_name('.p').rename(p)\\ntime.sleep(300)"
run_folds([
    Fold(n, 2, root / str(n), (sys.executable, "-c", code, str(root / str(n)))) for n in (1, 2)
], jobs)
"""


def make_folds(root: Path, *codes: str, run: str = "") -> list[Fold]:
    folds = []
    for number, code in enumerate(codes, start=1):
        folder = root / run / f"fold_{number}"
        folder.mkdir(parents=True)
        command = (sys.executable, "-c", PRELUDE + code, str(folder))
        folds.append(Fold(number, len(codes), folder, command, run))
    return folds


def test_as_many_as_asked_run_at_a_time_and_no_more(tmp_path):
    # Each says that it is there, waits until one other has come too, and counts.
    code = """
there = folder.parent / "there"
there.mkdir(exist_ok=True)
(there / folder.name).touch()
for _ in range(600):
    time.sleep(0.05)
    if len(list(there.iterdir())) + len(list(folder.parent.glob("fold_*/count"))) > 1:
        break
time.sleep(0.3)
(folder / "count").write_text(str(len(list(there.iterdir()))))
(there / folder.name).unlink()
"""
    folds = make_folds(tmp_path, code, code, code, code)
    assert run_folds(folds, 2) == {}
    counts = [int((fold.folder / "count").read_text()) for fold in folds]
    assert max(counts) == 2
    assert len(counts) == 4


def test_output_goes_to_a_log_and_lines_to_the_terminal(tmp_path, capfd):
    folds = make_folds(tmp_path, "print('heard one')", "print('heard two', file=sys.stderr)")
    assert run_folds(folds, 2) == {}
    assert run_folds(folds[:1], 2) == {}
    assert (tmp_path / "fold_1" / LOG).read_text() == "heard one\nheard one\n"
    assert (tmp_path / "fold_2" / LOG).read_text() == "heard two\n"
    printed = capfd.readouterr()
    assert "heard" not in printed.out + printed.err
    assert f"fold 1 of 2: started, its output is in {tmp_path / 'fold_1' / LOG}" in printed.out
    assert printed.out.count("finished") == 3


def test_one_at_a_time_prints_directly(tmp_path, capfd):
    folds = make_folds(tmp_path, "print('heard one')", "raise SystemExit(3)", "print('three')")
    assert run_folds(folds, 1) == {"": 3}
    printed = capfd.readouterr()
    assert "heard one" in printed.out
    assert "three" not in printed.out
    assert "fold 2 of 3 failed with exit status 3; the same command goes on" in printed.err
    assert not (tmp_path / "fold_1" / LOG).exists()


def test_failing_fold_lets_others_end_and_starts_no_more(tmp_path, capfd):
    folds = make_folds(
        tmp_path,
        "wait_for(folder.parent / 'fold_2' / 'failing')\ntime.sleep(1)\n(folder / 'done').touch()",
        "print('\\n'.join(map(str, range(100))))\n(folder / 'failing').touch()\nsys.exit(7)",
        "(folder / 'done').touch()",
    )
    assert run_folds(folds, 2) == {"": 7}
    assert (tmp_path / "fold_1" / "done").exists()
    assert not (tmp_path / "fold_3" / LOG).exists()
    printed = capfd.readouterr()
    assert "fold 2 of 3 failed with exit status 7" in printed.err
    shown = [int(line) for line in printed.err.splitlines() if line.strip().isdigit()]
    assert shown == list(range(80, 100))
    assert "fold 1 of 3: finished" in printed.out


def test_a_run_begins_while_the_last_fold_of_another_goes_on(tmp_path, capfd):
    first = make_folds(
        tmp_path, "wait_for(folder.parents[1] / 'b/fold_1/begun')", run="a"
    ) + make_folds(tmp_path, "(folder / 'begun').touch()", run="b")
    ended = []
    assert run_folds(first, 2, ended.append) == {}
    assert sorted(fold.run for fold in ended) == ["a", "b"]
    assert "a, fold 1 of 1: started, its output is in" in capfd.readouterr().out


def test_a_fold_that_cannot_be_started_stops_no_other_run(tmp_path, capfd):
    blocked, other = make_folds(tmp_path, "", run="a"), make_folds(tmp_path, "", "", run="b")
    blocked[0].folder.rmdir()
    blocked[0].folder.write_text("")
    ended = []
    assert run_folds([other[0], *blocked, other[1]], 2, ended.append) == {"a": 2}
    assert sorted(fold.number for fold in ended) == [1, 2]
    assert "a, fold 1 of 1 could not start: [Errno" in capfd.readouterr().err


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_stops_no_other(tmp_path, capfd, jobs):
    failing = make_folds(tmp_path, "sys.exit(5)", "wait_for(folder / 'never')", run="a")
    # The first is so slow that the other run's failure is seen before its second turn.
    other = make_folds(tmp_path, "time.sleep(2)", "print('there')", run="b")
    ended = []
    folds = [failing[0], other[0], failing[1], other[1]]
    assert run_folds(folds, jobs, ended.append) == {"a": 5}
    assert sorted(ended, key=lambda fold: fold.number) == other
    assert not (failing[1].folder / LOG).exists()
    assert "a, fold 1 of 2 failed with exit status 5" in capfd.readouterr().err


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    threads = [environment_for(jobs)["OMP_NUM_THREADS"] for jobs in (2, 3, 16, 40)]
    assert threads == ["8", "5", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment_for(1)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("jobs", [1, 2])
def test_folds_ask_torch_for_huge_pages(tmp_path, monkeypatch, jobs):
    name = "THP_MEM_ALLOC_ENABLE"
    monkeypatch.delenv(name, raising=False)
    folds = make_folds(tmp_path, f"import os, sys\nsys.exit(int(os.environ['{name}']))")
    assert run_folds(folds, jobs) == {"": 1}
    monkeypatch.setenv(name, "0")
    assert run_folds(folds, jobs) == {}


@pytest.mark.slow
def test_torch_takes_its_share(tmp_path):
    code = "import torch\nprint(torch.get_num_threads())"
    run_folds(make_folds(tmp_path, code), 2)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (tmp_path / "fold_1" / LOG).read_text().split() == [str(share)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "jobs"),
    [
        (signal.SIGINT, 2),
        (signal.SIGTERM, 2),
        (signal.SIGINT, 1),
        (signal.SIGTERM, 1),
        (signal.SIGHUP, 1),
        pytest.param(
            signal.SIGKILL,
            1,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the child"),
        ),
    ],
)
def test_interruption_ends_the_folds(tmp_path, sent, jobs):
    """The signal reaches this process alone, as it does from a batch system."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(jobs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    paths = [tmp_path / str(number) / "pid" for number in range(1, jobs + 1)]
    if jobs == 1:
        paths[0].parent.mkdir()
    for _ in range(1200):
        if all(path.exists() for path in paths):
            break
        time.sleep(0.05)
    children = [int(path.read_text()) for path in paths]
    assert all(map(is_running, children))
    driver.send_signal(sent)
    began = time.monotonic()
    _, printed = driver.communicate(timeout=60)
    assert driver.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    assert "Traceback" not in printed
    assert ("the same command goes on" in printed) == (sent != signal.SIGKILL)
    while any(map(is_running, children)) and time.monotonic() < began + 3:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    # One that nobody has waited for yet is there, but dead.
    return not (stat.is_file() and ") Z " in stat.read_text())
