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
SpeechBrain's `DynamicBatchSampler` is given quantile boundaries and `max_batch_ex`.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from speechbrain.dataio.sampler import DynamicBatchSampler, ReproducibleRandomSampler
from torch.utils.data import BatchSampler

from gemoclap_sb.data.samplers import LengthPooledBatchSampler, length_sorted_batches, speech_share

Batches = list[list[int]]
SAMPLE_RATE = 16000


def read_column(path: Path, column: str) -> list[str]:
    """Read one column of a CSV file.

    Parameters
    ----------
    path : Path
        A CSV file with a header.
    column : str
        Name of the column.

    Returns
    -------
    values : list of str

    Raises
    ------
    ValueError
        If the file has no such column or no rows.
    """
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


def random_batches(samples: np.ndarray, batch_size: int, seed: int, epoch: int) -> Batches:
    """Batches as SpeechBrain's `shuffle: True` draws them."""
    sampler = ReproducibleRandomSampler(range(len(samples)), seed=seed, epoch=epoch)
    return list(BatchSampler(sampler, batch_size, drop_last=False))


def dynamic_batches(
    samples: np.ndarray, batch_size: int, seed: int, epoch: int, buckets: int
) -> Batches:
    """Batches of SpeechBrain's `DynamicBatchSampler` with quantile boundaries."""
    boundaries = np.unique(np.quantile(samples, np.linspace(0, 1, buckets + 1)[1:]))
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


def class_mix(batches: Batches, labels: np.ndarray, batch_size: int) -> list[float]:
    """Class mix of the full batches (of all where none is full).

    Parameters
    ----------
    batches : list of list of int
        Indices into `labels`.
    labels : numpy.ndarray of int, [N]
        Class of every utterance, from 0.
    batch_size : int
        Size of a full batch.

    Returns
    -------
    mix : list of float
        Mean and smallest number of classes in a batch, share of batches with one
        class, mean total variation distance to the corpus's class shares.
    """
    # A batch of few utterances is far from the corpus whatever the way of batching.
    full = [batch for batch in batches if len(batch) == batch_size] or batches
    num_classes = int(labels.max()) + 1
    corpus = np.bincount(labels) / len(labels)
    counts = np.stack([np.bincount(labels[batch], minlength=num_classes) for batch in full])
    present = (counts > 0).sum(axis=1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    distances = np.abs(shares - corpus).sum(axis=1) / 2
    return [
        float(present.mean()),
        float(present.min()),
        float((present == 1).mean()),
        float(distances.mean()),
    ]


def measure(
    make_batches: Callable[[int], Batches],
    samples: np.ndarray,
    labels: np.ndarray | None,
    batch_size: int,
    epochs: int,
) -> list[str]:
    """One row of the table: means over the epochs, the smallest of the smallest."""
    rows = []
    for epoch in range(1, epochs + 1):
        batches = make_batches(epoch)
        full = sum(len(batch) == batch_size for batch in batches)
        row = [100 * speech_share(samples, batches), len(batches), full]
        if labels is not None:
            row += class_mix(batches, labels, batch_size)
        rows.append(row)
    table = np.array(rows, dtype=float)
    mean = table.mean(axis=0)
    cells = [f"{mean[0]:.1f}", f"{table[:, 0].min():.1f}", f"{mean[1]:.0f}", f"{mean[2]:.0f}"]
    if labels is not None:
        smallest = table[:, 4].min()
        cells += [f"{mean[3]:.2f}", f"{smallest:.0f}", f"{100 * mean[5]:.1f}", f"{mean[6]:.3f}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure every way of batching, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--durations", type=Path, required=True, help="CSV file, one row each")
    parser.add_argument("--column", default="duration", help="its column of seconds")
    parser.add_argument("--labels", help="its column of class labels, for the class mix")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pool-batches", type=int, nargs="+", default=[64])
    parser.add_argument("--buckets", type=int, default=40, help="of DynamicBatchSampler")
    parser.add_argument("--epochs", type=int, default=5, help="averaged over")
    parser.add_argument("--seed", type=int, default=1)
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
        names, labels = np.unique(
            read_column(options.durations, options.labels), return_inverse=True
        )
        shares = np.bincount(labels) / len(labels)
        listed = (f"{name} {100 * share:.1f} %" for name, share in zip(names, shares, strict=True))
        print("classes in the corpus: " + ", ".join(listed))
        header += ["classes per batch", "fewest", "one class %", "distance to corpus"]

    ways: dict[str, Callable[[int], Batches]] = {
        "random": lambda epoch: random_batches(samples, size, seed, epoch),
        f"DynamicBatchSampler, {options.buckets} quantiles": lambda epoch: dynamic_batches(
            samples, size, seed, epoch, options.buckets
        ),
        "fully sorted": lambda epoch: length_sorted_batches(samples, size).batches,
    }
    for pool_batches in options.pool_batches:
        sampler = LengthPooledBatchSampler(samples, size, pool_batches, seed=seed)
        ways[f"LengthPooledBatchSampler, pools of {pool_batches}"] = sampler.batches
    print("\n| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for name, make_batches in ways.items():
        cells = measure(make_batches, samples, labels, size, options.epochs)
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
