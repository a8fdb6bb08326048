"""``gemoclap embed`` of a manifest: into a folder of Parquet files, by one process or by many.

Each process takes its share of the manifest's parts: all of them, those of ``--shard`` or of
torchrun's rank; or Ray hands them out. What they do is `gemoclap_sb.inference.shards`'s.
"""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gemoclap_sb.cli import inputs, models, output, shares
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.embedding_files import SUFFIXES
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say
from gemoclap_sb.data.parts import ROWS_PER_PART, PartedManifest, cut_manifest

if TYPE_CHECKING:
    from gemoclap_sb.inference.shards import EmbeddingJob, ShardResult

_OF_A_MANIFEST = ("data_root", "rows_per_part", "shard", "engine", "actors")
_LOCAL_RANK = "LOCAL_RANK"
# Until all processes of torchrun are there, and until the last of them is done.
_PATIENCE, _FOR_EVER = timedelta(minutes=10), timedelta(days=365)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options that go with a manifest alone."""
    add = parser.add_argument_group("with a manifest").add_argument
    add("--data-root", metavar="FOLDER", help="what $data_root in its wavs stands for")
    help = f"recordings of a Parquet file (default: {ROWS_PER_PART}); all shards must agree"
    add("--rows-per-part", type=inputs.count, metavar="N", help=help)
    shares.add_arguments(add, "one for each GPU, or one for up to four cores")


def is_asked_for(options: Namespace) -> bool:
    """Whether the input is a manifest; UsageError if other options do not go with it."""
    named = (given for given in options.inputs if given.lower().endswith(".csv"))
    manifests = [given for given in named if not os.path.isdir(given)]
    if not manifests:
        for name in _OF_A_MANIFEST:
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option}: goes with a manifest, and found no .csv file.")
        return False
    if len(options.inputs) > 1:
        raise UsageError(
            f"expected one manifest or recordings, found {manifests[0]} and others. Give a "
            "manifest alone."
        )
    if Path(options.output).suffix in SUFFIXES:
        raise UsageError(
            f"--output: expected a folder for the embeddings of a manifest, found {options.output}."
        )
    return True


def run(options: Namespace) -> int:
    """Embed the share of a manifest that this process has."""
    shard = shares.checked_share(options)
    with usage_errors():
        rows = options.rows_per_part or ROWS_PER_PART
        manifest = cut_manifest(options.inputs[0], options.data_root, rows)
    folder = check_folder("--output", options.output)
    with models.model_folder(options.model, speakers=True) as model:
        return _embed(manifest, shard, folder.absolute(), model, options)


def _embed(
    manifest: PartedManifest,
    shard: tuple[int, int],
    folder: Path,
    model: Path,
    options: Namespace,
) -> int:
    from tqdm import tqdm

    from gemoclap_sb.inference.shards import EmbeddingJob
    from gemoclap_sb.inference.speaker_encoder import chosen_attribute

    with usage_errors():
        head = chosen_attribute(model, options.attribute)
    digest = models.model_digest(model)
    job = EmbeddingJob(manifest, str(folder), digest, head, options.batch_size)
    mine = manifest.parts[shard[0] - 1 :: shard[1]]
    failures, rows = output.Failures(), 0
    again = " The same command goes on from what is finished."
    with _together(), usage_errors(), writing(folder, again):
        job.open_folder()
        finished = {part.number: job.finished(part) for part in mine}
        left = [part.number for part in mine if finished[part.number] is None]
        if kept := len(mine) - len(left):
            say(f"Going on from {kept} of {len(mine)} parts in {folder}.")
        total = sum(part.rows for part in mine)
        # None: on a terminal only.
        with tqdm(total=total, unit="file", disable=None) as bar:
            bar.update(total - sum(manifest.parts[number].rows for number in left))
            for result in _results(job, finished, left, model, options, bar.update):
                rows += result.rows
                failures.tell(one.error for one in result.failures)
        said = "" if shard == (1, 1) else f", the share {shard[0]}/{shard[1]}"
        say(f"{folder}: {rows} embeddings in {len(mine)} of {len(manifest.parts)} parts{said}")
        if failures.count:
            say(f"{failures.count} of {total} recordings failed; they are listed in {job.errors}.")
    return failures.status


def _results(
    job: EmbeddingJob,
    finished: dict[int, ShardResult | None],
    left: Sequence[int],
    model: Path,
    options: Namespace,
    advance: Callable[..., object],
) -> Iterator[ShardResult]:
    """Yield what is there already, and then make the others."""
    for number, result in finished.items():
        if result is not None:
            job.write_failures(job.manifest.parts[number], result.failures)
            yield result
    if not left:
        return
    if options.engine == shares.RAY:
        from gemoclap_sb.inference.ray_data import embed_with_ray

        for result in embed_with_ray(job, left, model, options.device, options.actors):
            advance(job.manifest.parts[result.part].rows)
            yield result
        return
    from gemoclap_sb.inference.shards import embed_shard

    classifier = models.load_encoder(_of_rank(options), model)
    for number in left:
        yield embed_shard(classifier, job, job.manifest.parts[number], advance)


def _of_rank(options: Namespace) -> Namespace:
    """Give each process of torchrun its own GPU, unless a device is asked for."""
    import torch

    rank = os.environ.get(_LOCAL_RANK, "")
    if options.device is None and rank.isdecimal() and torch.cuda.is_available():
        return Namespace(**{**vars(options), "device": f"cuda:{rank}"})
    return options


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Let no process of torchrun end before the others: it stops them all if one ends with 1."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
        patient = dist.new_group(timeout=_FOR_EVER)
    except RuntimeError as error:
        raise UsageError(
            f"torchrun: the other processes did not come ({' '.join(str(error).split())}). Look "
            "at what they say, and start all of them."
        ) from error
    try:
        yield
        try:
            dist.barrier(patient)
        except RuntimeError as error:
            raise UsageError(
                "torchrun: another process is gone. This one's share is written; the same command "
                "goes on with the others'."
            ) from error
    finally:
        dist.destroy_process_group()
