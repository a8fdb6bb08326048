"""How much of a training batch is speech, and how mixed it is, by way of batching.

Prints, in one run, a row for each way of making batches: the share of speech (valid
samples over padded samples), the number of batches and of full ones. With
`--labels` also the class mix: the mean and the smallest number of classes in a
full batch, the batches of one class, and the distance between a batch's class shares and
the corpus's (total variation, 0 the same to 1 disjoint). Random batches show what
distance chance alone gives.

    python benchmarks/padding.py --durations train.csv --labels emotion
    python benchmarks/padding.py --durations train.csv --pool-batches 8 16 32 64

The CSV has a column of durations in seconds; any manifest of the project will do.
SpeechBrain's `DynamicBatchSampler` is given quantile boundaries and `max_batch_ex`. With
`--micro-batches`, random batches are cut into micro-batches of like length: what is padded are
these, what is mixed, and compared by a contrastive loss, is the whole batch.

    python benchmarks/padding.py --durations train.csv --labels emotion --batch-size 256 \
        --micro-batches 8 32
"""

from __future__ import annotations

import csv
import logging
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from speechbrain.dataio.sampler import DynamicBatchSampler, ReproducibleRandomSampler
from torch.utils.data import BatchSampler

from gemoclap_sb.data.samplers import LengthPooledBatchSampler, length_sorted_batches, speech_share
from gemoclap_sb.training.gradient_cache import micro_batch_count, micro_batch_places

Batches = list[list[int]]
SAMPLE_RATE = 16000
IEMOCAP = Path(__file__).resolve().parents[2] / "shared/data/iemocap_durations.csv"


def read_column(path: Path, column: str) -> list[str]:
    """Read one column of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or []):
            raise ValueError(
                f"{path}: expected a column {column!r}, found {reader.fieldnames}. "
                "Name it with --column or --labels."
            )
        values = [row[column] for row in reader]
    if not values:
        raise ValueError(f"{path}: expected rows below the header, found none.")
    return values


def read_seconds(path: Path | None, column: str, seed: int) -> tuple[np.ndarray, str]:
    """Durations of a file, by default IEMOCAP's, else some like them; and where they are from."""
    path = path or (IEMOCAP if IEMOCAP.exists() else None)
    if path is not None:
        return np.array(read_column(path, column), dtype=float), path.name
    # Median, spread and extremes of IEMOCAP's four classes.
    drawn = np.random.default_rng(seed).lognormal(np.log(3.58), 0.64, 5531).clip(0.58, 34.1)
    return drawn, "a log-normal sample (median 3.58 s, sigma 0.64)"


def make_batches(
    way: str, samples: np.ndarray, batch_size: int, seed: int, epoch: int, number: int = 64
) -> Batches:
    """Batches of an epoch: `random`, `sorted`, `pooled` by so many, or `dynamic` in so many."""
    if way == "random":
        # As SpeechBrain's `shuffle: True` draws them.
        sampler = ReproducibleRandomSampler(range(len(samples)), seed=seed, epoch=epoch)
        return list(BatchSampler(sampler, batch_size, drop_last=False))
    if way == "sorted":
        return length_sorted_batches(samples, batch_size)
    if way == "pooled":
        return LengthPooledBatchSampler(samples, batch_size, number, seed=seed).batches(epoch)
    boundaries = np.unique(np.quantile(samples, np.linspace(0, 1, number + 1)[1:]))
    sampler = DynamicBatchSampler(
        range(len(samples)),
        # Large enough for max_batch_ex to be the only limit.
        max_batch_length=float(batch_size * samples.max()),
        bucket_boundaries=boundaries.tolist(),
        lengths_list=samples.tolist(),
        max_batch_ex=batch_size,
        seed=seed,
        epoch=epoch,
    )
    return list(sampler)


def typical_batches(
    way: str, samples: np.ndarray, batch_size: int, seed: int, count: int
) -> Batches:
    """Pick full batches for an epoch: of strata by padded length those nearest to the mean."""
    batches = make_batches(way, samples, batch_size, seed, epoch=1)
    largest = max(map(len, batches))
    full = [batch for batch in batches if len(batch) == largest]
    padded = np.array([samples[batch].max() for batch in full])
    strata = np.array_split(np.argsort(padded, kind="stable"), min(count, len(full)))
    distances = [np.abs(padded[stratum] - padded[stratum].mean()) for stratum in strata]
    return [full[of[far.argmin()]] for of, far in zip(strata, distances, strict=True)]


