"""Clusters of a speaker against scikit-learn and silhouettes written out in NumPy."""

from __future__ import annotations

import hashlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score

from gemoclap_sb.inference import speaker_clustering
from gemoclap_sb.inference.speaker_clustering import (
    ClusteringError,
    ClusteringOptions,
    cluster_speaker,
    in_random_order,
)
from tests.embedded_speakers import blobs

METHODS = ("kmeans", "agglomerative")


def fits(vectors: np.ndarray, speaker: str, clusters: int) -> dict[str, np.ndarray]:
    """What scikit-learn finds, given the seed that the documentation says."""
    digest = hashlib.sha256(f"5\n{speaker}".encode()).digest()
    seed = int(digest[:4].hex(), 16)
    kmeans = KMeans(clusters, init="k-means++", n_init=3, random_state=seed)
    ward = AgglomerativeClustering(clusters, linkage="ward")
    return {"kmeans": kmeans.fit(vectors).labels_, "agglomerative": ward.fit(vectors).labels_}


def mean_silhouette(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Rousseeuw's formula, utterance by utterance."""
    distances = np.linalg.norm(vectors[:, None].astype(float) - vectors[None], axis=2)
    found = []
    for i, own in enumerate(labels):
        same = (labels == own) & (np.arange(len(labels)) != i)
        if not same.any():
            found.append(0.0)
            continue
        within = distances[i, same].mean()
        beyond = min(distances[i, labels == other].mean() for other in set(labels) - {own})
        found.append((beyond - within) / max(within, beyond))
    return float(np.mean(found))


@pytest.mark.parametrize("method", METHODS)
def test_a_number_of_clusters_is_fitted_by_scikit_learn(method):
    # Without gaps, so that another start or linkage would give another result.
    vectors = blobs([40], seed=3, noise=1.0)
    options = ClusteringOptions(method, clusters=4, seed=5)
    labels, reason = cluster_speaker(vectors, "Ann", options)
    assert (labels.dtype, reason) == (np.int32, "")
    assert adjusted_rand_score(labels, fits(vectors, "Ann", 4)[method]) == 1
    # Another speaker has another start.
    assert fits(vectors, "Ann", 4)["kmeans"].tolist() != fits(vectors, "Bob", 4)["kmeans"].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_number_with_the_highest_silhouette_is_chosen(method):
    for seed, sizes in enumerate(([9, 8, 7], [20, 12], [6, 6, 6, 6, 6], [30])):
        vectors = blobs(sizes, seed, noise=0.3)
        labels, _ = cluster_speaker(vectors, "Ann", ClusteringOptions(method, seed=5))
        tried = [fits(vectors, "Ann", number)[method] for number in range(2, 9)]
        best = max(tried, key=lambda one: mean_silhouette(vectors, one))
        assert adjusted_rand_score(labels, best) == 1


@pytest.mark.parametrize("method", METHODS)
def test_gaps_are_found_and_the_largest_comes_first(method):
    vectors = blobs([5, 11, 8, 8])
    labels, _ = cluster_speaker(vectors, "Ann", ClusteringOptions(method))
    assert np.bincount(labels).tolist() == [11, 8, 8, 5]
    # Of equals, the one that the first utterance is in.
    assert labels.tolist().index(1) < labels.tolist().index(2)
    centres = np.stack([vectors[labels == number].mean(axis=0) for number in range(4)])
    np.testing.assert_array_equal(np.argmax(vectors @ centres.T, axis=1), labels)


def test_no_more_are_tried_than_asked_for_or_half_of_the_utterances():
    six = blobs([2] * 6, noise=0.01)
    assert cluster_speaker(six, "Ann", ClusteringOptions())[0].max() == 5
    assert cluster_speaker(six, "Ann", ClusteringOptions(most_clusters=4))[0].max() == 3
    nine = blobs([1] * 8 + [2], size=9, noise=0.01)
    assert cluster_speaker(nine, "Ann", ClusteringOptions(most_clusters=9))[0].max() <= 4


def test_of_many_utterances_a_lot_is_compared(monkeypatch):
    vectors = blobs([60, 50, 40])
    whole = cluster_speaker(vectors, "Ann", ClusteringOptions())[0]
    monkeypatch.setattr(speaker_clustering, "MOST_COMPARED", 20)
    with mock.patch("sklearn.metrics.pairwise_distances", return_value=None) as distances:
        with pytest.raises(TypeError):
            cluster_speaker(vectors, "Ann", ClusteringOptions())
        assert len(distances.call_args.args[0]) == 20
    again = [cluster_speaker(vectors, "Ann", ClusteringOptions())[0] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    np.testing.assert_array_equal(again[0], whole)


@pytest.mark.parametrize(
    ("count", "options", "reason"),
    [
        (7, {}, "fewer than 8 utterances"),
        (7, {"clusters": 4}, "fewer than 8 utterances"),
        (2, {"clusters": 2, "least_utterances": 3}, "fewer than 3 utterances"),
        (4, {"clusters": 5, "least_utterances": 2}, "fewer distinct embeddings (4) than clusters"),
    ],
)
def test_who_has_too_few_utterances_is_left_out(count, options, reason):
    assert cluster_speaker(blobs([count]), "Ann", ClusteringOptions(**options)) == (None, reason)


@pytest.mark.parametrize("method", METHODS)
def test_who_says_the_same_again_and_again_is_left_out(method):
    same = np.repeat(blobs([1]), 10, axis=0)
    told = (None, "fewer distinct embeddings (1) than clusters")
    assert cluster_speaker(same, "Ann", ClusteringOptions(method)) == told
    assert cluster_speaker(same, "Ann", ClusteringOptions(method, clusters=2)) == told
    two = np.repeat(blobs([1, 1], noise=0.01), 5, axis=0)
    assert np.bincount(cluster_speaker(two, "Ann", ClusteringOptions(method))[0]).tolist() == [5, 5]


def test_what_rounding_makes_one_is_left_out():
    """Two places, each six times, told apart by the last bits alone."""
    alike = np.repeat(np.eye(8, dtype=np.float32)[:2], 6, axis=0)
    alike[:, 7] = np.tile(np.arange(6, dtype=np.float32), 2) * 1e-30
    _, reason = cluster_speaker(alike, "Ann", ClusteringOptions(clusters=6))
    assert reason == "embeddings too much alike for so many clusters"
    labels, _ = cluster_speaker(alike, "Ann", ClusteringOptions())
    assert np.bincount(labels).tolist() == [6, 6]


def test_the_limit_of_agglomeration_is_told(monkeypatch):
    monkeypatch.setattr(speaker_clustering, "MOST_AGGLOMERATED", 9)
    vectors = blobs([5, 5])
    with pytest.raises(ClusteringError, match="speaker Ann has 10 .* up to 9. Take --method kmean"):
        cluster_speaker(vectors, "Ann", ClusteringOptions("agglomerative"))
    assert cluster_speaker(vectors, "Ann", ClusteringOptions())[1] == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "dbscan"}, "method: expected kmeans or agglomerative, found 'dbscan'"),
        ({"clusters": 1}, "clusters: expected 2 or more, found 1"),
        ({"most_clusters": 1}, "most_clusters: expected 2 or more"),
        ({"least_utterances": 3}, "least_utterances: expected 4 or more"),
        ({"clusters": 2, "least_utterances": 0}, "least_utterances: expected 1 or more"),
        ({"seed": -1}, "seed: expected 0"),
        ({"clusters": 4, "most_clusters": 8}, "most_clusters: goes with"),
    ],
)
def test_options_out_of_range_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        ClusteringOptions(**options)


