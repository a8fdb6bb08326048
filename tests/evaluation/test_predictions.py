"""The file of predictions: every digit comes back, and what is wrong with one is named."""

import csv
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from gemoclap_sb.evaluation.predictions import (
    Predictions,
    pooled_predictions,
    restricted_predictions,
)

LABELS = ["ang", "hap", "sad"]


def some_predictions(n=20, labels=LABELS, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(len(labels)), n)
    true = generator.integers(len(labels), size=n)
    ids = [f"utterance {i}, take 1" for i in range(n)]
    return Predictions(ids, true, probabilities.argmax(axis=1), probabilities, labels)


def same(found, expected):
    assert list(found.ids) == list(expected.ids)
    assert list(found.labels) == list(expected.labels)
    for name in ("true", "predicted", "probabilities"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_every_digit_comes_back(tmp_path):
    expected = some_predictions(200)
    # Where few digits are left of a number, they must be left here too.
    expected.probabilities[0] = [1 - 1e-12, 1e-12, 3e-300]
    expected.write(tmp_path / "predictions.csv")
    same(Predictions.read(tmp_path / "predictions.csv"), expected)


NAMES = st.text(string.printable.replace("\r", "") + "é„", max_size=8)


@settings(max_examples=30)
@given(
    st.lists(NAMES, min_size=1, max_size=5), st.lists(NAMES, min_size=2, max_size=4, unique=True)
)
def test_names_of_any_kind_come_back(tmp_path_factory, ids, labels):
    path = tmp_path_factory.mktemp("any") / "predictions.csv"
    found = some_predictions(len(ids), labels)
    expected = Predictions(ids, found.true, found.predicted, found.probabilities, labels)
    expected.write(path)
    same(Predictions.read(path), expected)


def test_columns_and_figures_of_the_file(tmp_path):
    """Read by the csv module alone, and counted by scikit-learn."""
    expected = some_predictions(50)
    expected.write(tmp_path / "predictions.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["ID", "true", "predicted", *LABELS]
    true, predicted = ([row[key] for row in rows] for key in ("true", "predicted"))
    metrics = expected.metrics()
    assert metrics.uar == pytest.approx(balanced_accuracy_score(true, predicted))
    assert metrics.confusion == confusion_matrix(true, predicted, labels=LABELS).tolist()
    assert [max(LABELS, key=lambda label: float(row[label])) for row in rows] == predicted


def test_pooling_keeps_the_order():
    parts = [some_predictions(3, seed=1), some_predictions(2, seed=2)]
    whole = pooled_predictions(parts)
    assert list(whole.ids) == [*parts[0].ids, *parts[1].ids]
    np.testing.assert_array_equal(whole.probabilities[3:], parts[1].probabilities)
    np.testing.assert_array_equal(whole.true[:3], parts[0].true)
    with pytest.raises(ValueError, match="different classes"):
        pooled_predictions([parts[0], some_predictions(2, ["ang", "sad"])])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ("", "expected the columns ID,true,predicted .* found nothing"),
        ("ID,true,score\na,ang,1\n", "found ID,true,score"),
        ("ID,true,predicted\na,ang,ang\n", "one for each class"),
        ("ID,true,predicted,ang,ang\n", "one for each class"),
        ("ID,true,predicted,ang,sad\n", "no rows"),
        ("ID,true,predicted,ang,sad\na,ang,sad,1\n", "line 2: expected 5 cells, found 4"),
        ("ID,true,predicted,ang,sad\na,ang,bored,1,0\n", "line 2: .* found 'bored'"),
        ("ID,true,predicted,ang,sad\na,ang,sad,1,x\n", "line 2: expected probabilities"),
        ("ID,true,predicted,ang,sad\na,ang,sad,0.9,0.2\n", "add up to 1, found 0.9,0.2"),
        ("ID,true,predicted,ang,sad\na,ang,sad,-0.5,1.5\n", "add up to 1"),
        ("ID,true,predicted,ang,sad\na,ang,sad,nan,nan\n", "add up to 1"),
        ("ID,true,predicted,ang,sad\n\xe9,ang,sad,0,1\n", "UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        Predictions.read(path)
    assert str(path) in str(caught.value)


def test_restricted_to_classes_that_were_ruled_out_nothing_is_said():
    probabilities = np.array([[0.0, 0.0, 1.0], [0.2, 0.6, 0.2]])
    found = Predictions(
        ["a", "b"], np.array([0, 1]), np.array([2, 1]), probabilities, ["x", "y", "z"]
    )
    fewer = restricted_predictions(found, ["x", "y"])
    np.testing.assert_allclose(fewer.probabilities, [[0.5, 0.5], [0.25, 0.75]])
