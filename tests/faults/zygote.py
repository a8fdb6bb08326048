"""Starts trainings in a tenth of a second: imports once, and forks a process for each.

A line of JSON on standard input is a list of runs that start together; a line on standard output
says how each ended. `tests.faults.processes.Zygote` is the other end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from gemoclap_sb.evaluation.figures import draw_confusion, draw_training_curves
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.training import cross_validation, experiment
from tests.faults.faults import Faults
from tests.faults.train import prepare

SECONDS_TO_END = 120.0


def warm_up() -> None:
    """Do once what the first run would do, and start no thread, which a fork would not have."""
    torch.set_num_threads(1)
    for name in ("gemoclap_sb.lobes.text", "sklearn.metrics", "torch.utils.data"):
        importlib.import_module(name)
    # Pictures are written like any other file; to draw them takes as long as to train.
    Axes.draw = lambda self, renderer: None
    ConstrainedLayoutEngine.execute = lambda self, figure: None
    with tempfile.TemporaryDirectory() as folder:
        metrics = classification_metrics([0, 1], [0, 1], ["a", "b"])
        draw_confusion(metrics, Path(folder, "confusion.png"), title="")
        record = {"epoch": 1, "lr": 1.0, "train_loss": 1.0, "valid_loss": 1.0, "valid_uar": 1.0}
        draw_training_curves([record], Path(folder, "training.png"), tested=1)
    # Memory that is not touched is not copied.
    gc.collect()
    gc.freeze()


def run(
    argv: list[str],
    events: int,
    printed: int,
    environment: dict[str, str],
    script: str | None,
    **faults: Any,
) -> None:
    """In the child: be as a process that a shell has started, and end with its status."""
    status: Any = 70
    try:
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (printed, 1), (printed, 2)):
            os.dup2(source, target)
        Faults(events, **faults)
        if script is None:
            status = experiment.main(prepare, argv)
        else:
            status = cross_validation.main(Path(script), argv)
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Run:
    """A process that was forked, what it has told and printed, and the kill that awaits it."""

    def __init__(self, asked: dict[str, Any], channel: selectors.BaseSelector) -> None:
        self.kill = asked.pop("kill")
        self.texts = {"events": b"", "printed": b""}
        pipes = {name: os.pipe() for name in self.texts}
        if (pid := os.fork()) == 0:
            run(**{name: write for name, (_, write) in pipes.items()}, **asked)
        self.pid = pid
        for name, (read, write) in pipes.items():
            os.close(write)
            channel.register(read, selectors.EVENT_READ, (self, name))

    def hear(self, name: str, text: bytes) -> None:
        """Take in what comes, and kill so many seconds after a stage is entered, if asked to."""
        self.texts[name] += text
        if self.kill is not None:
            stage, seconds = self.kill
            if f'["enter", "{stage}"'.encode() in self.texts["events"]:
                self.kill = None
                time.sleep(seconds)
                os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> dict[str, Any]:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        lines = self.texts["events"].splitlines()
        events = [json.loads(line) for line in lines if line.endswith(b"]")]
        printed = self.texts["printed"].decode("utf-8", "replace")
        return {"status": status, "events": events, "printed": printed}


def serve(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run what was asked for, all at the same time, and say how each ended."""
    channel, until = selectors.DefaultSelector(), time.monotonic() + SECONDS_TO_END
    runs = [Run(one, channel) for one in asked]
    while channel.get_map():
        if not (ready := channel.select(max(0.0, until - time.monotonic()))):
            for one in runs:
                os.kill(one.pid, signal.SIGKILL)
            break
        for key, _ in ready:
            of, name = key.data
            # The end of a pipe is that of the run, and of the processes that it started.
            if text := os.read(key.fd, 65536):
                of.hear(name, text)
            else:
                channel.unregister(key.fd)
                os.close(key.fd)
    return [one.ended() for one in runs]


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
