"""Calibration against hand computation, scikit-learn's log loss and a search over a grid."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from gemoclap_sb.evaluation.calibration import (
    LOGIT_RANGES,
    calibration_figures,
    class_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    rescaled,
)
from tests.evaluation.test_predictions import some_predictions


def drawn(scale, n=4000, classes=4, seed=0):
    """Scores, and targets drawn from the probabilities that a scale gives them."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(-1, 1, (n, classes))
    chances = softmax(scale * scores, axis=1).cumsum(axis=1)
    return scores, (generator.random((n, 1)) > chances).sum(axis=1)


def test_hand_computed_error():
    # Bins of a fifteenth: 0.62 and 0.66 share (0.6, 0.667], 0.95 and 1.0 are in the last.
    confidence = [0.62, 0.66, 0.95, 1.0, 1.0]
    correct = [True, False, True, True, False]
    gaps = [abs(1 / 2 - 1.28 / 2), abs(2 / 3 - 2.95 / 3)]
    expected = 2 / 5 * gaps[0] + 3 / 5 * gaps[1]
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_edges_belong_to_the_bin_below():
    counts = reliability([0.2, 0.2001, 0.4, 1.0, 0.0], [True] * 5, 5).counts
    assert counts.tolist() == [2, 2, 0, 0, 1]
    # A fifteenth times any number of fifteenths stays in the bin that ends there.
    edges = np.arange(1, 16) / 15
    assert reliability(edges, edges > 0).counts.tolist() == [1] * 15


def test_empty_bins_have_no_figures():
    found = reliability([0.9], [True], 2)
    assert np.isnan([found.confidence[0], found.accuracy[0]]).all()
    assert (found.confidence[1], found.accuracy[1]) == (0.9, 1.0)


def test_perfect_and_worst_calibration():
    assert expected_calibration_error([1.0] * 4, [True] * 4) == 0.0
    assert expected_calibration_error([1.0] * 4, [False] * 4) == 1.0


def test_likelihood_agrees_with_scikit_learn():
    found = some_predictions(100)
    expected = log_loss(found.true, found.probabilities, labels=range(3))
    assert negative_log_likelihood(found.probabilities, found.true) == pytest.approx(expected)


def test_likelihood_of_the_impossible_is_finite():
    assert 700 < negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) < 710


@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_fit_finds_what_a_grid_finds(scale):
    scores, targets = drawn(scale, 300)
    found = fit_temperature(scores, targets)
    grid = np.geomspace(0.01, 100, 201)
    losses = [log_loss(targets, softmax(s * scores, axis=1), labels=range(4)) for s in grid]
    best = int(np.argmin(losses))
    assert grid[max(best - 1, 0)] <= found <= grid[best + 1]
    assert log_loss(targets, softmax(found * scores, axis=1), labels=range(4)) <= min(losses)


def test_fit_finds_the_scale_that_made_the_data():
    scores, targets = drawn(5.0, 40_000)
    assert fit_temperature(scores, targets) == pytest.approx(5.0, rel=0.03)


def test_fit_removes_the_error_of_calibration():
    scores, targets = drawn(8.0)
    of = [class_probabilities(scores, s) for s in (1.0, fit_temperature(scores, targets))]
    errors = [expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == targets) for p in of]
    assert errors[1] < 0.03 < 0.2 < errors[0]


def test_fit_stays_within_its_bounds():
    """In whatever unit the scores are: a set without an error has no best scale."""
    for unit in (1e-4, 1.0, 30.0):
        scores = unit * np.array([[1.0, 0.0], [0.7, 0.8]])
        low, high = (fit_temperature(scores, np.array(of)) for of in ([1, 0], [0, 1]))
        assert [low * unit, high * unit] == pytest.approx(LOGIT_RANGES, rel=1e-4)
    assert fit_temperature(np.ones((3, 2)), np.array([0, 1, 1])) == 1.0


@pytest.mark.parametrize("scores", [np.empty((0, 3)), np.array([[0.0, np.nan, 1.0]])])
def test_fit_refuses_what_has_no_likelihood(scores):
    with pytest.raises(ValueError, match="all finite, found"):
        fit_temperature(scores, np.zeros(len(scores), int))


def test_nothing_depends_on_the_order_of_the_utterances():
    scores, targets = drawn(3.0, 501)
    order = np.random.default_rng(1).permutation(501)
    assert fit_temperature(scores, targets) == fit_temperature(scores[order], targets[order])
    found = some_predictions(501)
    turned = {name: getattr(found, name)[order] for name in ("true", "predicted", "probabilities")}
    assert calibration_figures(dataclasses.replace(found, **turned)) == calibration_figures(found)


def test_probabilities_are_softmax_and_can_be_rescaled():
    scores, _ = drawn(1.0, 50)
    np.testing.assert_allclose(
        class_probabilities(scores.astype(np.float32), 7.0),
        np.exp(log_softmax(7.0 * scores.astype(np.float32).astype(float), axis=1)),
    )
    of_seven = class_probabilities(scores, 7.0)
    np.testing.assert_allclose(rescaled(of_seven, 2 / 7), class_probabilities(scores, 2.0))
    assert rescaled(np.array([[1.0, 0.0]]), 0.5).tolist() == [[1.0, 0.0]]
