"""Clusters of one speaker's utterances by their embeddings.

Embeddings of one speaker form clusters that follow emotion: Ulgen, Du, Busso and Sisman,
"Revealing Emotional Clusters in Speaker Embeddings", ICASSP 2024 (arXiv 2401.11017). Which
algorithm and how many clusters are knobs here. No emotion label is read.

Embeddings have length 1: the square of the Euclidean distance, which is used throughout, is twice
1 - cosine.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KMEANS, AGGLOMERATIVE = METHODS = ("kmeans", "agglomerative")
AUTO_AT_LEAST, MOST_CLUSTERS = 8, 8
"""Utterances that a speaker needs, and clusters that are tried, by default, without a number."""
MOST_AGGLOMERATED = 5000
"""Utterances of a speaker: the distances between all pairs are in memory, of these 200 MB."""
MOST_COMPARED = 2000
"""Utterances that a number of clusters is chosen by; of more, so many are drawn by lot."""
_STARTS = 3
# A silhouette needs fewer clusters than utterances; below, none is tried.
_LEAST_TO_CHOOSE = 4


class ClusteringError(ValueError):
    """A speaker that the method does not take; the message says what to do."""


@dataclass(frozen=True)
class ClusteringOptions:
    """All that decides the clusters of a speaker besides the embeddings.

    Parameters
    ----------
    method : "kmeans" or "agglomerative"
        k-means++ with the best of three starts, or Ward's agglomeration, for speakers of up to
        5,000 utterances.
    clusters : int, optional
        Of each speaker. By default the number from 2 to ``most_clusters``, and to half of the
        utterances, whose mean silhouette is the highest (Rousseeuw 1987); of speakers with more
        than 2,000 utterances on 2,000 of them.
    most_clusters : int, optional
        The most that are tried without ``clusters``; by default 8.
    least_utterances : int, optional
        A speaker with fewer has no clusters; by default two a cluster, or 8 without ``clusters``.
    seed : int
        Of the starts of k-means, and of the order of a cluster's utterances.

    Raises
    ------
    ValueError
        If one is out of its range, or ``most_clusters`` stands beside ``clusters``.

    Examples
    --------
    >>> ClusteringOptions(clusters=4).least
    8
    """

    method: str = KMEANS
    clusters: int | None = None
    most_clusters: int | None = None
    least_utterances: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: expected {' or '.join(METHODS)}, found {self.method!r}.")
        if self.clusters is not None and self.most_clusters is not None:
            raise ValueError("most_clusters: goes with clusters that are chosen; leave it out.")
        least = 1 if self.clusters else _LEAST_TO_CHOOSE
        for name, at_least in (
            ("clusters", 2), ("most_clusters", 2), ("least_utterances", least), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise ValueError(f"{name}: expected {at_least} or more, found {value}.")

    @property
    def least(self) -> int:
        """Utterances that a speaker needs."""
        if self.least_utterances is not None:
            return self.least_utterances
        return 2 * self.clusters if self.clusters else AUTO_AT_LEAST

    @property
    def most(self) -> int:
        """Clusters that a speaker has at most."""
        return self.clusters or self.most_clusters or MOST_CLUSTERS

    def described(self) -> dict[str, Any]:
        """Give the options with the defaults that hold, for JSON."""
        chosen = {"clusters": self.clusters} if self.clusters else {"most_clusters": self.most}
        return {
            "method": self.method,
            "clusters": "auto",
            **chosen,
            "least_utterances": self.least,
            "seed": self.seed,
        }


def cluster_speaker(
    vectors: np.ndarray, speaker: str, options: ClusteringOptions
) -> tuple[np.ndarray | None, str]:
    """Cluster the embeddings of a speaker.

    The result depends on these arguments alone; how many threads there are may change roundings.

    Parameters
    ----------
    vectors : np.ndarray
        float32 ``[N, D]``, of length 1 each. Their order matters: sort them by something.
    speaker : str
        Who; with the seed, it decides the starts.
    options : ClusteringOptions
        How.

    Returns
    -------
    np.ndarray or None
        int32 ``[N]``, from 0 by falling size; of equals, the one with the first utterance is
        first. None if the speaker has no clusters.
    str
        Why not.

    Raises
    ------
    ClusteringError
        If there are more utterances than the method takes.

    Examples
    --------
    >>> angles = np.float32([0.0, 1.5, 0.1, 1.6, 0.2])
    >>> vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> cluster_speaker(vectors, "Ann", ClusteringOptions(clusters=2, least_utterances=3))
    (array([0, 1, 0, 1, 0], dtype=int32), '')
    >>> cluster_speaker(vectors, "Ann", ClusteringOptions())
    (None, 'fewer than 8 utterances')
    """
    count = len(vectors)
    if count < options.least:
        return None, f"fewer than {options.least} utterances"
    if options.method == AGGLOMERATIVE and count > MOST_AGGLOMERATED:
        raise ClusteringError(
            f"speaker {speaker} has {count} utterances, and --method agglomerative takes up to "
            f"{MOST_AGGLOMERATED}. Take --method kmeans."
        )
    distinct = len(np.unique(vectors, axis=0))
    if distinct < (options.clusters or 2):
        return None, f"fewer distinct embeddings ({distinct}) than clusters"
    seed = int.from_bytes(_digest(options.seed, speaker)[:4], "big")
    fit = _kmeans if options.method == KMEANS else _agglomerate
    if options.clusters:
        labels = fit(vectors, options.clusters, seed)
    else:
        tried = range(2, min(options.most, distinct, count // 2) + 1)
        labels = _best(vectors, (lambda number: fit(vectors, number, seed)), tried, seed)
    if labels is None:
        # k-means finds fewer clusters only among points that rounding makes one.
        return None, "embeddings too much alike for so many clusters"
    return _by_size(labels), ""


def in_random_order(ids: Sequence[str], seed: int) -> np.ndarray:
    """Give places of IDs in an order that looks random, and is that of each ID and the seed."""
    return np.array(sorted(range(len(ids)), key=lambda i: _digest(seed, ids[i])), np.int64)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def _kmeans(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray | None:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(clusters, n_init=_STARTS, random_state=seed).fit_predict(vectors)
    return labels if len(np.unique(labels)) == clusters else None


def _agglomerate(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(clusters, linkage="ward").fit_predict(vectors)


def _best(
    vectors: np.ndarray,
    fit: Callable[[int], np.ndarray | None],
    tried: Sequence[int],
    seed: int,
) -> np.ndarray | None:
    """Fit each number of clusters; give the labels with the highest mean silhouette."""
    from sklearn.metrics import pairwise_distances, silhouette_score

    compared = slice(None)
    if len(vectors) > MOST_COMPARED:
        lot = np.random.default_rng(seed)
        compared = np.sort(lot.choice(len(vectors), MOST_COMPARED, replace=False))
    distances = pairwise_distances(vectors[compared])
    best, highest = None, -np.inf
    for number in tried:
        labels = fit(number)
        if labels is None or not 1 < len(np.unique(labels[compared])) < len(distances):
            continue
        silhouette = silhouette_score(distances, labels[compared], metric="precomputed")
        if silhouette > highest:
            best, highest = labels, silhouette
    return best


def _by_size(labels: np.ndarray) -> np.ndarray:
    _, firsts, labels, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((firsts, -sizes))
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order))
    return numbers[labels]
