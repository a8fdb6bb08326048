"""All that a run says of its test set beside WAR and UAR: probabilities, and how sure it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gemoclap_sb.evaluation.calibration import (
    calibration_figures,
    class_probabilities,
    fit_temperature,
    rescaled,
)
from gemoclap_sb.evaluation.predictions import Predictions, pooled_predictions
from gemoclap_sb.evaluation.uncertainty import Rows, uncertainty


class ScoredSet(NamedTuple):
    """N utterances: their IDs, scores of C classes [N, C] and true classes [N]."""

    ids: list[str]
    scores: np.ndarray
    expected: np.ndarray


def assess(
    valid: ScoredSet, test: ScoredSet, own_scale: float, labels: Sequence[str], rows: Rows
) -> tuple[Predictions, dict[str, Any]]:
    """Fit the temperature on validation, and say how sure the test's figures are.

    Parameters
    ----------
    valid, test : ScoredSet
        Of one model.
    own_scale : float
        The factor on the scores by which the model itself makes probabilities.
    labels : Sequence[str]
        The C classes.
    rows : Mapping[str, Mapping]
        The test manifest's columns by ID.

    Returns
    -------
    predictions : Predictions
        Of the test, with calibrated probabilities.
    record : dict
        ``confidence_intervals``, ``uar_by_gender``, ``uar_speaker_centered`` and
        ``calibration`` of ``metrics.json``.

    Examples
    --------
    >>> one = ScoredSet(["a", "b"], np.array([[0.5, 0.0], [0.1, 0.0]]), np.array([0, 1]))
    >>> rows = {"a": {"spk_id": "ann", "gender": "F"}, "b": {"spk_id": "bob", "gender": "M"}}
    >>> predictions, record = assess(one, one, 1.0, ["ang", "sad"], rows)
    >>> list(record), list(record["calibration"])
    (['confidence_intervals', 'uar_by_gender', 'uar_speaker_centered', 'calibration'], \
['scale', 'own_scale', 'before', 'after'])
    """
    scale = fit_temperature(valid.scores, valid.expected)
    answers = (test.ids, test.expected, test.scores.argmax(axis=1))
    before, after = (
        Predictions(*answers, class_probabilities(test.scores, factor), labels)
        for factor in (own_scale, scale)
    )
    calibration = {"scale": scale, "own_scale": own_scale, **_figures(before, after)}
    return after, {**uncertainty(after, rows), "calibration": calibration}


def assess_pooled(
    parts: Sequence[Predictions], calibrations: Sequence[Mapping[str, Any]], rows: Rows
) -> tuple[Predictions, dict[str, Any]]:
    """Put the test sets of several models together, each with its own temperature.

    ``calibrations`` are the models' own, as ``metrics.json`` has them; ``rows`` those of all
    test manifests. Returns what `assess` does, with the scales left out.
    """
    after = pooled_predictions(parts)
    before = pooled_predictions([uncalibrated(*of) for of in zip(parts, calibrations, strict=True)])
    return after, {**uncertainty(after, rows), "calibration": _figures(before, after)}


def uncalibrated(predictions: Predictions, calibration: Mapping[str, Any]) -> Predictions:
    """Give the probabilities of the model's own scale, from those of the fitted one."""
    factor = calibration["own_scale"] / calibration["scale"]
    return dataclasses.replace(
        predictions, probabilities=rescaled(predictions.probabilities, factor)
    )


def _figures(before: Predictions, after: Predictions) -> dict[str, Any]:
    return {"before": calibration_figures(before), "after": calibration_figures(after)}
