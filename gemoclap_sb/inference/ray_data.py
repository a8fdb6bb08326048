"""`gemoclap_sb.inference.shards.embed_shard` over Ray: a model in each actor of a pool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemoclap_sb.inference.ray_pool import Actor, Pool, work_with_ray
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
    PoolError
        If Ray cannot be had, the model or the manifest is not the job's, or workers die again and
        again.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda with Ray, found {device!r}.")
    given = (job, str(model))
    for told in work_with_ray(Worker, given, numbers, _attempts(job), device, actors):
        failures = tuple(Failure(**one) for one in told.pop("failures"))
        yield ShardResult(**told, failures=failures)


def _attempts(job: EmbeddingJob) -> Path:
    return Path(job.folder, ABOUT, "attempts")


class Worker(Actor):
    """What an actor is: the model, loaded once, and parts of the job as they come."""

    advice = "Lower --actors or --batch-size, or do without Ray."

    def __init__(self, job: EmbeddingJob, model: str, pool: Pool) -> None:
        import torch

        super().__init__(_attempts(job))
        self.job = job
        # Ray allows one, where it gives a GPU.
        torch.set_num_threads(pool.threads)
        try:
            if model_digest(Path(model)) != job.model:
                raise ShardError(f"{model} is not the model that the command was given.")
            device = "cuda:0" if pool.gpus else "cpu"
            self.classifier = load_encoder(model, device, job.attribute)
        except (ValueError, OSError) as error:
            self.stopped = str(error)

    def work(self, number: int) -> dict[str, Any]:
        """Embed a part."""
        return asdict(embed_shard(self.classifier, self.job, self.job.manifest.parts[number]))

    def name(self, number: int) -> str:
        """Name a part, as its file."""
        return self.job.name(self.job.manifest.parts[number])
