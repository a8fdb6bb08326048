"""Agreement of clusters with labels, against scikit-learn and against counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from gemoclap_sb.evaluation.cluster_agreement import (
    MEASURES,
    adjusted_rand_index,
    cluster_agreement,
    normalised_mutual_information,
    purity,
)

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40)


@settings(max_examples=60)
@given(PAIRS)
def test_measures_are_those_of_scikit_learn(pairs):
    clusters, labels = zip(*pairs, strict=True)
    table = contingency_matrix(clusters, labels)
    # Empty rows and columns, as a stack of tables may have, change nothing.
    padded = np.pad(table, ((0, 2), (1, 0)))
    for counts in (table, padded):
        nmi = normalised_mutual_information(counts)
        assert nmi == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)
        ari = adjusted_rand_index(counts)
        assert ari == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
        assert purity(counts) == table.max(axis=1).sum() / len(pairs)


def test_measures_of_a_stack_are_those_of_each():
    tables = np.random.default_rng(0).integers(0, 5, (3, 4, 5, 6))
    for measure in MEASURES.values():
        found = measure(tables)
        assert found.shape == (3, 4)
        for place in np.ndindex(3, 4):
            assert found[place] == pytest.approx(measure(tables[place]))


def test_measures_by_hand():
    """Six utterances: a cluster of three angry, and one of an angry and two sad."""
    counts = np.array([[3, 0], [1, 2]])
    assert purity(counts) == pytest.approx(5 / 6)
    # 3 + 1 of 15 pairs are together in both, 3 + 3 in clusters, 6 + 1 in labels.
    expected = 6 * 7 / 15
    assert adjusted_rand_index(counts) == pytest.approx((4 - expected) / (6.5 - expected))
    of_clusters = np.log(2)
    of_labels = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    shared = 1 / 2 * np.log(3 / 2) + 1 / 6 * np.log(1 / 2) + 1 / 3 * np.log(2)
    found = normalised_mutual_information(counts)
    assert found == pytest.approx(shared / ((of_clusters + of_labels) / 2))


def exactly(clusters: str, labels: str) -> dict[str, np.ndarray]:
    """Each measure of all ways to shuffle."""
    # All of them come equally often.
    ways = sorted(set(itertools.permutations(labels)))
    return {
        "nmi": np.array([normalized_mutual_info_score(way, list(clusters)) for way in ways]),
        "ari": np.array([adjusted_rand_score(way, list(clusters)) for way in ways]),
    }


def test_shuffled_are_as_all_ways_to_shuffle():
    clusters, labels = "001122", "aaabbc"
    found = cluster_agreement(["s"] * 6, list(map(int, clusters)), list(labels), shuffles=20_000)
    for name, of_all in exactly(clusters, labels).items():
        measure = found.measures[name]
        assert measure.shuffled[0] == pytest.approx(of_all.mean(), abs=0.01)
        low, high = np.quantile(of_all, [0.025, 0.975])
        assert (measure.shuffled_low[0], measure.shuffled_high[0]) == pytest.approx((low, high))
        as_high = (of_all >= measure.values[0] - 1e-9).mean()
        assert measure.p[0] == pytest.approx(as_high, abs=0.01)


def test_clusters_that_are_the_labels():
    labels = list("aaabbbccc") * 4
    clusters = [7 - "abc".index(label) for label in labels]
    found = cluster_agreement(["ann"] * 18 + ["bob"] * 18, clusters, labels, shuffles=99)
    for measure in found.measures.values():
        assert measure.values == pytest.approx([1, 1])
        assert measure.p.tolist() == [0.01, 0.01]
        assert (measure.mean, measure.interval, measure.mean_p) == (
            pytest.approx(1),
            pytest.approx((1, 1)),
            0.01,
        )
        assert measure.mean_shuffled_high < 0.7
    assert found.utterances.tolist() == [18, 18]
    assert found.sizes.tolist() == [[3, 3], [3, 3]]


@pytest.fixture(scope="module")
def unrelated():
    """300 speakers of 20 to 60 utterances, whose labels know nothing of the clusters."""
    generator = np.random.default_rng(5)
    speakers = np.repeat([f"s{i}" for i in range(300)], generator.integers(20, 60, 300))
    labels = generator.choice(["ang", "hap", "neu"], len(speakers), p=[0.2, 0.3, 0.5])
    return speakers, generator.integers(4, size=len(speakers)), labels


def test_labels_that_know_nothing_are_as_the_shuffled(unrelated):
    found = cluster_agreement(*unrelated, shuffles=199)
    for name in ("nmi", "ari"):
        measure = found.measures[name]
        # Uniform, but for ties: a mean of 300 has a deviation of 0.017.
        assert 0.44 < measure.p.mean() < 0.6
        assert 0.01 < (measure.p <= 0.05).mean() < 0.1
        assert measure.mean_p > 0.05
        outside = (measure.values < measure.shuffled_low) | (measure.values > measure.shuffled_high)
        assert outside.mean() < 0.1
    purity = found.measures["purity"]
    # Of many equal values, p is the larger.
    assert (purity.p <= 0.05).mean() < 0.07
    assert purity.mean_p > 0.05


def test_the_mean_and_its_intervals(unrelated):
    found = cluster_agreement(*unrelated, shuffles=199)
    for measure in found.measures.values():
        ends = stats.ttest_1samp(measure.values, 0).confidence_interval(0.95)
        assert measure.mean == pytest.approx(measure.values.mean())
        assert measure.interval == pytest.approx(tuple(ends))
        assert measure.mean_shuffled == pytest.approx(measure.shuffled.mean())
        # All shuffled at the same time: their mean varies as the root of their number.
        width = (measure.shuffled_high - measure.shuffled_low).mean() / np.sqrt(300)
        found_width = measure.mean_shuffled_high - measure.mean_shuffled_low
        assert found_width == pytest.approx(width, rel=0.3)
        assert measure.mean_shuffled_low < measure.mean_shuffled < measure.mean_shuffled_high


def test_a_speaker_is_shuffled_alike_whoever_is_there(unrelated):
    speakers, clusters, labels = unrelated
    whole = cluster_agreement(*unrelated, shuffles=50)
    order = np.random.default_rng(0).permutation(len(speakers))
    order = order[np.isin(speakers[order], ["s3", "s77"])]
    part = cluster_agreement(speakers[order], clusters[order], labels[order], shuffles=50)
    places = [whole.speakers.index(name) for name in part.speakers]
    other = cluster_agreement(speakers[order], clusters[order], labels[order], 50, seed=2)
    for name, measure in part.measures.items():
        for of in ("values", "shuffled", "shuffled_low", "shuffled_high", "p"):
            same = getattr(whole.measures[name], of)[places]
            assert getattr(measure, of).tolist() == same.tolist()
        assert other.measures[name].values.tolist() == measure.values.tolist()
        assert other.measures[name].shuffled.tolist() != measure.shuffled.tolist()


def test_speakers_of_the_same_counts_are_shuffled_each_by_itself():
    clusters, labels = [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2, list("abcabcabc") * 2
    found = cluster_agreement(["ann"] * 9 + ["bob"] * 9, clusters, labels)
    one, other = found.measures["nmi"].shuffled
    assert one != other
    assert one == pytest.approx(other, abs=0.05)


def test_who_says_nothing_is_left_out():
    speakers = ["one label"] * 3 + ["one cluster"] * 3 + ["no label"] * 2 + ["both"] * 5
    clusters = [0, 1, 1, 4, 4, 4, 0, 1, 0, 0, 1, 1, 2]
    labels = ["a", "a", "", "a", "b", "b", "", "", "a", "a", "b", "b", ""]
    found = cluster_agreement(speakers, clusters, labels, shuffles=9)
    assert found.left_out == {name: name for name in ("one label", "one cluster", "no label")}
    assert (found.speakers, found.unlabelled) == (("both",), 4)
    # Neither the utterance without a label nor its cluster counts.
    assert found.tables[0].counts.tolist() == [[2, 0], [0, 2]]
    assert found.tables[0].labels == ("a", "b")
    assert found.measures["nmi"].mean == pytest.approx(1)
    assert found.measures["nmi"].interval is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "found 2, 2 and 1"),
        ({"shuffles": 0}, "shuffles: expected 1 or more, found 0"),
        ({"labels": ["a", "a"]}, "at least two labels and two clusters, found none among 1"),
        ({"speakers": [], "clusters": [], "labels": []}, "found none among 0"),
    ],
)
def test_what_cannot_be_compared(change, message):
    given = {"speakers": ["s", "s"], "clusters": [0, 1], "labels": ["a", "b"]} | change
    with pytest.raises(ValueError, match=message):
        cluster_agreement(**given)
