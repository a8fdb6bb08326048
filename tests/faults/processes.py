"""Runs as processes of their own, how they ended, and what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemoclap_sb.training.checkpoints import recorded_history
from tests.run_folders import ROOT

YAML = ROOT / "tests/faults/tiny.yaml"
RESULT = ("confusion.png", "training.png", "predictions.csv", "metrics.json")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a run ended: its status, what it printed, and the stages that it told of."""

    status: int
    printed: str
    events: list[list] = field(default_factory=list)

    @property
    def stage(self) -> str | None:
        """The innermost stage that was entered and not left."""
        inside = []
        for what, stage, *_ in self.events:
            inside = [*inside, stage] if what == "enter" else inside[:-1]
        return inside[-1] if inside else None

    def seconds(self, stage: str) -> float:
        """How long the first visit of a stage took, of which there was one."""
        times = [event[-1] for event in self.events if event[1] == stage]
        return times[1] - times[0]

    def changes(self, stage: str, entry: int = 1) -> list[str]:
        """The changes of files in a stage, when it was entered for that time."""
        left = [event[2] for event in self.events if event[:2] == ["leave", stage]]
        return left[entry - 1]

    def error(self) -> str:
        """The one line in which the run says why it ended; all else is not to be there."""
        [line] = [line for line in self.printed.splitlines() if line.startswith("error: ")]
        assert self.printed.endswith(line + "\n"), self.printed
        assert "Traceback" not in self.printed and "--- Logging" not in self.printed, self.printed
        return line


class Zygote:
    """A process that has imported all that a run needs, and forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: list[str], **faults: Any) -> Ended:
        """Run a training; faults are those of `tests.faults.faults.Faults`, or see `together`."""
        [ended] = self.together([argv], **faults)
        return ended

    def together(
        self,
        commands: list[list[str]],
        environments: list[Mapping[str, str]] | None = None,
        kill: tuple[str, float] | None = None,
        script: Path | None = None,
        **faults: Any,
    ) -> list[Ended]:
        """Run some at the same time. ``kill``: a stage, and the seconds from its entry on.

        With a ``script`` they are cross-validations of it.
        """
        same = {"kill": kill, "script": script and str(script), **faults}
        asked = [
            {"argv": argv, "environment": dict(environment), **same}
            for argv, environment in zip(
                commands, environments or [{}] * len(commands), strict=True
            )
        ]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return [Ended(**ended) for ended in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.communicate()


def command(data_folder: Path, output: Path, *flags: str, **options: object) -> list[str]:
    """The command line of the smallest run."""
    yaml = options.pop("yaml", YAML)
    given = {"data_folder": data_folder, "output_folder": output, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(yaml), "--device", "cpu", *pairs, *flags]


def result(folder: Path) -> dict[str, Any]:
    """All that a run has found, byte by byte, and the records of its epochs."""
    found = {name: (folder / name).read_bytes() for name in RESULT}
    return {**found, "history": recorded_history(folder / "save")}


def assert_same(folder: Path, undisturbed: Mapping[str, Any]) -> None:
    """A run has ended as an undisturbed one did, and has cleared away what a fault left."""
    found = result(folder)
    for name, content in undisturbed.items():
        assert found[name] == content, f"{folder}: {name}"
    left = sorted(str(path) for path in folder.rglob(".*") if path.name != ".lock")
    assert not left, f"left over: {left}"


def telling(changes: list[str]) -> list[int]:
    """Number the changes of files (from 1) before which something else is there than before others.

    A file is written under a name that is there for a moment, and renamed; then what is left under
    that name is removed, of which there is nothing.
    """
    numbered = enumerate(changes, start=1)
    return [number for number, change in numbered if number == 1 or not change.startswith("write")]


def wait_for(found: Any, seconds: float = 120.0) -> None:
    """Wait until something is there."""
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)
