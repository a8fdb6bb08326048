"""Whether probabilities mean what they say, and the one number that makes them.

Class scores become probabilities by ``softmax(scale * scores)``. Training chooses the scale
for its loss; `fit_temperature` chooses it anew for the likelihood of held-out utterances,
which changes no answer, only how sure it is. Source: Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017, arXiv 1706.04599; their temperature is 1 / scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gemoclap_sb.evaluation.predictions import Predictions

BINS = 15
LOGIT_RANGES = (0.01, 50.0)
"""A scale is looked for that brings the widest range of an utterance's scores to between these.

Beyond, all classes are equally likely, or one is certain. A held-out set without an error has
no best scale, and gets the last one.
"""


class ReliabilityBins(NamedTuple):
    """Utterances by confidence, in M bins of equal width: each [M], NaN where a bin is empty."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def class_probabilities(scores: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Probabilities [N, C] of class scores [N, C], float64.

    Examples
    --------
    >>> class_probabilities(np.array([[0.0, 0.0], [0.0, 200.0]]), 5.0).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    from scipy.special import softmax

    return softmax(scale * np.asarray(scores, np.float64), axis=1)


def rescaled(probabilities: np.ndarray, factor: float) -> np.ndarray:
    """Give the probabilities [N, C] that a scale ``factor`` times as large would have given."""
    with np.errstate(divide="ignore"):
        return class_probabilities(np.log(probabilities), factor)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> ReliabilityBins:
    """Sort answers by confidence into bins ``((m - 1) / M, m / M]``; both arguments are [N].

    Examples
    --------
    >>> reliability(np.array([0.6, 0.7, 0.9]), np.array([True, False, True]), 2)
    ReliabilityBins(counts=array([0, 3]), confidence=array([ nan, 0.73333333]), \
accuracy=array([ nan, 0.66666667]))
    """
    # In one order, whatever the batches were: sums of floats depend on it.
    order = np.lexsort((correct, confidence))
    confidence = np.asarray(confidence, np.float64)[order]
    correct = np.asarray(correct, np.float64)[order]
    edges = np.arange(1, bins) / bins
    index = np.digitize(confidence, edges, right=True)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, of, bins) / counts for of in (confidence, correct)]
    return ReliabilityBins(counts, *means)


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> float:
    """Say by how much confidence and accuracy differ, bin by bin (ECE).

    The mean over M equal-width bins of ``|accuracy - confidence|``, weighted by the bins'
    utterances (Guo et al., equation 3).

    Parameters
    ----------
    confidence : numpy.ndarray
        Probability of the answer, [N].
    correct : numpy.ndarray
        Whether it was right, [N].
    bins : int
        M.

    Examples
    --------
    >>> round(expected_calibration_error([0.9, 0.9], [True, False]), 6)
    0.4
    """
    found = reliability(confidence, correct, bins)
    gaps = np.abs(found.accuracy - found.confidence)
    return float(np.nansum(found.counts * gaps) / found.counts.sum())


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean of ``-log`` of the true classes' probabilities, in nats.

    ``probabilities`` are [N, C], ``targets`` class indices [N]. A probability of 0 counts as
    the smallest normal float, so that the figure is finite.

    Examples
    --------
    >>> round(negative_log_likelihood(np.array([[0.5, 0.5]]), np.array([1])), 4)
    0.6931
    """
    of_truth = np.asarray(probabilities)[np.arange(len(targets)), targets]
    # fsum, because a plain sum depends on the utterances' order.
    return math.fsum(-np.log(np.maximum(of_truth, np.finfo(float).tiny))) / len(targets)


def fit_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """Find the scale of class scores under which held-out utterances are most likely.

    Parameters
    ----------
    scores : numpy.ndarray
        Cosines or logits [N, C].
    targets : numpy.ndarray
        True class indices [N].

    Returns
    -------
    float
        The factor on the scores that minimises the negative log-likelihood, 1 over Guo's
        temperature; see `LOGIT_RANGES` for its bounds. 1 if no score differs from another.

    Raises
    ------
    ValueError
        If there is no utterance, or a score is NaN or infinite.

    Examples
    --------
    >>> scores = np.array([[0.5, 0.0]] * 4)
    >>> round(fit_temperature(scores, np.array([0, 0, 0, 1])), 4)  # log(3) / 0.5
    2.1972
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if not (len(scores) and np.isfinite(scores).all()):
        raise ValueError(
            "expected class scores of at least one utterance, all finite, found "
            f"{len(scores)} utterances, of which "
            f"{int((~np.isfinite(scores)).any(axis=-1).sum())} have NaN or infinite scores"
        )
    # As in `reliability`.
    rows = np.lexsort((*scores.T, targets))
    scores, targets = scores[rows], targets[rows]

    if not (widest := np.ptp(scores, axis=1).max()):
        return 1.0

    def loss(log_scale: float) -> float:
        log_probabilities = log_softmax(math.exp(log_scale) * scores, axis=1)
        return -log_probabilities[np.arange(len(targets)), targets].mean()

    bounds = [math.log(of / widest) for of in LOGIT_RANGES]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x)


def calibration_figures(predictions: Predictions) -> dict[str, float]:
    """Give ``ece`` and ``nll`` of a test set, as ``metrics.json`` names them."""
    return {
        "ece": expected_calibration_error(predictions.confidence, predictions.correct),
        "nll": negative_log_likelihood(predictions.probabilities, predictions.true),
    }
