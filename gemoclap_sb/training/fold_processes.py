"""Folds as processes: one after the other on the terminal, or some side by side.

Side by side each fold has its share of the cores, since threads of several trainings on
the same cores wait for each other, and its output goes to a file in its folder. Folds of several
runs wait in one queue, so that no core idles at the end of each run. No fold outlives this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

LOG = "console.log"
COULD_NOT_START = 2
_TAIL_LINES, _TAIL_BYTES = 20, 16384
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 10.0
_ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
]
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Fold:
    """A fold that is to run: its number of how many, its folder, and the command that runs it.

    ``run`` is what messages call the run that it is part of, where there are several.
    """

    number: int
    total: int
    folder: Path
    command: tuple[str, ...]
    run: str = ""

    def __str__(self) -> str:
        fold = f"fold {self.number} of {self.total}"
        return f"{self.run}, {fold}" if self.run else fold


Finished = Callable[[Fold], object]
Running = dict[Fold, subprocess.Popen]


def run_folds(
    folds: Sequence[Fold], jobs: int, finished: Finished = lambda fold: None
) -> dict[str, int]:
    """Run folds in their order, ``jobs`` at a time, and say which runs failed.

    No fold of a run is started after one of it has failed; those under way go on to their end,
    and those of other runs too.

    Parameters
    ----------
    folds : Sequence[Fold]
        What is to run.
    jobs : int
        Folds at a time. One alone has the terminal; of several each writes to ``console.log`` in
        its folder.
    finished : Callable[[Fold], object], optional
        Called, in this process, with each fold that has ended well, when the next has started.

    Returns
    -------
    dict[str, int]
        ``Fold.run`` of each run that failed, and the exit status of its first fold that did.
    """
    running: Running = {}
    with _ended_together(running):
        run = _one_by_one if jobs == 1 else _side_by_side
        return run(folds, jobs, finished, running)


def _one_by_one(
    folds: Sequence[Fold], jobs: int, finished: Finished, running: Running
) -> dict[str, int]:
    failed: dict[str, int] = {}
    for fold in folds:
        if fold.run in failed:
            continue
        print(f"{fold}: {fold.folder}", flush=True)
        running[fold] = _started(fold, environment_for(jobs))
        status = running[fold].wait()
        del running[fold]
        if status:
            print(_failure(fold, status), file=sys.stderr)
            failed[fold.run] = status
        else:
            finished(fold)
    return failed


def _side_by_side(
    folds: Sequence[Fold], jobs: int, finished: Finished, running: Running
) -> dict[str, int]:
    waiting = list(folds)
    failed: dict[str, int] = {}
    ended: list[Fold] = []
    environment = environment_for(jobs)

    def fail(fold: Fold, status: int, told: str) -> None:
        _say(told, True)
        failed.setdefault(fold.run, status)
        waiting[:] = [other for other in waiting if other.run != fold.run]

    # None: on a terminal only, where the lines below are printed above it.
    with tqdm(total=len(folds), desc="folds", disable=None) as bar:
        while running or waiting or ended:
            while waiting and len(running) < jobs:
                fold = waiting.pop(0)
                try:
                    running[fold] = _logged(fold, environment)
                except OSError as error:
                    fail(fold, COULD_NOT_START, f"{fold} could not start: {error}")
                else:
                    _say(f"{fold}: started, its output is in {_log(fold)}")
            while ended:  # Now that the cores have work again.
                with tqdm.external_write_mode():
                    finished(ended.pop(0))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for fold, process in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[fold]
                if status:
                    end = f"The end of {_log(fold)}:\n{_tail(fold)}"
                    fail(fold, status, f"{_failure(fold, status)} {end}")
                else:
                    bar.update()
                    _say(f"{fold}: finished")
                    ended.append(fold)
    return failed


@contextmanager
def _ended_together(running: Running) -> Iterator[None]:
    """Have signals that end this process end what it runs, at once, and say what to do."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    # What a shell or nohup lets a process ignore stays ignored.
    heeded = [n for n in _ENDING if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    except SystemExit:
        print("ended; the same command goes on from there.", file=sys.stderr)
        raise
    finally:
        _end(running)
        for number, handler in before.items():
            signal.signal(number, handler)


def environment_for(jobs: int) -> Mapping[str, str]:
    """Environment of one of so many jobs: huge pages, and of several each its share of the cores.

    Without huge pages (torch reads this when it first allocates) a tenth of the time on a CPU
    went into making small ones for its buffers, anew at every step.
    """
    environment = {"THP_MEM_ALLOC_ENABLE": "1", **os.environ}
    if jobs > 1:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        environment["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    return environment


def _logged(fold: Fold, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a fold whose output goes to its log."""
    _log(fold).parent.mkdir(parents=True, exist_ok=True)
    with open(_log(fold), "ab") as log:
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        return _started(fold, environment, stdin=subprocess.DEVNULL, **streams)


def _started(fold: Fold, environment: Mapping[str, str], **streams: Any) -> subprocess.Popen:
    """Start a fold; on Linux it ends when this process does, even by SIGKILL."""
    dying = _end_with_parent if _PRCTL is not None else None
    return subprocess.Popen(fold.command, env=environment, preexec_fn=dying, **streams)


# Looked up here, since after the fork as little as can be is to be done.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end_with_parent() -> None:
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(running: Mapping[Fold, subprocess.Popen]) -> None:
    """End what still runs: nothing, unless this process was interrupted."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(fold: Fold) -> Path:
    return fold.folder / LOG


def _tail(fold: Fold) -> str:
    """Last lines of a fold's output; each state of a progress bar counts as one."""
    try:
        with open(_log(fold), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        lines = [str(error)]
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])


def _failure(fold: Fold, status: int) -> str:
    if status == COULD_NOT_START:
        return f"{fold} could not start (exit status {status})."
    return f"{fold} failed with exit status {status}; the same command goes on from there."


def _say(line: str, is_error: bool = False) -> None:
    stream = sys.stderr if is_error else sys.stdout
    tqdm.write(line, file=stream)
    stream.flush()
