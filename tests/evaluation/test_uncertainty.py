"""Intervals against the bootstrap written out, SciPy's, and cases where they are known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.uncertainty import (
    RESAMPLES,
    SEED,
    confidence_intervals,
    uar_by_gender,
    uar_speaker_centered,
    uncertainty,
)
from tests.evaluation.test_predictions import LABELS, some_predictions

SPEAKERS = np.repeat(["ann", "bob", "eve", "joe", "sue"], 20)


def of(true, predicted, labels=LABELS):
    true, predicted = np.asarray(true), np.asarray(predicted)
    eye = np.eye(len(labels))[predicted]
    return Predictions([f"u{i}" for i in range(len(true))], true, predicted, eye, labels)


def test_agrees_with_the_bootstrap_written_out():
    """Utterances put together speaker by speaker, and scored by scikit-learn."""
    found = some_predictions(100)
    names = sorted(set(SPEAKERS))
    war, uar, recalls = [], [], []
    for draw in np.random.default_rng(3).integers(5, size=(60, 5)):
        rows = np.concatenate([np.flatnonzero(names[i] == SPEAKERS) for i in draw])
        true, predicted = found.true[rows], found.predicted[rows]
        war.append(accuracy_score(true, predicted))
        uar.append(balanced_accuracy_score(true, predicted))
        recalls.append(recall_score(true, predicted, average=None))
    intervals = confidence_intervals(found, SPEAKERS, resamples=60, level=0.8, seed=3)
    assert intervals["war"] == pytest.approx(np.percentile(war, [10, 90]))
    assert intervals["uar"] == pytest.approx(np.percentile(uar, [10, 90]))
    expected = np.percentile(recalls, [10, 90], axis=0).T
    for i, label in enumerate(LABELS):
        assert intervals["per_class_recall"][label] == pytest.approx(expected[i])
    assert (intervals["level"], intervals["speakers"]) == (0.8, 5)


def test_agrees_with_scipy():
    found = some_predictions(100)
    correct = np.array([found.correct[s == SPEAKERS].mean() for s in sorted(set(SPEAKERS))])
    # All speak equally often, so that WAR is the mean over speakers.
    expected = scipy.stats.bootstrap(
        (correct,), np.mean, n_resamples=RESAMPLES, method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    assert confidence_intervals(found, SPEAKERS)["war"] == pytest.approx([*expected])


def test_speakers_who_are_all_alike_leave_no_doubt():
    true, predicted = [0, 0, 0, 1, 1, 2] * 4, [0, 0, 1, 1, 0, 2] * 4
    intervals = confidence_intervals(of(true, predicted), np.repeat(list("abcd"), 6))
    assert intervals["war"] == pytest.approx([4 / 6] * 2)
    assert intervals["uar"] == pytest.approx([(2 / 3 + 1 / 2 + 1) / 3] * 2)
    # Taken for speakers, the same utterances would tell of doubt.
    low, high = confidence_intervals(of(true, predicted), list(map(str, range(24))))["war"]
    assert low < 0.6 < 0.75 < high


def test_of_two_speakers_one_always_right():
    true = [0, 1, 2] * 2
    intervals = confidence_intervals(of(true, [0, 1, 2, 1, 2, 0]), list("aaabbb"))
    assert intervals["war"] == intervals["uar"] == [0.0, 1.0]


def test_class_that_a_draw_may_lack():
    """`sad` is said by one speaker alone, `hap` by nobody."""
    intervals = confidence_intervals(of([0, 0, 2, 0], [0, 1, 2, 1]), ["a", "a", "a", "b"])
    assert intervals["per_class_recall"] == {"ang": [0.0, 0.5], "hap": None, "sad": [1.0, 1.0]}
    # Drawn alone: a gives (1/2 + 1) / 2, b gives 0.
    assert intervals["uar"] == [0.0, 0.75]


@pytest.mark.parametrize("speakers", [["a"] * 4, ["a", "a", "b", ""]])
def test_too_few_speakers(speakers):
    assert confidence_intervals(of([0, 1, 2, 2], [0, 1, 2, 2]), speakers) is None


def test_same_seed_same_intervals():
    found = some_predictions(100)
    assert confidence_intervals(found, SPEAKERS) == confidence_intervals(found, SPEAKERS)
    assert confidence_intervals(found, SPEAKERS) != confidence_intervals(found, SPEAKERS, seed=1)


def test_gap_is_over_the_classes_that_both_have():
    true = [0, 0, 1, 1, 2, 0, 1, 1]
    predicted = [0, 1, 1, 1, 0, 0, 1, 0]
    genders = ["F", "F", "F", "F", "F", "M", "M", "M"]
    found = uar_by_gender(of(true, predicted), genders)
    # Women's recall of sad, 0, has nothing to be compared with.
    assert found["F"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["M"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["gap"] == pytest.approx(0.0)
    assert found["classes"] == ["ang", "hap"]


@pytest.mark.parametrize("genders", [["F"] * 3, ["", "x", "F"], ["F", "M", "M"]])
def test_without_both_there_is_no_gap(genders):
    assert uar_by_gender(of([0, 1, 1], [0, 1, 1]), genders) is None


def test_columns_are_found_by_id():
    found = of([0, 1, 0, 1], [0, 1, 1, 0])
    rows = {
        "u3": {"spk_id": "bob", "gender": "M"}, "u0": {"spk_id": "ann", "gender": "F"},
        "u1": {"spk_id": "ann", "gender": "F"}, "u2": {"spk_id": "bob", "gender": "M"},
        "u9": {"spk_id": "joe", "gender": "M"},
    }  # fmt: skip
    record = uncertainty(found, rows)
    assert record["confidence_intervals"]["speakers"] == 2
    assert record["uar_by_gender"]["gap"] == 1.0
    bare = {name: {"wav": "a.wav", "spk_id": None} for name in rows}
    assert set(uncertainty(found, bare).values()) == {None}


def test_speaker_centered_agrees_with_pandas():
    found = some_predictions(100)
    scores = pd.DataFrame(np.log(found.probabilities))
    centered = scores - scores.groupby(SPEAKERS).transform("mean") + scores.mean()
    expected = balanced_accuracy_score(found.true, centered.to_numpy().argmax(axis=1))
    assert uar_speaker_centered(found, SPEAKERS) == pytest.approx(expected)
    assert expected != pytest.approx(found.metrics().uar)


def test_what_a_speaker_adds_to_all_scores_is_taken_away():
    """A class that is certain for one, and impossible for another, is no trouble."""
    found = some_predictions(90)
    speakers = np.repeat(["ann", "bob"], 45)
    offsets = np.where(speakers == "ann", 3.0, -3.0)[:, None] * np.array([1.0, -1.0, 0.5])
    shifted = np.exp(np.log(found.probabilities) + offsets)
    shifted /= shifted.sum(axis=1, keepdims=True)
    other = dataclasses.replace(found, probabilities=shifted, predicted=shifted.argmax(axis=1))
    assert other.metrics().uar < found.metrics().uar
    same = uar_speaker_centered(found, speakers)
    assert uar_speaker_centered(other, speakers) == pytest.approx(same)
    certain = dataclasses.replace(found, probabilities=np.eye(3)[found.true])
    assert uar_speaker_centered(certain, speakers) == 1.0


def test_what_is_added_to_the_scores_of_all_stays():
    found = some_predictions(90)
    shifted = found.probabilities * [8.0, 1.0, 1.0]
    shifted /= shifted.sum(axis=1, keepdims=True)
    other = dataclasses.replace(found, probabilities=shifted, predicted=shifted.argmax(axis=1))
    assert uar_speaker_centered(other, ["ann"] * 90) == other.metrics().uar < found.metrics().uar


@pytest.mark.parametrize("speakers", [["ann"] * 16 + ["bob"] * 14, ["ann"] * 15 + [""] * 15])
def test_speakers_who_say_too_little_are_not_centered(speakers):
    assert uar_speaker_centered(some_predictions(30), speakers) is None
