"""How far clusters of each speaker's utterances agree with labels, against labels shuffled.

That the embeddings of one speaker form clusters that follow emotion is the first finding of Ulgen
et al., arXiv 2401.11017, ICASSP 2024. Clusters agree with labels a little by chance, and the more
so the fewer utterances there are of each; so every measure stands beside what it is for the same
speaker when the labels change places among the speaker's utterances. Neither the sizes of the
clusters nor the numbers of the labels change by that, so that a shuffle is a random table of the
same margins, which `scipy.stats.random_table` draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import xlogy
from tqdm import tqdm

LEVEL, SHUFFLES, SEED = 0.95, 1000, 1
# Equal tables may differ in the last bits of their measures.
_EQUAL = 1e-9


def normalised_mutual_information(tables: np.ndarray) -> np.ndarray:
    """Mutual information of the rows and columns of tables, over the mean of their entropies.

    ``tables`` are counts ``[..., K, L]``, of which none is empty; from 0 to 1, ``[...]``, as
    ``sklearn.metrics.normalized_mutual_info_score``.

    Examples
    --------
    >>> normalised_mutual_information(np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]]]))
    array([1., 0.])
    """
    total = tables.sum(axis=(-2, -1))

    def entropy(counts: np.ndarray) -> np.ndarray:
        return np.log(total) - xlogy(counts, counts).sum(axis=-1) / total

    rows, columns = entropy(tables.sum(axis=-1)), entropy(tables.sum(axis=-2))
    shared = rows + columns - entropy(tables.reshape(*tables.shape[:-2], -1))
    mean = (rows + columns) / 2
    # One row and one column say the same.
    return np.divide(shared, mean, out=np.ones_like(mean), where=mean > 0).clip(0, 1)


def adjusted_rand_index(tables: np.ndarray) -> np.ndarray:
    """Pairs of utterances that are together by rows and columns, 0 by chance and 1 at most.

    ``tables`` are counts ``[..., K, L]``; ``[...]``, as ``sklearn.metrics.adjusted_rand_score``.

    Examples
    --------
    >>> adjusted_rand_index(np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]]]))
    array([ 1. , -0.5])
    """

    def pairs(counts: np.ndarray) -> np.ndarray:
        counts = counts.astype(float)
        return counts * (counts - 1) / 2

    rows, columns = (pairs(tables.sum(axis=axis)).sum(axis=-1) for axis in (-1, -2))
    every = pairs(tables.sum(axis=(-2, -1)))
    # Where no two are together, or there is one utterance, nothing is expected.
    expected = np.divide(rows * columns, every, out=np.zeros_like(every), where=every > 0)
    found, most = pairs(tables).sum(axis=(-2, -1)) - expected, (rows + columns) / 2 - expected
    return np.divide(found, most, out=np.ones_like(most), where=most > 0)


def purity(tables: np.ndarray) -> np.ndarray:
    """Share of the utterances that have the commonest label (column) of their cluster (row).

    ``tables`` are counts ``[..., K, L]``; ``[...]``.

    Examples
    --------
    >>> purity(np.array([[3, 1], [0, 4]]))
    np.float64(0.875)
    """
    return tables.max(axis=-1).sum(axis=-1) / tables.sum(axis=(-2, -1))


MEASURES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "nmi": normalised_mutual_information,
    "ari": adjusted_rand_index,
    "purity": purity,
}


@dataclass(frozen=True)
class MeasuredAgreement:
    """One measure, of S speakers and of their mean.

    Attributes
    ----------
    values : np.ndarray
        Measured, ``[S]``, as all of the following.
    shuffled, shuffled_low, shuffled_high : np.ndarray
        Mean of the shuffled, and the ends of the interval that has 95 % of them.
    p : np.ndarray
        (1 + how many of the shuffled were at least as high) / (1 + shuffles).
    mean : float
        Of the values.
    interval : tuple of float or None
        95 % interval of the mean for speakers like these (Student's t); None for one speaker.
    mean_shuffled, mean_shuffled_low, mean_shuffled_high, mean_p : float
        As above, of the means over speakers, all shuffled at the same time.
    """

    values: np.ndarray
    shuffled: np.ndarray
    shuffled_low: np.ndarray
    shuffled_high: np.ndarray
    p: np.ndarray
    mean: float
    interval: tuple[float, float] | None
    mean_shuffled: float
    mean_shuffled_low: float
    mean_shuffled_high: float
    mean_p: float


@dataclass(frozen=True)
class SpeakerTable:
    """How a speaker's utterances divide: counts ``[K, L]``, of clusters over these labels."""

    counts: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ClusterAgreement:
    """What `cluster_agreement` has found.

    Attributes
    ----------
    speakers : tuple of str
        The S that were compared, in the order in which they came.
    tables : tuple of SpeakerTable
        Of each.
    measures : mapping of str to MeasuredAgreement
        By the names of `MEASURES`.
    left_out : mapping of str to str
        Speakers that say nothing, and why.
    unlabelled : int
        Utterances without a label, which were left out.
    shuffles, seed : int
        As given.
    """

    speakers: tuple[str, ...]
    tables: tuple[SpeakerTable, ...]
    measures: Mapping[str, MeasuredAgreement]
    left_out: Mapping[str, str]
    unlabelled: int
    shuffles: int
    seed: int

    @property
    def utterances(self) -> np.ndarray:
        """Of each speaker, ``[S]``."""
        return np.array([table.counts.sum() for table in self.tables])

    @property
    def sizes(self) -> np.ndarray:
        """Clusters and labels of each speaker, ``[S, 2]``."""
        return np.array([table.counts.shape for table in self.tables])


def cluster_agreement(
    speakers: Sequence[str] | np.ndarray,
    clusters: Sequence[int] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    shuffles: int = SHUFFLES,
    seed: int = SEED,
) -> ClusterAgreement:
    """Compare each speaker's clusters with labels.

    Parameters
    ----------
    speakers : Sequence[str]
        Who spoke each of N utterances.
    clusters : Sequence[int]
        Its cluster among the speaker's, N numbers.
    labels : Sequence[str]
        Its label, N names; an utterance with an empty one is left out.
    shuffles : int
        How often the labels change places among a speaker's utterances.
    seed : int
        From 0. A speaker's shuffles follow from it and from the speaker's name, whoever else
        is there.

    Returns
    -------
    ClusterAgreement
        Without speakers whose labelled utterances are of one label or in one cluster alone:
        theirs would agree as well however they were shuffled.

    Raises
    ------
    ValueError
        If the arrays have not the same length, there is no shuffle, or no speaker is left.

    Examples
    --------
    >>> speakers = ["ann"] * 8 + ["bob"]
    >>> labels = ["ang", "ang", "ang", "sad", "sad", "sad", "sad", "", "ang"]
    >>> found = cluster_agreement(speakers, [0, 0, 0, 1, 1, 1, 1, 1, 0], labels)
    >>> found.speakers, found.left_out, found.unlabelled
    (('ann',), {'bob': 'one label'}, 1)
    >>> nmi = found.measures["nmi"]
    >>> nmi.mean, bool(nmi.mean_shuffled < 0.3), bool(nmi.mean_p < 0.1)
    (1.0, True, True)
    """
    if not len(speakers) == len(clusters) == len(labels):
        raise ValueError(
            f"expected a speaker, a cluster and a label for each utterance, found {len(speakers)}, "
            f"{len(clusters)} and {len(labels)}."
        )
    if shuffles < 1:
        raise ValueError(f"shuffles: expected 1 or more, found {shuffles}.")
    labels = np.asarray(labels, dtype=object)
    kept: dict[str, SpeakerTable] = {}
    left_out: dict[str, str] = {}
    for name, table in _tables(speakers, np.asarray(clusters), labels):
        if reason := _says_nothing(table):
            left_out[name] = reason
        else:
            kept[name] = table
    if not kept:
        raise ValueError(
            "expected a speaker with at least two labels and two clusters, found none among "
            f"{len(left_out)}."
        )
    return ClusterAgreement(
        tuple(kept),
        tuple(kept.values()),
        _measured(kept, shuffles, seed),
        left_out,
        int((labels == "").sum()),
        shuffles,
        seed,
    )


def _tables(
    speakers: Sequence[str] | np.ndarray, clusters: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, SpeakerTable]]:
    """Count each speaker's utterances, in the order in which the speakers come."""
    codes, names = pd.factorize(np.asarray(speakers, dtype=object))
    kinds, called = pd.factorize(labels, sort=True)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for name, begin, end in zip(names, bounds, bounds[1:], strict=False):
        rows = order[begin:end]
        rows = rows[labels[rows] != ""]
        _, cluster = np.unique(clusters[rows], return_inverse=True)
        present, label = np.unique(kinds[rows], return_inverse=True)
        counts = np.zeros((cluster.max(initial=-1) + 1, len(present)), np.int64)
        np.add.at(counts, (cluster, label), 1)
        yield name, SpeakerTable(counts, tuple(called[present]))


