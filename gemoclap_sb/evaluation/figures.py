"""Pictures of what `gemoclap_sb.evaluation.metrics` counts.

matplotlib is imported only when something is drawn, and used through its object-oriented
interface (https://matplotlib.org/stable/gallery/user_interfaces/canvasagg.html), so that
importing or calling this room never opens a window nor touches pyplot's global state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemoclap_sb.evaluation.metrics import ClassificationMetrics
from gemoclap_sb.evaluation.report import mean_and_std, percent
from gemoclap_sb.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WAR_COLOUR, UAR_COLOUR, INK, PALE = "#2f6690", "#e08e45", "#22303c", "#6b7a88"


def draw_confusion(
    metrics: ClassificationMetrics, path: str | Path, title: str = "Confusion matrix"
) -> Path:
    """Draw a confusion matrix: colours by recall, counts and percentages in the cells.

    WAR, UAR and the number of utterances stand below the title. Returns the path of the PNG,
    as the other drawings do.

    Examples
    --------
    >>> import tempfile
    >>> from gemoclap_sb.evaluation.metrics import classification_metrics
    >>> metrics = classification_metrics([0, 0, 1], [0, 1, 1], ["ang", "sad"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_confusion(metrics, Path(folder) / "confusion.png").name
    'confusion.png'
    """
    side = _confusion_side(metrics)
    figure = new_figure(side + 1.3, side + 0.9)
    axes = figure.add_subplot()
    _confusion_on(axes, metrics)
    heading = f"WAR {percent(metrics.war)}   UAR {percent(metrics.uar)}   n = {metrics.n_test}"
    # Both lines belong to the axes, so that they share the matrix's centre.
    axes.set_title(title, color=INK, fontsize=13, fontweight="bold", pad=28)
    # The offset is in points, as the title's is: however large the matrix, they stay apart.
    below = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
    axes.annotate(heading, (0.5, 1), (0, 11), color=PALE, fontsize=10, **below)
    return save_figure(figure, path)


def draw_training_curves(
    history: Sequence[Mapping[str, float]], path: str | Path, tested: float | None = None
) -> Path:
    """Draw losses, validation figures and temperatures over the epochs.

    ``history`` has epoch, train_loss and valid_loss of each epoch, any further
    ``valid_NAME``, fractions that are drawn beside the losses, and any ``temperature_NAME``,
    which an older run's may lack. The epoch ``tested``, whose checkpoint is kept, is marked
    where it has a validation UAR. ValueError if there is no epoch or an epoch lacks a key.

    Examples
    --------
    >>> import tempfile
    >>> history = [
    ...     {"epoch": 1, "train_loss": 2.0, "valid_loss": 2.1, "valid_war": 0.4, "valid_uar": 0.3},
    ...     {"epoch": 2, "train_loss": 1.0, "valid_loss": 1.5, "valid_war": 0.7, "valid_uar": 0.6},
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_training_curves(history, Path(folder) / "curves.png").name
    'curves.png'
    """
    if not history:
        raise ValueError("nothing to draw: expected the figures of at least one epoch")
    names = [key for key in history[0] if key.startswith("valid_") and key != "valid_loss"]
    keys = ("epoch", "train_loss", "valid_loss", *names)
    for number, epoch in enumerate(history, start=1):
        if missing := [key for key in keys if key not in epoch]:
            raise ValueError(f"entry {number} of the history lacks {', '.join(missing)}")
    temperatures = dict.fromkeys(
        key for epoch in history for key in epoch if key.startswith("temperature_")
    )
    series = {
        key: np.array([epoch.get(key, np.nan) for epoch in history], float)
        for key in (*keys, *temperatures)
    }
    epochs = series["epoch"]
    # A single epoch is a point, which a bare line would not show.
    style: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 4}

    titles = [("Loss", "loss")]
    titles += [("Validation", "%")] if names else []
    titles += [("Temperatures", "factor on cosines")] if temperatures else []
    figure = new_figure(5 * len(titles), 4)
    panels = np.atleast_1d(figure.subplots(1, len(titles)))
    panels[0].plot(epochs, series["train_loss"], color=PALE, label="training", ls="--", **style)
    panels[0].plot(epochs, series["valid_loss"], color=WAR_COLOUR, label="validation", **style)
    for name in names:
        label = name.removeprefix("valid_").replace("_", " ")
        label = label.upper() if label in ("war", "uar") else label
        colour = {"WAR": WAR_COLOUR, "UAR": UAR_COLOUR}.get(label)
        # With as many utterances of each class the two are one line: both are to be seen.
        line = {"ls": "--", "zorder": 2.5} if label == "WAR" else {}
        panels[1].plot(epochs, 100 * series[name], color=colour, label=label, **style, **line)
    for epoch, uar in zip(epochs, series.get("valid_uar", ()), strict=False):
        if epoch == tested and np.isfinite(uar):
            label = f"tested: epoch {int(epoch)}, UAR {percent(uar)}"
            ring = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.5, "zorder": 3}
            panels[1].scatter(epoch, 100 * uar, s=130, label=label, **ring)
    for key, line in zip(temperatures, itertools.cycle(("-", "--", ":", "-.")), strict=False):
        colour = UAR_COLOUR if key.endswith("_text") else WAR_COLOUR
        label = key.removeprefix("temperature_").replace("_", ", ")
        panels[-1].plot(epochs, series[key], color=colour, label=label, linestyle=line, **style)
    for axes, (name, unit) in zip(panels, titles, strict=True):
        axes.set_title(name, color=INK, fontsize=12, fontweight="bold")
        axes.set_xlabel("epoch", color=INK)
        axes.set_ylabel(unit, color=INK)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        axes.legend(frameon=False, labelcolor=INK, **below)
        tidy(axes)
    return save_figure(figure, path)


def draw_cross_validation(
    summary: Mapping[str, Any], path: str | Path, title: str = "Cross-validation"
) -> Path:
    """Draw WAR and UAR of each fold with their means, and the pooled confusion.

    ``summary`` is what `gemoclap_sb.evaluation.report.cross_validation_summary` returned.

    Examples
    --------
    >>> import tempfile
    >>> fold = {"fold": 1, "labels": ["ang", "sad"], "confusion": [[3, 1], [0, 2]]}
    >>> from gemoclap_sb.evaluation.report import cross_validation_summary
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_cross_validation(cross_validation_summary([fold]), Path(folder) / "cv.png").name
    'cv.png'
    """
    folds = summary["folds"]
    whole = ClassificationMetrics.from_dict(summary["pooled"])
    side = _confusion_side(whole)
    width = max(4.5, 0.9 * len(folds) + 1.2)
    figure = new_figure(width + side + 2.0, side + 1.2)
    bars, matrix = figure.subplots(1, 2, width_ratios=[width, side + 1.0])

    places = np.arange(len(folds))
    for key, colour, shift in (("war", WAR_COLOUR, -0.2), ("uar", UAR_COLOUR, 0.2)):
        heights = [100 * fold[key] for fold in folds]
        spread = mean_and_std(summary["mean"][key], summary["std"][key])
        drawn = bars.bar(
            places + shift, heights, 0.37, color=colour, label=f"{key.upper()} {spread}"
        )
        # The white box keeps a figure readable where a mean line crosses it.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        bars.bar_label(drawn, fmt="%.1f", fontsize=8, color=INK, padding=3, bbox=box)
        bars.axhline(100 * summary["mean"][key], color=colour, linestyle="--", linewidth=1.2)
    bars.set_xticks(places, [f"fold {fold['fold']}" for fold in folds])
    # The legend stands above the bars, which reach 100 at most.
    bars.set_ylim(0, 118)
    bars.set_yticks(range(0, 101, 20))
    bars.set_ylabel("%", color=INK)
    bars.legend(frameon=False, ncols=2, loc="upper center", labelcolor=INK)
    bars.set_title("Each fold, and the mean (dashed)", color=PALE, fontsize=10, pad=10)
    tidy(bars)
    _confusion_on(matrix, whole)
    matrix.set_title(
        f"Pooled: WAR {percent(whole.war)}   UAR {percent(whole.uar)}   n = {whole.n_test}",
        color=PALE,
        fontsize=10,
        pad=10,
    )
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure in inches that belongs to no window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


def tidy(axes: Axes) -> None:
    """Keep of the frame what carries information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, length=3)
    axes.grid(axis="y", color="#e6eaee", linewidth=0.8)
    axes.set_axisbelow(True)


def _confusion_side(metrics: ClassificationMetrics) -> float:
    """Give the side in inches that leaves each cell room for its two lines."""
    return max(3.6, 0.85 * len(metrics.labels))


def _confusion_on(axes: Axes, metrics: ClassificationMetrics) -> None:
    """Draw the row-normalised confusion matrix into `axes`."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(metrics.confusion)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    size = len(metrics.labels)
    colours = LinearSegmentedColormap.from_list("recall", ["#f5f8fb", "#86b2d3", "#184e77"])
    axes.imshow(shares, cmap=colours, vmin=0.0, vmax=1.0)
    for i in range(size):
        for j in range(size):
            ink = "white" if shares[i, j] > 0.62 else INK
            share = f"{100 * shares[i, j]:.1f} %" if totals[i] else "–"
            strong = "bold" if i == j else "normal"
            axes.text(
                j,
                i - 0.09,
                counts[i, j],
                ha="center",
                va="center",
                color=ink,
                fontsize=13,
                fontweight=strong,
            )
            axes.text(j, i + 0.24, share, ha="center", va="center", color=ink, fontsize=8.5)
    axes.set_xticks(range(size), metrics.labels)
    axes.set_yticks(
        range(size),
        [f"{name}\n(n = {total})" for name, total in zip(metrics.labels, totals, strict=True)],
    )
    # White gaps between the cells instead of a frame around them.
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2.5)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", color=PALE)
    axes.set_ylabel("true", color=PALE)
    longest = max(len(name) for name in metrics.labels)
    if longest > 7:
        for name in axes.get_xticklabels():
            name.set(rotation=35, ha="right", rotation_mode="anchor")
