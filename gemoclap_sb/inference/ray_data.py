"""`gemoclap_sb.inference.shards.embed_shard` over Ray Data: a pool of actors, a model in each.

What travels is the numbers of parts there and what became of them back; manifest, recordings,
model and output are read and written by each actor, at the same paths on all machines. Ray starts
a worker that dies again, and what it had not written is done again. ray is loaded when it is
needed: it is an extra.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gemoclap_sb.data.parts import Part
from gemoclap_sb.inference.failures import in_one_line
from gemoclap_sb.inference.shards import (
    ABOUT,
    EmbeddingJob,
    Failure,
    ShardError,
    ShardResult,
    embed_shard,
)
from gemoclap_sb.inference.speaker_encoder import load_encoder
from gemoclap_sb.models.digest import model_digest

# Cores beyond which a second copy of the model is worth more than a share of it.
_MOST_CORES = 4
# Ray starts an actor again for ever: one recording that ends its process must not go on for ever.
_MOST_ATTEMPTS = 5
# Parts travel as numbers: the least that Ray takes will do.
_STORE_BYTES = 100 * 2**20
# No report to its makers; few lines of its own, which are in its log files, and no colours.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_COLOR_PREFIX": "0",
}
_MOST_BLOCKS = 1000


@dataclass(frozen=True)
class Pool:
    """Actors, and what each of them has: cores to compute with, and on a GPU machine a GPU."""

    actors: int
    threads: int
    gpus: int = 0


def embed_with_ray(
    job: EmbeddingJob,
    numbers: Sequence[int],
    model: str | os.PathLike,
    device: str | None = None,
    actors: int | None = None,
) -> Iterator[ShardResult]:
    """Embed parts of a job; results come as they are there, in no order.

    Connects to the cluster of ``RAY_ADDRESS``, or starts Ray on this machine alone and ends it
    after the last result.

    Parameters
    ----------
    job : EmbeddingJob
        Whose `open_folder` was called.
    numbers : Sequence[int]
        Of the parts.
    model : str or os.PathLike
        The model's folder.
    device : "cpu", "cuda" or None
        None is GPUs where Ray sees any.
    actors : int, optional
        By default one a GPU, or one for each four cores.

    Raises
    ------
    ValueError
        If there are fewer GPUs or cores than ``actors``, or none; if ``device`` is another.
    ShardError
        If Ray cannot be had, the model or the manifest is not the job's, or workers die again and
        again.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda with Ray, found {device!r}.")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        pool = choose_pool(ray.nodes(), device, actors)
        yield from _results(ray, job, numbers, str(model), pool)
    finally:
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
        raise ShardError(f"{what} ({in_one_line(error)}).") from error


def choose_pool(nodes: Sequence[dict[str, Any]], device: str | None, actors: int | None) -> Pool:
    """Choose the actors for the machines that Ray has."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    cores = [int(one.get("CPU", 0)) for one in resources]
    gpus = [int(one.get("GPU", 0)) for one in resources]
    if device == "cuda" and not sum(gpus):
        raise ValueError("device: expected GPUs for cuda, found none that Ray sees.")
    if sum(gpus) and device != "cpu":
        most, of = sum(gpus), "GPUs"
        threads = min(max(1, c // g) for c, g in zip(cores, gpus, strict=True) if g)
        pool = Pool(actors or most, threads, gpus=1)
    else:
        most, of = sum(cores), "cores"
        least = min((c for c in cores if c), default=0)
        if actors is None:
            on_least = -(-least // _MOST_CORES)
            threads = least // max(1, on_least)
            pool = Pool(sum(c // threads for c in cores) if threads else 0, threads)
        else:
            pool = Pool(actors, max(1, min(least, most // actors)))
    if not 1 <= pool.actors <= most:
        raise ValueError(f"actors: expected 1 to {most}, as there are {of}, found {pool.actors}.")
    return pool


def _results(
    ray: Any, job: EmbeddingJob, numbers: Sequence[int], model: str, pool: Pool
) -> Iterator[ShardResult]:
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = min(len(numbers), _MOST_BLOCKS)
    items = data.from_items([{"part": number} for number in numbers], override_num_blocks=blocks)
    results = items.map(
        Worker,
        fn_constructor_args=(job, model, pool),
        # No part waits for a worker while another is idle.
        compute=data.ActorPoolStrategy(
            size=min(pool.actors, len(numbers)), max_tasks_in_flight_per_actor=1
        ),
        **({"num_gpus": pool.gpus} if pool.gpus else {"num_cpus": pool.threads}),
    )
    shutil.rmtree(_attempts(job), ignore_errors=True)
    try:
        for row in results.iter_rows():
            if row["stopped"]:
                raise ShardError(row["stopped"])
            failures = tuple(Failure(**one) for one in json.loads(row["failures"]))
            yield ShardResult(row["part"], row["rows"], row["size"], failures)
    except ray.exceptions.RayError as error:
        reason = in_one_line(getattr(error, "cause", None) or error)
        raise ShardError(f"Ray gave up ({reason}). The same command goes on.") from error
    finally:
        shutil.rmtree(_attempts(job), ignore_errors=True)


def _attempts(job: EmbeddingJob) -> Path:
    return Path(job.folder, ABOUT, "attempts")


class Worker:
    """What an actor is: the model, loaded once, and parts of the job as they come."""

    def __init__(self, job: EmbeddingJob, model: str, pool: Pool) -> None:
        import torch

        self.job, self.stopped = job, ""
        # Ray allows one, where it gives a GPU.
        torch.set_num_threads(pool.threads)
        try:
            if model_digest(Path(model)) != job.model:
                raise ShardError(f"{model} is not the model that the command was given.")
            device = "cuda:0" if pool.gpus else "cpu"
            self.classifier = load_encoder(model, device, job.attribute)
        except (ValueError, OSError) as error:
            self.stopped = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed a part; what the command is to say in one line is in ``stopped``."""
        number = int(row["part"])
        result, stopped = ShardResult(number, 0, 0), self.stopped
        if not stopped:
            part = self.job.manifest.parts[number]
            try:
                self._attempt(part)
                result = embed_shard(self.classifier, self.job, part)
            except (ValueError, OSError) as error:
                stopped = str(error)
            self._attempted(part).unlink(missing_ok=True)
        return {
            "part": number,
            "rows": result.rows,
            "size": result.size,
            "failures": json.dumps([asdict(one) for one in result.failures]),
            "stopped": stopped,
        }

    def _attempt(self, part: Part) -> None:
        """Count an attempt, one byte each, beyond the life of this process."""
        file = self._attempted(part)
        file.parent.mkdir(exist_ok=True)
        with open(file, "ab") as opened:
            opened.write(b".")
        if file.stat().st_size > _MOST_ATTEMPTS:
            raise ShardError(
                f"{self.job.name(part)} has ended {_MOST_ATTEMPTS} workers, for a lack of memory "
                "or by one of its recordings. Lower --actors or --batch-size, or do without Ray."
            )

    def _attempted(self, part: Part) -> Path:
        return _attempts(self.job) / self.job.name(part)
