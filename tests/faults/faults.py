"""What strikes a run from within, and what a run tells of its stages, through wrapped functions."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import speechbrain
import torch

from gemoclap_sb.training import cross_validation, experiment, splits
from gemoclap_sb.training.checkpoints import AtomicCheckpointer
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain

STAGES = {
    "begin": (experiment, "open_run"),
    "prepare": (splits, "find_manifests"),
    "train": (GEmoCLAPBrain, "_fit_train"),
    "valid": (GEmoCLAPBrain, "_fit_valid"),
    "checkpoint": (AtomicCheckpointer, "save_and_keep_only"),
    "test": (GEmoCLAPBrain, "score_best"),
    "report": (experiment, "write_result"),
    "summary": (cross_validation, "_write_summary"),
}
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR


class Faults:
    """The faults of one process, which is a run's.

    ``at`` is a stage, the how manieth entry of it, and the how manieth change of a file there: it
    kills the process before it. ``pause`` seconds pass before each change, so that a kill from
    outside has something to hit. ``limit`` is a stage, the bytes that no file may exceed from
    then on, and whether that kills or fails as a full disk does. ``worker``: before that batch
    one of the processes that load data is killed. ``clock``: how many times faster SpeechBrain's
    clock goes. A stage is told on ``events`` when it is
    entered, and, with the changes in it, when it is left.
    """

    def __init__(
        self,
        events: int,
        at: Any = None,
        pause: float = 0.0,
        limit: Any = None,
        worker: int = 0,
        clock: int = 1,
    ) -> None:
        self.events, self.at, self.pause, self.limit = events, at, pause, limit
        self.batches_left = worker
        self.entries: dict[str, int] = {}
        self.inside: list[tuple[str, list[str]]] = []
        for stage, (owner, name) in STAGES.items():
            setattr(owner, name, self._told(stage, getattr(owner, name)))
        GEmoCLAPBrain.fit_batch = self._bereft(GEmoCLAPBrain.fit_batch)
        # It writes in C++, of which Python's audit hears nothing.
        save = torch.save
        torch.save = lambda obj, f, *more, **options: (
            self._change(f"write {f}"),
            save(obj, f, *more, **options),
        )
        speechbrain.core.time = SimpleNamespace(time=lambda: time.time() * clock)
        sys.addaudithook(self._audit)

    def _told(self, stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.entries[stage] = self.entries.get(stage, 0) + 1
            self.inside.append((stage, []))
            self._tell("enter", stage)
            if self.limit and self.limit[0] == stage:
                _, size, kills = self.limit
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kills else signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                return function(*args, **kwargs)
            finally:
                _, changes = self.inside.pop()
                self._tell("leave", stage, changes)

        return wrapped

    def _bereft(self, fit_batch: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.batches_left -= 1
            if self.batches_left == 0:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            return fit_batch(*args, **kwargs)

        return wrapped

    def _tell(self, *words: object) -> None:
        os.write(self.events, (json.dumps([*words, time.monotonic()]) + "\n").encode())

    def _audit(self, event: str, args: tuple) -> None:
        if event in _CHANGES:
            self._change(f"{event} {args[0]}")
        elif event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
            self._change(f"write {args[0]}")

    def _change(self, what: str) -> None:
        if not self.inside:
            return
        stage, changes = self.inside[-1]
        changes.append(what)
        if self.at == [stage, self.entries[stage], len(changes)]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