@settings(max_examples=20)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=5),
    st.integers(0, 2**32),
    st.sampled_from([None, 2, 3]),
    st.sampled_from(METHODS),
)
def test_every_utterance_has_a_cluster_and_sizes_fall(sizes, seed, clusters, method):
    vectors = blobs(sizes, seed, noise=0.3)
    options = ClusteringOptions(method, clusters, least_utterances=4)
    labels, reason = cluster_speaker(vectors, str(seed), options)
    if labels is None:
        assert len(vectors) < 4 and reason == "fewer than 4 utterances"
        return
    counts = np.bincount(labels)
    assert len(labels) == len(vectors) and counts.min() > 0
    assert (np.diff(counts) <= 0).all()
    assert len(counts) == clusters or (clusters is None and 2 <= len(counts) <= len(vectors) // 2)


@given(st.lists(st.text(), unique=True), st.integers(0, 9), st.randoms())
def test_the_random_order_is_that_of_the_ids_alone(ids, seed, random):
    ordered = [ids[i] for i in in_random_order(ids, seed)]
    assert sorted(ordered) == sorted(ids)
    other = random.sample(ids, len(ids))
    assert [other[i] for i in in_random_order(other, seed)] == ordered


def test_the_random_order_looks_random():
    ids = [f"{i:03d}" for i in range(500)]
    places = in_random_order(ids, 1)
    assert abs(np.corrcoef(np.arange(500), places)[0, 1]) < 0.1
    assert places.tolist() != in_random_order(ids, 2).tolist()