def _says_nothing(table: SpeakerTable) -> str | None:
    """Say why a speaker's clusters cannot agree more or less than they do, if they cannot."""
    clusters, labels = table.counts.shape
    if not labels:
        return "no label"
    return "one label" if labels == 1 else "one cluster" if clusters == 1 else None


def _measured(
    tables: Mapping[str, SpeakerTable], shuffles: int, seed: int
) -> dict[str, MeasuredAgreement]:
    """Measure each speaker's table, and as many shuffled ones."""
    size = (len(MEASURES), len(tables))
    values, mean, p, low, high = (np.empty(size) for _ in range(5))
    # Of the measured table, and after it of the shuffled.
    sums = np.zeros((len(MEASURES), 1 + shuffles))
    ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    # None: on a terminal only.
    bar = tqdm(tables.items(), desc="shuffling", unit="speaker", disable=None)
    for i, (name, table) in enumerate(bar):
        counts = table.counts
        drawn = stats.random_table.rvs(
            counts.sum(axis=1),
            counts.sum(axis=0),
            size=shuffles,
            random_state=_generator(seed, name),
        )
        stack = np.concatenate([counts[None], drawn.reshape(shuffles, *counts.shape)])
        found = np.stack([measure(stack) for measure in MEASURES.values()])
        sums += found
        values[:, i], mean[:, i] = found[:, 0], found[:, 1:].mean(axis=1)
        low[:, i], high[:, i] = np.quantile(found[:, 1:], ends, axis=1)
        p[:, i] = _p(found)
    means = sums / len(tables)
    return {
        name: MeasuredAgreement(
            values[k],
            mean[k],
            low[k],
            high[k],
            p[k],
            float(means[k, 0]),
            _interval_of_mean(values[k]),
            float(means[k, 1:].mean()),
            *np.quantile(means[k, 1:], ends).tolist(),
            float(_p(means)[k]),
        )
        for k, name in enumerate(MEASURES)
    }


def _p(found: np.ndarray) -> np.ndarray:
    """Give the permutation test's p of values ``[..., 1 + shuffles]``, the first measured."""
    as_high = (found[..., 1:] >= found[..., :1] - _EQUAL).sum(axis=-1)
    return (1 + as_high) / found.shape[-1]


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _interval_of_mean(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    mean = float(values.mean())
    margin = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return mean - margin, mean + margin
