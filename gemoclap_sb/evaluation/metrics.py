"""WAR, UAR, per-class recall and confusion matrix of one evaluation.

Emotion corpora are unbalanced, so two figures are always reported (Schuller et al.,
"The INTERSPEECH 2009 Emotion Challenge"):

- WAR, the weighted average recall: each class's recall weighted by its share of the
  utterances, which is the accuracy;
- UAR, the unweighted average recall: the plain mean of the per-class recalls, for which
  a rare class counts as much as a frequent one.

scikit-learn does the counting. Everything here is a fraction in [0, 1]; percentages
belong to :mod:`gemoclap_sb.evaluation.report`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

__all__ = ["ClassificationMetrics", "classification_metrics", "pooled"]


@dataclass(frozen=True)
class ClassificationMetrics:
    """What one evaluation found.

    Attributes
    ----------
    war : float
        Weighted average recall, which is the accuracy, in [0, 1].
    uar : float
        Unweighted average recall over the classes that have test utterances, in [0, 1].
    per_class_recall : dict of str to (float or None)
        Recall of each class; None for a class without a test utterance.
    confusion : list of list of int
        Counts [C, C]: row = true class, column = predicted class, in the order of `labels`.
    labels : list of str
        The C class names.
    n_test : int
        Number of utterances evaluated.

    Examples
    --------
    >>> metrics = classification_metrics([0, 0, 1], [0, 1, 1], ["ang", "sad"])
    >>> metrics.per_class_recall
    {'ang': 0.5, 'sad': 1.0}
    """

    war: float
    uar: float
    per_class_recall: dict[str, float | None]
    confusion: list[list[int]]
    labels: list[str]
    n_test: int

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics as plain JSON types, in the order of ``metrics.json``.

        Returns
        -------
        dict
            Keys war, uar, per_class_recall, confusion, labels, n_test.

        Examples
        --------
        >>> list(classification_metrics([0, 1], [0, 1], ["ang", "sad"]).to_dict())
        ['war', 'uar', 'per_class_recall', 'confusion', 'labels', 'n_test']
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassificationMetrics:
        """Rebuild the metrics from the content of a ``metrics.json``.

        Only the labels and the counts are read: every other figure follows from them,
        so an edited file cannot contradict itself.

        Parameters
        ----------
        values : mapping
            At least ``labels`` and ``confusion``; other keys (fold, seed, ...) are ignored.

        Returns
        -------
        ClassificationMetrics

        Raises
        ------
        ValueError
            If a key is missing or the counts are not a [C, C] table of C labels.

        Examples
        --------
        >>> metrics = classification_metrics([0, 1], [0, 1], ["ang", "sad"])
        >>> ClassificationMetrics.from_dict(metrics.to_dict() | {"fold": 1}) == metrics
        True
        """
        missing = [key for key in ("labels", "confusion") if key not in values]
        if missing:
            raise ValueError(
                f"metrics need the keys 'labels' and 'confusion'; missing: {', '.join(missing)} "
                f"(found: {', '.join(values) or 'nothing'})"
            )
        return _from_confusion(values["confusion"], values["labels"])


def classification_metrics(
    targets: Sequence[int], predictions: Sequence[int], labels: Sequence[str]
) -> ClassificationMetrics:
    """Compute WAR, UAR, per-class recall and confusion matrix.

    A class without a test utterance has no recall: it is None, is left out of the UAR
    (as in :func:`sklearn.metrics.balanced_accuracy_score`), and one warning says so.

    Parameters
    ----------
    targets : sequence of int
        True class of each utterance [N], an index into `labels`.
    predictions : sequence of int
        Predicted class of each utterance [N], an index into `labels`.
    labels : sequence of str
        Names of the C classes.

    Returns
    -------
    ClassificationMetrics

    Raises
    ------
    ValueError
        If there is no utterance, the lengths differ, an index is outside ``0..C-1``,
        or the labels are empty or repeated.

    Examples
    --------
    >>> metrics = classification_metrics([0, 0, 0, 1], [0, 0, 1, 1], ["ang", "sad"])
    >>> metrics.war, round(metrics.uar, 4), metrics.confusion
    (0.75, 0.8333, [[2, 1], [0, 1]])
    """
    labels = _checked_labels(labels)
    true = _checked_indices(targets, "targets", labels)
    predicted = _checked_indices(predictions, "predictions", labels)
    if len(true) != len(predicted):
        raise ValueError(
            f"expected one prediction per target, found {len(true)} targets and "
            f"{len(predicted)} predictions"
        )
    if len(true) == 0:
        raise ValueError("no utterance to evaluate: the test set is empty")

    classes = np.arange(len(labels))
    # Recall is undefined, not zero, where a class never occurs; NaN keeps the two apart.
    recalls = recall_score(true, predicted, labels=classes, average=None, zero_division=np.nan)
    present = np.isin(classes, true)
    if not present.all():
        absent = ", ".join(name for name, there in zip(labels, present, strict=True) if not there)
        warnings.warn(
            f"no test utterance of class {absent}: its recall is undefined (null in "
            f"metrics.json) and UAR is the mean over the {int(present.sum())} classes present",
            stacklevel=2,
        )
    return ClassificationMetrics(
        war=float(accuracy_score(true, predicted)),
        uar=float(recalls[present].mean()),
        per_class_recall={
            name: float(recall) if there else None
            for name, recall, there in zip(labels, recalls, present, strict=True)
        },
        confusion=confusion_matrix(true, predicted, labels=classes).tolist(),
        labels=labels,
        n_test=len(true),
    )


def pooled(metrics: Sequence[ClassificationMetrics]) -> ClassificationMetrics:
    """Pool several evaluations by summing their confusion matrices.

    The pooled figures treat all folds' utterances as one test set. They differ from the
    mean over folds when folds differ in size or in class balance.

    Parameters
    ----------
    metrics : sequence of ClassificationMetrics
        One per fold, all with the same labels in the same order.

    Returns
    -------
    ClassificationMetrics

    Raises
    ------
    ValueError
        If the sequence is empty or the labels differ between folds.

    Examples
    --------
    >>> first = classification_metrics([0, 1], [0, 1], ["ang", "sad"])
    >>> second = classification_metrics([0, 1], [1, 1], ["ang", "sad"])
    >>> pooled([first, second]).confusion
    [[1, 1], [0, 2]]
    """
    if not metrics:
        raise ValueError("nothing to pool: expected the metrics of at least one fold")
    labels = metrics[0].labels
    for number, one in enumerate(metrics[1:], start=2):
        if one.labels != labels:
            raise ValueError(
                f"cannot pool folds with different labels: the first has {labels}, number "
                f"{number} has {one.labels}; run all folds with the same classes"
            )
    return _from_confusion(sum(np.asarray(one.confusion) for one in metrics), labels)


def _from_confusion(confusion: Any, labels: Sequence[str]) -> ClassificationMetrics:
    """Compute the metrics of a confusion matrix by replaying its utterances."""
    labels = _checked_labels(labels)
    counts = np.asarray(confusion)
    size = len(labels)
    if counts.shape != (size, size) or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"expected a confusion matrix of {size} x {size} counts for the labels {labels}, "
            f"found {confusion!r}"
        )
    true, predicted = np.indices(counts.shape).reshape(2, -1)
    return classification_metrics(
        np.repeat(true, counts.ravel()), np.repeat(predicted, counts.ravel()), labels
    )


def _checked_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels as a list of distinct names."""
    names = [str(name) for name in labels]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected at least one class name, none repeated; found {names}")
    return names


def _checked_indices(values: Sequence[int], name: str, labels: Sequence[str]) -> np.ndarray:
    """Return class indices [N] as an integer array, or say which value is wrong."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"expected {name} as a flat sequence of class indices, found an array of shape "
            f"{array.shape} and type {array.dtype}"
        )
    outside = array[(array < 0) | (array >= len(labels))]
    if outside.size:
        raise ValueError(
            f"{name} must be class indices from 0 to {len(labels) - 1} (labels {list(labels)}), "
            f"found {int(outside[0])}"
        )
    return array.astype(np.int64)
