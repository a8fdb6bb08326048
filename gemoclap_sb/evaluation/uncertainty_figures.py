"""Pictures of how sure a model's figures are, and how sure the model itself may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemoclap_sb.evaluation.calibration import BINS, calibration_figures, reliability
from gemoclap_sb.evaluation.figures import INK, PALE, WAR_COLOUR, new_figure, save_figure, tidy
from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.evaluation.report import percent

# Light, so that the line across the bars is seen in print.
BAR_COLOUR = "#9dbbd3"


def draw_recall(
    metrics: ClassificationMetrics,
    intervals: Mapping[str, Any] | None,
    path: str | Path,
    title: str = "Recall of each class",
) -> Path:
    """Draw the recall of each class and their mean, the UAR, with intervals where there are some.

    ``intervals`` are what `gemoclap_sb.evaluation.uncertainty.confidence_intervals` returned.

    Examples
    --------
    >>> import tempfile
    >>> from gemoclap_sb.evaluation.metrics import classification_metrics
    >>> metrics = classification_metrics([0, 0, 1], [0, 1, 1], ["ang", "sad"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_recall(metrics, None, Path(folder) / "recall.png").name
    'recall.png'
    """
    intervals = intervals or {}
    by_class = intervals.get("per_class_recall", {})
    totals = np.asarray(metrics.confusion).sum(axis=1)
    rows = [
        (f"{label}  (n = {total})", metrics.per_class_recall[label], by_class.get(label))
        for label, total in zip(metrics.labels, totals, strict=True)
    ]
    rows.append((f"UAR  (n = {metrics.n_test})", metrics.uar, intervals.get("uar")))
    figure = new_figure(7.5, 1.5 + 0.42 * len(rows))
    axes = figure.add_subplot()
    axes.axhline(len(rows) - 1.5, color=PALE, linewidth=0.8)
    for place, (_, recall, ends) in enumerate(rows):
        if recall is None:
            note = "no utterance"
        else:
            note = percent(recall)
            marker = "D" if place == len(rows) - 1 else "o"
            axes.plot(100 * recall, place, marker, color=WAR_COLOUR, markersize=7, zorder=3)
        if ends is not None:
            axes.hlines(place, 100 * ends[0], 100 * ends[1], color=INK, linewidth=1.6)
            axes.vlines(100 * np.asarray(ends), place - 0.14, place + 0.14, INK, linewidth=1.6)
            note += f"  ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
        axes.annotate(
            note,
            (1.0, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xticks(range(0, 101, 20))
    chance = 100 / len(metrics.labels)
    axes.axvline(chance, color=PALE, linestyle=":", linewidth=1.4)
    told = f"dotted: chance, {chance:.1f} %"
    if intervals:
        speakers = f"{intervals['speakers']} speakers"
        told = f"bars: {100 * intervals['level']:g} % intervals over {speakers}; {told}"
    axes.set_xlabel(f"recall, %   ({told})", color=INK, fontsize=9)
    axes.set_title(title, color=INK, fontsize=13, fontweight="bold", pad=12)
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6eaee", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    return save_figure(figure, path)


def draw_reliability(
    before: Predictions, after: Predictions, path: str | Path, title: str = "Reliability"
) -> Path:
    """Draw accuracy against confidence, before and after the temperature was fitted.

    Below each diagram is the histogram of the confidences. ``before`` and ``after`` have the
    same answers with other probabilities.

    Examples
    --------
    >>> import tempfile
    >>> true = np.array([0, 1])
    >>> sure, unsure = (
    ...     Predictions(["a", "b"], true, true, np.array(rows), ["ang", "sad"])
    ...     for rows in ([[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.4, 0.6]])
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_reliability(unsure, sure, Path(folder) / "reliability.png").name
    'reliability.png'
    """
    figure = new_figure(9.5, 6)
    grid = figure.subplots(2, 2, height_ratios=[3, 1], sharex=True, sharey="row")
    edges, width = np.arange(BINS) / BINS, 1 / BINS
    for column, (predictions, name) in enumerate(
        ((before, "before the temperature was fitted"), (after, "after"))
    ):
        bins = reliability(predictions.confidence, predictions.correct)
        figures = calibration_figures(predictions)
        diagram, histogram = grid[:, column]
        bars = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 1}
        diagram.bar(edges, bins.accuracy, color=BAR_COLOUR, label="accuracy", **bars)
        filled = bins.counts > 0
        diagram.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1.2, label="ideal")
        diagram.plot(
            bins.confidence[filled],
            bins.accuracy[filled],
            "o",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor=INK,
            label="mean confidence",
            clip_on=False,
            zorder=3,
        )
        diagram.set_title(
            f"{name}\nECE {percent(figures['ece'])}   NLL {figures['nll']:.3f}",
            color=INK,
            fontsize=11,
        )
        histogram.bar(edges, bins.counts / bins.counts.sum(), color=PALE, **bars)
        histogram.set_xlabel("confidence", color=INK)
        for axes in (diagram, histogram):
            tidy(axes)
    grid[0, 0].set_xlim(0, 1)
    grid[0, 0].set_ylim(0, 1.02)
    grid[0, 0].set_ylabel("accuracy", color=INK)
    grid[1, 0].set_ylabel("share of\nutterances", color=INK)
    figure.suptitle(
        f"{title}   (n = {len(after.ids)}, {BINS} bins)", color=INK, fontsize=13, fontweight="bold"
    )
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=INK,
    )
    return save_figure(figure, path)
