"""WAR, UAR, per-class recall and confusion matrix of one evaluation.

Emotion corpora are unbalanced, so two figures are always reported (Schuller et al.,
"The INTERSPEECH 2009 Emotion Challenge"):

- WAR, the weighted average recall: each class's recall weighted by its share of the
  utterances, which is the accuracy;
- UAR, the unweighted average recall: the plain mean of the per-class recalls, for which
  a rare class counts as much as a frequent one.

scikit-learn counts the confusion matrix; the other figures follow from it. Everything
here is a fraction in [0, 1]; percentages belong to `gemoclap_sb.evaluation.report`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


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
        """Give the metrics as plain JSON types, in the order of ``metrics.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassificationMetrics:
        """Rebuild the metrics from the content of a ``metrics.json``.

        Only ``labels`` and ``confusion`` are read: every other figure follows from them, so an
        edited file cannot contradict itself. ValueError if one is missing, or the counts are
        not a [C, C] table of C labels.

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
        return cls.from_confusion(values["confusion"], values["labels"])

    @classmethod
    def from_confusion(cls, confusion: Any, labels: Sequence[str]) -> ClassificationMetrics:
        """Compute the metrics of a confusion matrix [C, C] of counts; ValueError for others.

        A class without a test utterance has no recall: it is None, is left out of the UAR
        (as in :func:`sklearn.metrics.balanced_accuracy_score`), and one warning says so.
        """
        labels = _checked_labels(labels)
        counts = np.asarray(confusion)
        size = len(labels)
        is_square = counts.shape == (size, size) and counts.dtype.kind in "iu"
        if not (is_square and (counts >= 0).all() and counts.any()):
            raise ValueError(
                f"expected a confusion matrix of {size} x {size} counts for the labels {labels}, "
                f"not all of them 0, found {confusion!r}"
            )
        totals, correct = counts.sum(axis=1), counts.diagonal()
        recalls = {
            name: float(right / total) if total else None
            for name, right, total in zip(labels, correct, totals, strict=True)
        }
        present = [recall for recall in recalls.values() if recall is not None]
        if len(present) < size:
            absent = ", ".join(name for name, recall in recalls.items() if recall is None)
            warnings.warn(
                f"no test utterance of class {absent}: its recall is undefined (null in "
                f"metrics.json) and UAR is the mean over the {len(present)} classes present",
                stacklevel=3,
            )
        return cls(
            war=float(correct.sum() / totals.sum()),
            uar=float(np.mean(present)),
            per_class_recall=recalls,
            confusion=counts.tolist(),
            labels=labels,
            n_test=int(totals.sum()),
        )


def classification_metrics(
    targets: Sequence[int], predictions: Sequence[int], labels: Sequence[str]
) -> ClassificationMetrics:
    """Compute WAR, UAR, per-class recall and confusion matrix.

    Parameters
    ----------
    targets, predictions : sequence of int
        True and predicted class of each utterance [N], indices into `labels`.
    labels : sequence of str
        Names of the C classes.

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
    # Here, since it takes longer to import than this room.
    from sklearn.metrics import confusion_matrix

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
    counts = confusion_matrix(true, predicted, labels=range(len(labels)))
    return ClassificationMetrics.from_confusion(counts, labels)


def pooled(metrics: Sequence[ClassificationMetrics]) -> ClassificationMetrics:
    """Pool several evaluations of the same labels by summing their confusion matrices.

    The pooled figures treat all folds' utterances as one test set. They differ from the
    mean over folds when folds differ in size or in class balance.

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
    counts = sum(np.asarray(one.confusion) for one in metrics)
    return ClassificationMetrics.from_confusion(counts, labels)


def _checked_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels as a list of distinct names."""
    names = [str(name) for name in labels]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected at least one class name, none repeated; found {names}")
    return names


def _checked_indices(values: Sequence[int], name: str, labels: Sequence[str]) -> np.ndarray:
    """Return class indices [N] as an integer array, or say which value is wrong."""
    array = np.asarray(values, dtype=np.int64 if len(values) == 0 else None)
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
    return array
