"""Numbered work over Ray Data: a pool of actors, each set up once, that share the numbers.

What travels is numbers there and what became of them back; what is worked on is read and written by
each actor, at the same paths on all machines. Ray starts a worker that dies again, and what it had
not written is done again. ray is loaded when it is needed: it is an extra.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemoclap_sb.inference.failures import in_one_line

# Cores beyond which a second copy of a model is worth more than a share of it.
_MOST_CORES = 4
# Ray starts an actor again for ever: what ends its process must not go on for ever.
_MOST_ATTEMPTS = 5
# The least that Ray takes will do for numbers.
_STORE_BYTES = 100 * 2**20
# No report to its makers; few lines of its own, which are in its log files, and no colours.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_COLOR_PREFIX": "0",
}
_MOST_BLOCKS = 1000


class PoolError(ValueError):
    """Ray cannot be had, or the work does not get done; the message says why."""


@dataclass(frozen=True)
class Pool:
    """Actors, and what each of them has: cores to compute with, and on a GPU machine a GPU."""

    actors: int
    threads: int
    gpus: int = 0


class Actor(ABC):
    """What a worker is, made with the arguments of `work_with_ray` and the `Pool`.

    ``stopped`` is set where it cannot be set up: what the command is to say in one line.
    """

    def __init__(self, attempts: Path) -> None:
        self._attempts, self.stopped = attempts, ""

    @abstractmethod
    def work(self, number: int) -> dict[str, Any]:
        """Do a piece of the work; give what became of it, for JSON."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Name a piece, also as a file."""

    advice = "Lower --actors, or do without Ray."
    """What to do where a piece ends workers again and again."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a piece; what the command is to say in one line is in ``stopped``."""
        number = int(row["number"])
        result, stopped = {}, self.stopped
        if not stopped:
            try:
                self._attempt(number)
                result = self.work(number)
            except (ValueError, OSError) as error:
                stopped = str(error)
            self._attempted(number).unlink(missing_ok=True)
        return {"number": number, "result": json.dumps(result), "stopped": stopped}

    def _attempt(self, number: int) -> None:
        """Count an attempt, one byte each, beyond the life of this process."""
        file = self._attempted(number)
        file.parent.mkdir(exist_ok=True)
        with open(file, "ab") as opened:
            opened.write(b".")
        if file.stat().st_size > _MOST_ATTEMPTS:
            raise PoolError(
                f"{self.name(number)} has ended {_MOST_ATTEMPTS} workers, for a lack of memory "
                f"or by something in it. {self.advice}"
            )

    def _attempted(self, number: int) -> Path:
        return self._attempts / self.name(number)


def work_with_ray(
    actor: type[Actor],
    arguments: tuple,
    numbers: Sequence[int],
    attempts: Path,
    device: str | None = None,
    actors: int | None = None,
    threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Have pieces of work done; what became of each comes as it is there, in no order.

    Connects to the cluster of ``RAY_ADDRESS``, or starts Ray on this machine alone and ends it
    after the last result.

    Parameters
    ----------
    actor : type
        An `Actor`.
    arguments : tuple
        Before the pool, for each actor.
    numbers : Sequence[int]
        Of the pieces.
    attempts : Path
        A folder to count attempts in; it is emptied before and after.
    device, actors, threads : optional
        As `choose_pool` has them.

    Raises
    ------
    ValueError
        If there are fewer GPUs or cores than ``actors``, or none.
    PoolError
        If Ray cannot be had, an actor says that it stopped, or workers die again and again.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        pool = choose_pool(ray.nodes(), device, actors, threads)
        shutil.rmtree(attempts, ignore_errors=True)
        yield from _results(ray, actor, arguments, numbers, pool)
    finally:
        shutil.rmtree(attempts, ignore_errors=True)
        if started:
            ray.shutdown()


def _start(ray: Any) -> None:
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Never one that happens to run here.
        options |= {"address": "local", "include_dashboard": False}
        options |= {"object_store_memory": _STORE_BYTES}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        what = (
            f"Ray at {address} (RAY_ADDRESS) cannot be reached" if address else "Ray cannot start"
        )
        raise PoolError(f"{what} ({in_one_line(error)}).") from error


def choose_pool(
    nodes: Sequence[dict[str, Any]],
    device: str | None,
    actors: int | None,
    threads: int | None = None,
) -> Pool:
    """Choose the actors for the machines that Ray has.

    Without ``device``, "cpu" or "cuda", GPUs are taken where there are any. There is by default
    an actor for each GPU, or one for ``threads`` cores, or else for up to four.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    cores = [int(one.get("CPU", 0)) for one in resources]
    gpus = [int(one.get("GPU", 0)) for one in resources]
    if device == "cuda" and not sum(gpus):
        raise ValueError("device: expected GPUs for cuda, found none that Ray sees.")
    if sum(gpus) and device != "cpu":
        most, of = sum(gpus), "GPUs"
        each = min(max(1, c // g) for c, g in zip(cores, gpus, strict=True) if g)
        pool = Pool(actors or most, threads or each, gpus=1)
    else:
        most, of = sum(c // (threads or 1) for c in cores), "cores"
        least = min((c for c in cores if c), default=0)
        if actors is None:
            each = threads or least // max(1, -(-least // _MOST_CORES))
            pool = Pool(sum(c // each for c in cores) if each else 0, each)
        else:
            pool = Pool(actors, threads or max(1, min(least, most // actors)))
    if not 1 <= pool.actors <= most:
        raise ValueError(f"actors: expected 1 to {most}, as there are {of}, found {pool.actors}.")
    return pool


def _results(
    ray: Any, actor: type[Actor], arguments: tuple, numbers: Sequence[int], pool: Pool
) -> Iterator[dict[str, Any]]:
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = min(len(numbers), _MOST_BLOCKS)
    items = data.from_items([{"number": number} for number in numbers], override_num_blocks=blocks)
    results = items.map(
        actor,
        fn_constructor_args=(*arguments, pool),
        # No piece waits for a worker while another is idle.
        compute=data.ActorPoolStrategy(
            size=min(pool.actors, len(numbers)), max_tasks_in_flight_per_actor=1
        ),
        **({"num_gpus": pool.gpus} if pool.gpus else {"num_cpus": pool.threads}),
    )
    try:
        for row in results.iter_rows():
            if row["stopped"]:
                raise PoolError(row["stopped"])
            yield json.loads(row["result"])
    except ray.exceptions.RayError as error:
        reason = in_one_line(getattr(error, "cause", None) or error)
        raise PoolError(f"Ray gave up ({reason}). The same command goes on.") from error
