"""`gemoclap_sb.inference.cluster_job.ClusterJob.cluster` over Ray: files of speakers, by actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemoclap_sb.inference.cluster_job import ClusterJob, FileResult, LeftOut
from gemoclap_sb.inference.ray_pool import Actor, Pool, work_with_ray


def cluster_with_ray(
    job: ClusterJob, numbers: Sequence[int], shuffled: Path, actors: int | None = None
) -> Iterator[FileResult]:
    """Cluster files of a job; results come as they are there, in no order.

    ``shuffled`` has their rows, at the same path on all machines. By default there is an actor for
    each core. ValueError if there are fewer cores; PoolError if Ray cannot be had, or the work ends
    workers again and again.
    """
    arguments = (job, shuffled)
    for told in work_with_ray(Worker, arguments, numbers, job.attempts, "cpu", actors, threads=1):
        left_out = tuple(LeftOut(*one) for one in told.pop("left_out"))
        yield FileResult(**told, left_out=left_out)


class Worker(Actor):
    """What an actor is: the job, and its files as they come."""

    def __init__(self, job: ClusterJob, shuffled: Path, pool: Pool) -> None:
        super().__init__(job.attempts)
        self.job, self.shuffled = job, shuffled

    def work(self, number: int) -> dict[str, Any]:
        """Cluster the speakers of a file."""
        return asdict(self.job.cluster(number, self.shuffled))

    def name(self, number: int) -> str:
        """Name a file."""
        return self.job.name(number)
