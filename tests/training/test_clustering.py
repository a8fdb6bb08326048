"""Clusters found block by block: scikit-learn's full-batch k-means is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from gemoclap_sb.training.clustering import fit_clusters, nearest_clusters


def blobs(clusters: int, frames: int, seed: int = 0) -> np.ndarray:
    """Frames around centres that lie apart, in no order."""
    draw = np.random.default_rng(seed)
    centres = draw.permutation(np.eye(clusters, 12) * 10)
    return (centres[draw.integers(clusters, size=frames)] + draw.normal(size=(frames, 12))).astype(
        np.float32
    )


def cut(frames: np.ndarray, blocks: int) -> list[np.ndarray]:
    return np.array_split(frames, blocks)


def test_labels_are_those_of_full_batch_k_means():
    frames = blobs(6, 900)
    parts = cut(frames, 5)
    [centroids] = fit_clusters(parts.__getitem__, 5, [6], passes=5, seed=1)
    oracle = KMeans(6, n_init=10, random_state=1).fit(frames)
    found = nearest_clusters(frames, [centroids])[:, 0]
    assert adjusted_rand_score(oracle.labels_, found) == 1
    # The same centres, whatever their numbers: a mini-batch's means are of all frames seen.
    distances = np.linalg.norm(oracle.cluster_centers_[:, None] - centroids[None], axis=2)
    assert sorted(distances.argmin(axis=1)) == list(range(6))
    assert distances.min(axis=1).max() < 0.5


def test_it_comes_near_to_full_batch_k_means_where_one_cluster_has_most_frames():
    """Half of speech is silence. Many clusters, few frames each, and blocks of many frames."""
    draw = np.random.default_rng(0)
    silence = draw.normal(0, 0.05, (1500, 12))
    speech = draw.normal(0, 1.0, (1500, 12))
    frames = draw.permutation(np.concatenate([silence, speech])).astype(np.float32)
    parts = cut(frames, 6)
    oracle = KMeans(128, n_init=3, random_state=1).fit(frames).inertia_
    for seed in (1, 2):
        [centroids] = fit_clusters(parts.__getitem__, 6, [128], passes=10, seed=seed)
        squares = ((frames[:, None] - centroids[None]) ** 2).sum(axis=2)
        assert squares.min(axis=1).sum() < 1.08 * oracle


def test_nearest_clusters_are_the_nearest_written_out():
    frames = blobs(4, 50)
    centroids = [blobs(3, 7, seed=1), blobs(3, 2, seed=2)]
    squares = [((frames[:, None] - of[None]) ** 2).sum(axis=2) for of in centroids]
    expected = np.stack([of.argmin(axis=1) for of in squares], axis=1)
    assert np.array_equal(nearest_clusters(frames, centroids), expected)


def test_the_same_seed_gives_the_same_centroids():
    parts = cut(blobs(6, 300), 4)
    once, again, other = (
        fit_clusters(parts.__getitem__, 4, [5, 9], passes=3, seed=seed) for seed in (1, 1, 2)
    )
    assert all(map(np.array_equal, once, again))
    assert not all(map(np.array_equal, once, other))


def test_each_block_is_seen_once_a_pass_in_another_order():
    parts = cut(blobs(3, 120), 6)
    seen = []

    def read(number: int) -> np.ndarray:
        seen.append(number)
        return parts[number]

    fit_clusters(read, 6, [2], passes=3, seed=1)
    orders = [seen[place : place + 6] for place in (0, 6, 12)]
    assert [sorted(order) for order in orders] == [list(range(6))] * 3
    assert len(set(map(tuple, orders))) > 1


def test_it_begins_with_a_block_that_has_enough_frames():
    small, large = blobs(3, 4), blobs(3, 40)
    for seed in range(4):
        [centroids] = fit_clusters([small, large].__getitem__, 2, [20], passes=1, seed=seed)
        assert centroids.shape == (20, 12)


def test_more_clusters_than_frames_are_refused():
    parts = cut(blobs(3, 30), 3)
    with pytest.raises(ValueError, match="found 10 frames at most for 11 clusters"):
        fit_clusters(parts.__getitem__, 3, [2, 11], passes=1, seed=1)