def micro_batched(batches: Batches, samples: np.ndarray, most: int) -> Batches:
    """Cut batches into micro-batches, as training does."""
    return [
        [batch[i] for i in places]
        for batch in batches
        for places in micro_batch_places(samples[batch], micro_batch_count(len(batch), most))
    ]


def class_mix(batches: Batches, labels: np.ndarray, batch_size: int) -> list[float]:
    """Mean and fewest classes in a batch, share with one class, mean distance to the corpus."""
    # A batch of few utterances is far from the corpus whatever the way of batching.
    full = [batch for batch in batches if len(batch) == batch_size] or batches
    num_classes = int(labels.max()) + 1
    corpus = np.bincount(labels) / len(labels)
    counts = np.stack([np.bincount(labels[batch], minlength=num_classes) for batch in full])
    present = (counts > 0).sum(axis=1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    distances = np.abs(shares - corpus).sum(axis=1) / 2
    mix = (present.mean(), present.min(), (present == 1).mean(), distances.mean())
    return [float(figure) for figure in mix]


def measure(
    epochs: list[Batches],
    samples: np.ndarray,
    labels: np.ndarray | None,
    batch_size: int,
    micro_batch_size: int | None = None,
) -> list[str]:
    """One row of the table: means over the epochs, the smallest of the smallest."""
    rows = []
    for batches in epochs:
        full = sum(len(batch) == batch_size for batch in batches)
        padded = micro_batched(batches, samples, micro_batch_size) if micro_batch_size else batches
        row = [100 * speech_share(samples, padded), len(batches), full]
        rows.append(row + ([] if labels is None else class_mix(batches, labels, batch_size)))
    table = np.array(rows, dtype=float)
    mean, smallest = table.mean(axis=0), table.min(axis=0)
    cells = [f"{mean[0]:.1f}", f"{smallest[0]:.1f}", f"{mean[1]:.0f}", f"{mean[2]:.0f}"]
    if labels is not None:
        cells += [f"{mean[3]:.2f}", f"{smallest[4]:.0f}", f"{100 * mean[5]:.1f}", f"{mean[6]:.3f}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure every way of batching, print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--durations", type=Path, required=True, help="CSV file, one row each")
    add("--column", default="duration", help="its column of seconds")
    add("--labels", help="its column of class labels, for the class mix")
    add("--batch-size", type=int, default=32)
    add("--pool-batches", type=int, nargs="+", default=[64])
    add("--micro-batches", type=int, nargs="*", default=[], help="sizes of micro-batches")
    add("--buckets", type=int, default=40, help="of DynamicBatchSampler")
    add("--epochs", type=int, default=5, help="averaged over")
    add("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    # Else DynamicBatchSampler's notes on every epoch stand between the rows.
    logging.getLogger("speechbrain").setLevel(logging.WARNING)

    seconds = np.array([float(value) for value in read_column(options.durations, options.column)])
    samples = np.round(seconds * SAMPLE_RATE)
    size, seed = options.batch_size, options.seed
    print(f"{len(seconds)} utterances, {seconds.sum() / 3600:.2f} h, ", end="")
    print(f"{seconds.min():.2f} s to {seconds.max():.2f} s, batches of {size}, ", end="")
    print(f"{options.epochs} epochs, seed {seed}")
    header = ["batching", "speech %", "worst epoch %", "batches", "full"]
    labels = None
    if options.labels is not None:
        column = read_column(options.durations, options.labels)
        names, labels, counts = np.unique(column, return_inverse=True, return_counts=True)
        shares = zip(names, 100 * counts / len(labels), strict=True)
        listed = ", ".join(f"{name} {share:.1f} %" for name, share in shares)
        print(f"classes in the corpus: {listed}")
        header += ["classes per batch", "fewest", "one class %", "distance to corpus"]

    ways = {
        "random": ("random", 0),
        f"DynamicBatchSampler, {options.buckets} quantiles": ("dynamic", options.buckets),
        "fully sorted": ("sorted", 0),
    }
    for number in options.pool_batches:
        ways[f"LengthPooledBatchSampler, pools of {number}"] = ("pooled", number)
    for number in options.micro_batches:
        ways[f"random, micro-batches of {number}"] = ("micro", number)
    print("\n| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    epochs = range(1, options.epochs + 1)
    for name, (way, number) in ways.items():
        micro = number if way == "micro" else None
        drawn, pools = ("pooled", 1) if micro else (way, number)
        batches = [make_batches(drawn, samples, size, seed, epoch, pools) for epoch in epochs]
        cells = measure(batches, samples, labels, size, micro)
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
