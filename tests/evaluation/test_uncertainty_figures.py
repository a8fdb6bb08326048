"""Pictures of intervals and of reliability: what they show, and that nothing overlaps."""

import dataclasses

import numpy as np
import pytest

import gemoclap_sb.evaluation.uncertainty_figures as module
from gemoclap_sb.evaluation.calibration import class_probabilities, reliability
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.uncertainty import confidence_intervals
from tests.evaluation.drawn import LONG_WORDS, Drawings


@pytest.fixture
def drawings(monkeypatch):
    return Drawings(monkeypatch, module)


@pytest.fixture(params=[2, 12])
def predictions(request):
    labels = list(LONG_WORDS)[: request.param]
    generator = np.random.default_rng(0)
    true = np.arange(240) % len(labels)
    scores = generator.normal(0, 0.3, (240, len(labels)))
    scores[np.arange(240), true] += 0.4
    probabilities = class_probabilities(scores, 5.0)
    return Predictions(list(map(str, range(240))), true, scores.argmax(1), probabilities, labels)


def test_recall_shows_points_and_intervals(drawings, predictions):
    intervals = confidence_intervals(predictions, [f"s{i % 7}" for i in range(240)])
    metrics = predictions.metrics()
    module.draw_recall(metrics, intervals, "recall.png")
    [axes] = drawings.figure.axes
    points = {
        float(line.get_ydata()[0]): float(line.get_xdata()[0])
        for line in axes.lines
        if line.get_marker() in ("o", "D")
    }
    expected = [*metrics.per_class_recall.values(), metrics.uar]
    assert [points[i] for i in range(len(expected))] == pytest.approx(100 * np.array(expected))
    bars = [c.get_segments()[0] for c in axes.collections if len(c.get_segments()) == 1]
    ends = [*intervals["per_class_recall"].values(), intervals["uar"]]
    np.testing.assert_allclose([bar[:, 0] for bar in bars], 100 * np.array(ends))
    assert any("over 7 speakers" in name for name in drawings.texts())
    assert drawings.overlapping() == drawings.outside() == []


def test_recall_without_intervals_and_of_an_absent_class(drawings):
    with pytest.warns(UserWarning, match="no test utterance"):
        metrics = classification_metrics([0, 0], [0, 1], ["ang", "sad"])
    module.draw_recall(metrics, None, "recall.png")
    assert any(name.startswith("no utterance") for name in drawings.texts())
    assert not any("speakers" in name for name in drawings.texts())
    assert drawings.overlapping() == []


def test_reliability_shows_both(drawings, predictions):
    sharper = class_probabilities(np.log(predictions.probabilities), 3.0)
    after = dataclasses.replace(predictions, probabilities=sharper)
    module.draw_reliability(predictions, after, "reliability.png", "long_experiment_name, fold 3")
    diagrams, histograms = drawings.figure.axes[:2], drawings.figure.axes[2:]
    for of, diagram, histogram in zip((predictions, after), diagrams, histograms, strict=True):
        bins = reliability(of.confidence, of.correct)
        heights = [patch.get_height() for patch in diagram.patches]
        np.testing.assert_allclose(heights, bins.accuracy)
        shares = [patch.get_height() for patch in histogram.patches]
        np.testing.assert_allclose(shares, bins.counts / 240)
    assert drawings.overlapping() == drawings.outside() == []
