"""WAR, UAR, recalls and confusion against hand computation and scikit-learn's own oracle."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from gemoclap_sb.evaluation.metrics import ClassificationMetrics, classification_metrics, pooled

LABELS = ["ang", "hap", "neu", "sad"]

# ang: 3 of 4 right; hap: 1 of 2; neu: 2 of 3; sad: 0 of 1. 6 of 10 right in all.
TARGETS = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
PREDICTIONS = [0, 0, 0, 1, 1, 2, 2, 2, 3, 0]


def test_hand_computed_case():
    metrics = classification_metrics(TARGETS, PREDICTIONS, LABELS)
    assert metrics.war == pytest.approx(6 / 10)
    assert metrics.uar == pytest.approx((3 / 4 + 1 / 2 + 2 / 3 + 0) / 4)
    assert metrics.per_class_recall == pytest.approx(
        {"ang": 3 / 4, "hap": 1 / 2, "neu": 2 / 3, "sad": 0.0}
    )
    assert metrics.confusion == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 2, 1], [1, 0, 0, 0]]
    assert metrics.labels == LABELS
    assert metrics.n_test == 10


def test_war_and_uar_are_not_swapped():
    # 9 of 10 utterances of the frequent class right, the only rare one wrong.
    metrics = classification_metrics([0] * 10 + [1], [0] * 9 + [1, 0], ["often", "rare"])
    assert metrics.war == pytest.approx(9 / 11)
    assert metrics.uar == pytest.approx(0.45)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60),
)
def test_agrees_with_balanced_accuracy_and_counting(pairs):
    targets, predictions = (list(side) for side in zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = classification_metrics(targets, predictions, LABELS)
        expected = balanced_accuracy_score(targets, predictions)
    assert metrics.uar == pytest.approx(expected)
    assert metrics.war == pytest.approx(np.mean(np.array(targets) == predictions))
    for i, row in enumerate(metrics.confusion):
        assert row == [pairs.count((i, j)) for j in range(4)]


def test_class_without_test_utterance():
    with pytest.warns(UserWarning, match="no test utterance of class neu, sad") as caught:
        metrics = classification_metrics([0, 0, 1], [0, 2, 1], LABELS)
    assert len(caught) == 1
    assert metrics.per_class_recall == {"ang": 0.5, "hap": 1.0, "neu": None, "sad": None}
    assert metrics.uar == pytest.approx(0.75)
    assert json.loads(json.dumps(metrics.to_dict()))["per_class_recall"]["neu"] is None


def test_to_dict_order_and_round_trip():
    metrics = classification_metrics(np.array(TARGETS), np.array(PREDICTIONS), tuple(LABELS))
    values = metrics.to_dict()
    assert list(values) == ["war", "uar", "per_class_recall", "confusion", "labels", "n_test"]
    text = json.dumps(values | {"fold": 2, "seed": 1, "hparams_file": "x.yaml"})
    assert ClassificationMetrics.from_dict(json.loads(text)) == metrics


def test_pooled_equals_one_big_test_set():
    first = classification_metrics(TARGETS, PREDICTIONS, LABELS)
    second = classification_metrics([3, 3, 2, 1, 0], [3, 0, 2, 1, 1], LABELS)
    together = classification_metrics(
        TARGETS + [3, 3, 2, 1, 0], PREDICTIONS + [3, 0, 2, 1, 1], LABELS
    )
    assert pooled([first, second]) == together
    # Hand count: 6 + 3 right of 15; recalls 3/5, 2/3, 3/4, 1/3.
    assert together.war == pytest.approx(9 / 15)
    assert together.uar == pytest.approx((3 / 5 + 2 / 3 + 3 / 4 + 1 / 3) / 4)


def test_pooled_fills_a_class_that_one_fold_lacks():
    with pytest.warns(UserWarning):
        first = classification_metrics([0, 0], [0, 1], ["ang", "sad"])
    with pytest.warns(UserWarning):
        second = classification_metrics([1], [1], ["ang", "sad"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = pooled([first, second])
    assert both.per_class_recall == {"ang": 0.5, "sad": 1.0}


@pytest.mark.parametrize(
    ("targets", "predictions", "labels", "message"),
    [
        ([], [], LABELS, "test set is empty"),
        ([0, 1], [0], LABELS, "2 targets and 1 predictions"),
        ([0, 4], [0, 1], LABELS, "targets must be class indices from 0 to 3.*found 4"),
        ([0, 1], [0, -1], LABELS, "predictions must be class indices.*found -1"),
        ([0.5], [0], LABELS, "flat sequence of class indices"),
        ([[0]], [[0]], LABELS, "flat sequence of class indices"),
        ([0], [0], [], "at least one class name"),
        ([0], [0], ["ang", "ang"], "none repeated"),
    ],
)
def test_wrong_input_is_named(targets, predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(targets, predictions, labels)


def test_pooled_and_from_dict_refuse_what_does_not_fit():
    one = classification_metrics([0, 1], [0, 1], ["ang", "sad"])
    other = classification_metrics([0, 1], [0, 1], ["sad", "ang"])
    with pytest.raises(ValueError, match="at least one fold"):
        pooled([])
    with pytest.raises(ValueError, match="different labels"):
        pooled([one, other])
    with pytest.raises(ValueError, match="missing: confusion"):
        ClassificationMetrics.from_dict({"labels": ["ang"]})
    for confusion in ([[1, 2]], [[1, -2], [0, 1]], [[0.5, 0], [0, 1]]):
        with pytest.raises(ValueError, match="2 x 2 counts"):
            ClassificationMetrics.from_dict({"labels": ["ang", "sad"], "confusion": confusion})
