"""What a model answered to each utterance, with probabilities: ``predictions.csv``.

    ID,true,predicted,<a column for each class, named by its code>

Probabilities are written with all their digits, so that every figure computed from the file
is the one computed before it was written. Names that a spreadsheet would take for formulas have
a ``'`` before them (see `gemoclap_sb.files.harmless_cell`), which reading takes away.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemoclap_sb.evaluation.metrics import ClassificationMetrics, classification_metrics
from gemoclap_sb.files import atomic_path, harmless_cell, plain_cell

PREDICTIONS = "predictions.csv"
_FIRST_COLUMNS = ["ID", "true", "predicted"]
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers to N utterances about C classes.

    Attributes
    ----------
    ids : Sequence[str]
        The utterances.
    true, predicted : numpy.ndarray
        Class indices [N]; `predicted` is that of the highest class score.
    probabilities : numpy.ndarray
        float64 [N, C]; a row adds up to 1.
    labels : Sequence[str]
        The classes' codes, in the order of their indices.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "predictions.csv"
    >>> true, predicted = np.array([0, 1]), np.array([0, 0])
    >>> probabilities = np.array([[0.75, 0.25], [0.5, 0.5]])
    >>> found = Predictions(["a", "b"], true, predicted, probabilities, ["ang", "sad"])
    >>> found.write(path)
    >>> print(path.read_text(), end="")
    ID,true,predicted,ang,sad
    a,ang,ang,0.75,0.25
    b,sad,ang,0.5,0.5
    >>> Predictions.read(path).metrics().war
    0.5
    """

    ids: Sequence[str]
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    labels: Sequence[str]

    @property
    def confidence(self) -> np.ndarray:
        """Highest probability of each utterance [N]."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer was right [N]."""
        return self.true == self.predicted

    def metrics(self) -> ClassificationMetrics:
        """WAR, UAR, recalls and confusion."""
        return classification_metrics(self.true, self.predicted, self.labels)

    def write(self, path: str | os.PathLike) -> None:
        """Write the CSV file, whole or not at all."""
        names = list(map(harmless_cell, self.labels))
        rows = zip(self.ids, self.true, self.predicted, self.probabilities.tolist(), strict=True)
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_FIRST_COLUMNS, *names])
            for name, true, predicted, row in rows:
                cells = [harmless_cell(name), names[true], names[predicted], *map(repr, row)]
                writer.writerow(cells)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Predictions:
        """Read a file that `write` wrote; ValueError names file and line where it is not one."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no file {path} (seen from {Path.cwd()}).")
        ids, true, predicted, probabilities = [], [], [], []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.reader(file)
                labels = _labels(path, next(reader, []))
                for cells in reader:
                    where = f"{path}, line {reader.line_num}"
                    ids.append(plain_cell(cells[0]) if cells else "")
                    probabilities.append(_probabilities(where, cells, len(labels)))
                    true.append(_index(where, labels, cells[1]))
                    predicted.append(_index(where, labels, cells[2]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: expected CSV in UTF-8: {error}.") from error
        if not ids:
            raise ValueError(f"{path} has no rows below its first line.")
        return cls(ids, np.array(true), np.array(predicted), np.array(probabilities), labels)


def pooled_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put the predictions of several test sets together; ValueError if their classes differ."""
    labels = list(parts[0].labels)
    for part in parts[1:]:
        if list(part.labels) != labels:
            raise ValueError(
                f"cannot pool predictions of different classes: {labels} and {list(part.labels)}."
            )
    true, predicted, probabilities = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("true", "predicted", "probabilities")
    )
    return Predictions(
        [i for part in parts for i in part.ids], true, predicted, probabilities, labels
    )


def restricted_predictions(predictions: Predictions, labels: Sequence[str]) -> Predictions:
    """Choose among some of the classes only, for the utterances that are of these.

    As a model would that had been asked about no others: the probabilities of the rest are left
    out, and those that stay add up to 1 again. ValueError if the predictions lack one of the
    ``labels``, or no utterance is of these.

    Examples
    --------
    >>> true, predicted = np.array([0, 1, 2]), np.array([2, 1, 2])
    >>> probabilities = np.array([[0.375, 0.125, 0.5], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])
    >>> found = Predictions("abc", true, predicted, probabilities, ["ang", "sad", "cal"])
    >>> fewer = restricted_predictions(found, ["ang", "sad"])
    >>> fewer.ids, fewer.predicted.tolist(), fewer.probabilities[0].tolist()
    (['a', 'b'], [0, 1], [0.75, 0.25])
    """
    own = list(predictions.labels)
    if missing := [name for name in labels if name not in own]:
        raise ValueError(
            f"expected predictions with the classes {', '.join(labels)}; those of "
            f"{', '.join(own)} lack {', '.join(missing)}."
        )
    columns = [own.index(name) for name in labels]
    rows = np.flatnonzero(np.isin(predictions.true, columns))
    if not len(rows):
        raise ValueError(f"no utterance is of the classes {', '.join(labels)}.")
    probabilities = predictions.probabilities[np.ix_(rows, columns)]
    total = probabilities.sum(axis=1, keepdims=True)
    # Certain of a class that is left out, a model says nothing about the others.
    evenly = np.full_like(probabilities, 1 / len(columns))
    probabilities = np.divide(probabilities, total, out=evenly, where=total > 0)
    true = np.array([columns.index(index) for index in predictions.true[rows]])
    ids = [predictions.ids[row] for row in rows]
    return Predictions(ids, true, probabilities.argmax(axis=1), probabilities, list(labels))


def _labels(path: Path, heading: Sequence[str]) -> list[str]:
    labels = list(map(plain_cell, heading[3:]))
    if list(heading[:3]) != _FIRST_COLUMNS or not labels or len(set(labels)) < len(labels):
        raise ValueError(
            f"{path}: expected the columns ID,true,predicted and one for each class, found "
            f"{','.join(heading) or 'nothing'}."
        )
    return labels


def _probabilities(where: str, cells: Sequence[str], classes: int) -> list[float]:
    if len(cells) != 3 + classes:
        raise ValueError(f"{where}: expected {3 + classes} cells, found {len(cells)}.")
    try:
        row = [float(cell) for cell in cells[3:]]
    except ValueError:
        row = [float("nan")]
    # Written so that NaN fails it.
    if not (min(row) >= 0 and abs(sum(row) - 1) <= _TOLERANCE):
        raise ValueError(
            f"{where}: expected probabilities that add up to 1, found {','.join(cells[3:])}."
        )
    return row


def _index(where: str, labels: Sequence[str], cell: str) -> int:
    label = plain_cell(cell)
    if label not in labels:
        raise ValueError(
            f"{where}: expected one of the classes {', '.join(labels)}, found {label!r}."
        )
    return labels.index(label)
