"""Batches over clusters: what each must hold, and that none costs a pass over the corpus."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.cluster_sampler import ClusterBatchSampler, ClusterParts, split_clusters
from gemoclap_sb.data.speaker_clusters import SpeakerClusters

# Sizes of the clusters of each speaker.
CORPORA = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=8)


def clusters_of(sizes: list[list[int]]) -> SpeakerClusters:
    flat = [size for of in sizes for size in of]
    return SpeakerClusters(
        [f"s{number}" for number in range(len(sizes))],
        np.cumsum([0, *map(len, sizes)]),
        np.cumsum([0, *flat]),
        {},
        [],
    )


def parts_of(sizes: list[list[int]]) -> ClusterParts:
    found = clusters_of(sizes)
    return ClusterParts(found.cluster_starts[:-1], found.sizes, found.speaker_starts)


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(1, 3), st.integers(2, 3), st.integers(2, 4), st.booleans())
def test_every_utterance_has_a_positive_and_negatives(sizes, speakers, clusters, utterances, own):
    speakers = speakers if own else speakers + 1
    least = 2 if own else 1
    usable = [sum(size >= 2 for size in of) >= least for of in sizes]
    options = {"own_negatives": own, "seed": 7, "num_replicas": 1}
    shape = (speakers, clusters, utterances)
    if sum(usable) < speakers:
        with pytest.raises(ValueError, match=f"found {sum(usable)}"):
            ClusterBatchSampler(parts_of(sizes), *shape, **options)
        return
    corpus = clusters_of(sizes)
    sampler = ClusterBatchSampler(parts_of(sizes), *shape, **options)
    assert sampler.drawn_speakers == sum(usable)
    for batch in sampler:
        assert len(set(batch)) == len(batch)
        speaker, cluster = corpus.of(batch)
        of_cluster = Counter(cluster.tolist())
        of_speaker = {s: set(cluster[speaker == s].tolist()) for s in set(speaker.tolist())}
        assert len(of_speaker) == speakers
        for name, found in of_speaker.items():
            # As many as asked for, or as many as there are.
            there = [size for size in sizes[name] if size >= 2]
            assert len(found) == min(clusters, len(there))
            if own:
                assert len(found) >= 2
        first = np.concatenate([[0], np.cumsum([len(of) for of in sizes])])
        for number, count in of_cluster.items():
            s = int(np.searchsorted(first, number, side="right") - 1)
            assert count == min(utterances, sizes[s][number - first[s]]) >= 2


def test_a_batch_depends_on_seed_epoch_and_number_alone():
    parts = parts_of([[9, 9, 9]] * 6)
    one, same, other = (
        ClusterBatchSampler(parts, 2, 2, 3, seed=seed, num_replicas=1) for seed in (4, 4, 5)
    )
    one.set_epoch(3)
    batches = list(one)
    assert [same.draw(3, number) for number in reversed(range(len(same)))][::-1] == batches
    assert [other.draw(3, number) for number in range(len(other))] != batches
    one.set_epoch(4)
    assert list(one) != batches
    # Not the sum of seed and epoch.
    assert other.draw(2, 0) != same.draw(3, 0)


def test_an_epoch_draws_as_much_as_there_is_and_speakers_by_their_size():
    sizes = [[30, 30], [60, 60], [90, 90], [1, 50]]
    sampler = ClusterBatchSampler(parts_of(sizes), 1, 2, 2, seed=1, num_replicas=1)
    assert (sampler.drawn_speakers, sampler.drawn_utterances) == (3, 360)
    assert len(sampler) * 4 == 360
    corpus, drawn = clusters_of(sizes), Counter()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        for batch in sampler:
            drawn[int(corpus.of(batch)[0][0])] += 1
    shares = np.array([drawn[s] for s in range(4)]) / sum(drawn.values())
    assert np.abs(shares - np.array([1, 2, 3, 0]) / 6).max() < 0.02


def test_processes_share_an_even_number_of_batches():
    parts = parts_of([[8, 8]] * 4)
    for replicas in (1, 2, 3):
        sampler = ClusterBatchSampler(parts, 2, 2, 4, num_replicas=replicas)
        assert len(sampler) % replicas == 0 and len(list(sampler)) == len(sampler)
    assert len(ClusterBatchSampler(parts, 2, 2, 4, batches=5, num_replicas=2)) == 10


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.floats(0.01, 0.9))
def test_validation_is_held_out_of_each_cluster(sizes, share):
    corpus = clusters_of(sizes)
    splits = split_clusters(corpus, share, seed=1)
    train, valid = splits["train"], splits["valid"]
    assert ((valid.sizes == 0) | ((valid.sizes >= 2) & (train.sizes >= 2))).all()
    assert np.array_equal(train.sizes + valid.sizes, corpus.sizes)
    assert np.array_equal(valid.first, corpus.cluster_starts[:-1])
    assert np.array_equal(train.first, valid.first + valid.sizes)
    whole = np.floor(corpus.sizes * share).astype(int)
    large = (whole >= 2) & (corpus.sizes - whole >= 2)
    assert np.array_equal(valid.sizes[large], whole[large])
    assert (valid.sizes[~large] <= 2).all()


def test_of_small_clusters_the_share_is_kept_in_the_mean():
    corpus = clusters_of([[10, 6]] * 2000)
    valid = split_clusters(corpus, 0.1, seed=1)["valid"]
    assert valid.sizes.sum() / len(corpus) == pytest.approx(0.1, rel=0.05)
    # Of a speaker drawn the larger clusters first, so that there are two to tell apart.
    of_speaker = valid.sizes.reshape(-1, 2)
    assert set(map(tuple, of_speaker.tolist())) == {(0, 0), (2, 0), (2, 2)}


def test_drawing_does_not_become_slower_with_the_corpus():
    """A hundred times as many utterances in as many clusters: a batch costs the same."""
    seconds = []
    for size in (100, 10_000):
        sampler = ClusterBatchSampler(parts_of([[size] * 4] * 500), 8, 2, 2, num_replicas=1)
        sampler.draw(0, 0)
        started = time.process_time()
        for number in range(200):
            sampler.draw(1, number)
        seconds.append(time.process_time() - started)
    # A pass would take a hundred times as long.
    assert seconds[1] < 10 * seconds[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speakers": 0}, "speakers: expected 1 or more, found 0"),
        ({"clusters": 1}, "clusters: expected 2 or more, found 1"),
        ({"utterances": 1}, "utterances: expected 2 or more, found 1"),
        ({"batches": 0}, "batches: expected 1 or more, found 0"),
        ({"speakers": 1, "own_negatives": False}, "speakers: expected 2 or more, found 1"),
        ({"speakers": 3}, "expected 3 speakers or more with 2 clusters of 2 utterances, found 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        ClusterBatchSampler(parts_of([[4, 4], [4, 4], [9]]), **options)
