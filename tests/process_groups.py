"""Several real processes of one training, forked from a server that imports the package once."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import gemoclap_sb.data.manifests
from gemoclap_sb.training import experiment
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.run_folders"])

# A process, before it begins: ``prepare(rank)``.
Hook = Callable[[int], None]


class Ended(NamedTuple):
    """Exit codes and outputs by rank; seconds from the death of a process, or from the start."""

    codes: list[int]
    outputs: list[str]
    seconds: float


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_group(
    count: int,
    argv: Sequence[str],
    folder: Path,
    hook: Hook | None = None,
    timeout: float = 90,
    main: Callable[..., int] = experiment.main,
) -> Ended:
    """Run a training in some processes without torchrun, which would end those that wait."""
    folder.mkdir(parents=True, exist_ok=True)
    port, started = free_port(), time.time()
    processes = [
        CONTEXT.Process(target=_work, args=(rank, count, port, list(argv), str(folder), hook, main))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(max(0.1, started + timeout - time.time()))
    finally:
        hung = [process for process in processes if process.is_alive()]
        for process in hung:
            process.kill()
            process.join()
    outputs = [(folder / f"{rank}.txt").read_text() for rank in range(count)]
    assert not hung, outputs
    codes = [process.exitcode for process in processes]
    return Ended(codes, outputs, time.time() - _begin(folder, started))


def run_nodes(
    nodes: Sequence[Sequence[str]], script: Path, argv: Sequence[str], folder: Path
) -> Ended:
    """Run a script by several commands of torchrun, with a process each, as on several machines."""
    started = time.time()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1"]
    paths = [folder / f"node{rank}.txt" for rank in range(len(nodes))]
    commands = []
    for options, path in zip(nodes, paths, strict=True):
        with path.open("w") as output:
            command = [*torchrun, f"--nnodes={len(nodes)}", *options, str(script), *argv]
            environment = os.environ | {
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            commands.append(
                subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            )
    try:
        codes = [command.wait(timeout=240) for command in commands]
    finally:
        for command in commands:
            command.kill()
    outputs = [path.read_text() for path in paths]
    return Ended(codes, outputs, time.time() - _begin(folder, started))


def _begin(folder: Path, started: float) -> float:
    died = folder / "died"
    return max(started, died.stat().st_mtime) if died.exists() else started


def _work(
    rank: int,
    count: int,
    port: int,
    argv: list[str],
    folder: str,
    hook: Hook | None,
    main: Callable[..., int],
) -> None:
    output = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if count > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in ranks.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    if hook is not None:
        hook(rank)
    sys.exit(main(None, argv))


def before(owner: object, name: str, action: Callable[..., object]) -> None:
    """Have something done each time before a function of a module or a class is called."""
    real = getattr(owner, name)

    def called(*args, **kwargs):
        action(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, called)


class Die:
    """A hook that kills one process at a place of the training, and says when."""

    def __init__(self, who: int, where: str, folder: Path) -> None:
        self.who, self.where, self.died = who, where, folder / "died"

    def __call__(self, rank: int) -> None:
        places = {
            "preparation": (gemoclap_sb.data.manifests, "check_audio"),
            "training": (ResumableBrain, "on_fit_batch_end"),
            "evaluation": (ResumableBrain, "evaluate_batch"),
        }
        if rank == self.who:
            before(*places[self.where], self.kill)

    def kill(self, *_: object, **__: object) -> None:
        self.died.parent.mkdir(exist_ok=True)
        self.died.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Observe:
    """A hook that writes down what each process reads and evaluates, and every loss."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, rank: int) -> None:
        self.rank = rank
        before(gemoclap_sb.data.manifests, "check_audio", lambda path, **_: self.note("read", path))
        before(
            GEmoCLAPBrain,
            "compute_objectives",
            lambda brain, predictions, batch, stage: [
                self.note(stage.name, utterance) for utterance in batch.id
            ],
        )
        mean = ResumableBrain.evaluation_loss
        ResumableBrain.evaluation_loss = lambda *args: self.note("loss", mean(*args))

    def note(self, kind: str, value: object) -> object:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / f"{kind}.{self.rank}").open("a") as file:
            file.write(f"{value}\n")
        return value


class NotANumber:
    """A hook that makes a score of one process NaN in evaluation."""

    def __init__(self, who: int) -> None:
        self.who = who

    def __call__(self, rank: int) -> None:
        if rank == self.who:
            before(
                GEmoCLAPBrain, "gather_evaluation", lambda brain: brain.scores[0].fill_(math.nan)
            )


def lines(folder: Path, kind: str) -> list[list[str]]:
    """What `Observe` has written down of a kind, by rank."""
    return [path.read_text().splitlines() for path in sorted(folder.glob(f"{kind}.*"))]
