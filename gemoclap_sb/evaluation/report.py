"""Tables of the figures in :mod:`gemoclap_sb.evaluation.metrics`, and one door to the pictures.

JSON holds fractions; what a person reads, here, holds percentages with a % sign. The
pictures are drawn in :mod:`gemoclap_sb.evaluation.figures` and importable from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from gemoclap_sb.evaluation.figures import (
    draw_confusion,
    draw_cross_validation,
    draw_training_curves,
    mean_and_std,
    percent,
)
from gemoclap_sb.evaluation.metrics import ClassificationMetrics, pooled

__all__ = [
    "VALIDATION_NOTES",
    "cross_validation_report",
    "cross_validation_summary",
    "draw_confusion",
    "draw_cross_validation",
    "draw_training_curves",
    "metrics_table",
]

VALIDATION_NOTES: dict[str, str] = {
    "random": "The checkpoint was chosen on utterances held out at random from the training "
    "sessions; the test session was not seen before the final evaluation.",
    "session": "The checkpoint was chosen on one whole training session; the test session was "
    "not seen before the final evaluation.",
    "speaker": "The checkpoint was chosen on held-out speakers of the training side; the test "
    "speakers were not seen before the final evaluation.",
    "test": "The checkpoint was chosen on the test side itself (the test session, or the test "
    "speakers). These figures are therefore "
    "optimistic and must not be compared with results whose test side was unseen.",
}
"""What to say, in words, about each way of choosing the checkpoint."""

# ---------------------------------------------------------------------------- terminal


def metrics_table(metrics: ClassificationMetrics) -> str:
    """Lay the metrics out for the terminal.

    Parameters
    ----------
    metrics : ClassificationMetrics

    Returns
    -------
    str
        WAR, UAR and the per-class recalls in aligned lines, without a final newline.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.metrics import classification_metrics
    >>> metrics = classification_metrics([0, 0, 0, 1], [0, 0, 1, 1], ["ang", "sad"])
    >>> print(metrics_table(metrics))
    WAR    75.00 %   (3 of 4 utterances)
    UAR    83.33 %   (mean over 2 classes)
    recall
      ang  66.67 %   (2 of 3)
      sad 100.00 %   (1 of 1)
    """
    confusion = np.asarray(metrics.confusion)
    present = [name for name in metrics.labels if metrics.per_class_recall[name] is not None]
    averaged = f"{len(present)} class" + "es" * (len(present) > 1)
    width = max(len(name) for name in metrics.labels)
    lines = [
        f"{'WAR':<{width + 2}} {100 * metrics.war:6.2f} %   "
        f"({int(confusion.trace())} of {metrics.n_test} utterances)",
        f"{'UAR':<{width + 2}} {100 * metrics.uar:6.2f} %   (mean over {averaged})",
        "recall",
    ]
    for i, name in enumerate(metrics.labels):
        recall = metrics.per_class_recall[name]
        figure = "     –  " if recall is None else f"{100 * recall:6.2f} %"
        lines.append(f"  {name:<{width}} {figure}   ({confusion[i, i]} of {confusion[i].sum()})")
    return "\n".join(lines)


# -------------------------------------------------------------------- cross-validation


def cross_validation_summary(
    fold_metrics: Sequence[Mapping[str, Any]],
    validation: str | None = None,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """Summarise the folds of a cross-validation, as ``cv_metrics.json`` holds them.

    Mean and standard deviation are over folds; the standard deviation is that of a sample
    (``ddof=1``) and null for a single fold. `pooled` comes from the summed confusions.

    Parameters
    ----------
    fold_metrics : sequence of mapping
        The content of each fold's ``metrics.json``: fold, labels and confusion are needed,
        further keys (seed, hparams_file, seconds, ...) are kept.
    validation : str, optional
        How the checkpoint was chosen, a key of :data:`VALIDATION_NOTES`; its sentence
        becomes the first note.
    notes : iterable of str
        Further remarks for the reader.

    Returns
    -------
    dict
        Keys folds, mean, std, std_ddof, pooled, labels, notes. Fractions throughout.

    Raises
    ------
    ValueError
        If there is no fold, a fold number is missing or repeated, labels differ between
        folds, or `validation` is unknown.

    Examples
    --------
    >>> folds = [
    ...     {"fold": 1, "labels": ["ang", "sad"], "confusion": [[3, 1], [0, 2]]},
    ...     {"fold": 2, "labels": ["ang", "sad"], "confusion": [[2, 2], [1, 1]]},
    ... ]
    >>> summary = cross_validation_summary(folds)
    >>> summary["mean"]["uar"], summary["pooled"]["uar"]
    (0.6875, 0.6875)
    """
    if not fold_metrics:
        raise ValueError("nothing to summarise: expected the metrics of at least one fold")
    if validation is not None and validation not in VALIDATION_NOTES:
        raise ValueError(
            f"expected validation to be one of {', '.join(VALIDATION_NOTES)}; found {validation!r}"
        )
    numbers = [fold.get("fold") for fold in fold_metrics]
    if None in numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"expected each fold's metrics to have its own 'fold'; found {numbers}")

    ordered = sorted(fold_metrics, key=lambda fold: fold["fold"])
    metrics = [ClassificationMetrics.from_dict(fold) for fold in ordered]
    whole = pooled(metrics)
    scores = {name: [getattr(one, name) for one in metrics] for name in ("war", "uar")}
    remarks = [] if validation is None else [VALIDATION_NOTES[validation]]
    return {
        "folds": [{**fold, **one.to_dict()} for fold, one in zip(ordered, metrics, strict=True)],
        "mean": {name: fmean(values) for name, values in scores.items()},
        "std": {
            name: stdev(values) if len(values) > 1 else None for name, values in scores.items()
        },
        "std_ddof": 1,
        "pooled": whole.to_dict(),
        "labels": whole.labels,
        "notes": remarks + [str(note) for note in notes],
    }


def cross_validation_report(
    summary: Mapping[str, Any],
    title: str,
    notes: Iterable[str] = (),
    command: str | None = None,
    picture: str | None = None,
) -> str:
    """Write a cross-validation summary as Markdown, as ``cv_report.md`` holds it.

    Parameters
    ----------
    summary : mapping
        What :func:`cross_validation_summary` returned.
    title : str
        Heading of the report.
    notes : iterable of str
        Remarks after those of the summary, for example machine and date.
    command : str, optional
        The command that gave these results.
    picture : str, optional
        Path of the picture, relative to the report.

    Returns
    -------
    str
        Markdown, ending with a newline.

    Examples
    --------
    >>> fold = {"fold": 1, "labels": ["ang", "sad"], "confusion": [[3, 1], [0, 2]]}
    >>> text = cross_validation_report(cross_validation_summary([fold]), "Demo")
    >>> print(text.splitlines()[4])
    | 1 | 83.33 % | 87.50 % | 6 |
    """
    folds, labels, whole = summary["folds"], summary["labels"], summary["pooled"]
    timed = any("seconds" in fold for fold in folds)

    def row(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"

    def head(cells: Sequence[str]) -> list[str]:
        return [row(cells), "|:--" + "|--:" * (len(cells) - 1) + "|"]

    lines = [f"# {title}", ""]
    lines += head(["fold", "WAR", "UAR", "n_test"] + ["seconds"] * timed)
    for fold in folds:
        seconds = f"{fold['seconds']:.1f}" if "seconds" in fold else "–"
        lines.append(
            row(
                [fold["fold"], percent(fold["war"]), percent(fold["uar"]), fold["n_test"]]
                + [seconds] * timed
            )
        )
    spread = [mean_and_std(summary["mean"][key], summary["std"][key]) for key in ("war", "uar")]
    total = f"{sum(fold.get('seconds', 0.0) for fold in folds):.1f}"
    lines.append(row([f"**mean ± std of {len(folds)}**", *spread, ""] + [""] * timed))
    lines.append(
        row(
            ["**pooled**", percent(whole["war"]), percent(whole["uar"]), whole["n_test"]]
            + [total] * timed
        )
    )
    lines += [
        "",
        "WAR is the accuracy, UAR the mean of the per-class recalls. The standard deviation is "
        "over folds (ddof = 1). Pooled: computed from the summed confusion matrix.",
        "",
    ]
    if remarks := [*summary["notes"], *notes]:
        lines += [f"- {note}" for note in remarks] + [""]
    if command:
        lines += ["```sh", command, "```", ""]

    lines += ["## Recall per class", ""]
    lines += head(["class", "n_test", "pooled"] + [f"fold {fold['fold']}" for fold in folds])
    for i, name in enumerate(labels):
        recalls = [one["per_class_recall"][name] for one in [whole, *folds]]
        lines.append(row([name, sum(whole["confusion"][i]), *map(percent, recalls)]))
    lines += ["", "## Pooled confusion", "", "Row: true class. Column: predicted class.", ""]
    lines += head(["", *labels])
    for i, name in enumerate(labels):
        counts: list[object] = list(whole["confusion"][i])
        counts[i] = f"**{counts[i]}**"
        lines.append(row([name, *counts]))
    if picture:
        lines += ["", f"![WAR and UAR per fold, and the pooled confusion]({picture})"]
    return "\n".join(lines) + "\n"
