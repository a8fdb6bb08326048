"""Learning curves: what each way to begin is worth, by how much of the labels is learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gemoclap_sb.evaluation.comparison import Comparison
from gemoclap_sb.evaluation.comparison_figure import STYLES
from gemoclap_sb.evaluation.figures import INK, PALE, new_figure, save_figure, tidy


def draw_learning_curves(groups: Mapping[str, Comparison], path: str | Path, title: str) -> Path:
    """Draw the UAR of each row over the share of labels, and return the path of the PNG.

    A group is a share, and its name says so in percent; all have the same rows. A row that lacks a
    fold has no point in that group. ValueError if a group's name is no percentage.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> groups = {
    ...     name: Comparison([Cell("from nothing", name, {1: [FoldScore(0.5, uar, 10)]})])
    ...     for name, uar in (("10 %", 0.3), ("100 %", 0.5))
    ... }
    >>> draw_learning_curves(groups, getfixture("tmp_path") / "curves.png", "Demo").name
    'curves.png'
    """
    shares = [_percent(name) for name in groups]
    first = next(iter(groups.values()))
    figure = new_figure(6.5, 4.6)
    axes = figure.subplots()
    rows = [cell.objective for cell in first.cells]
    for number, row in enumerate(rows):
        shape, colour = STYLES[number % len(STYLES)]
        points = []
        for share, comparison in zip(shares, groups.values(), strict=True):
            [cell] = [of for of in comparison.cells if of.objective == row]
            if found := cell.mean_and_std("uar"):
                # Side by side, so that the error bars of equals are seen.
                moved = share * (1 + 0.03 * (number - (len(rows) - 1) / 2))
                points.append((moved, 100 * found[0], 100 * (found[1] or 0.0)))
        style = {"color": colour, "marker": shape, "markersize": 7, "markeredgecolor": INK}
        bars = {"ecolor": colour, "elinewidth": 1.2, "capsize": 3, "linewidth": 1.6}
        places, means, deviations = zip(*points, strict=True) if points else ((), (), ())
        axes.errorbar(places, means, deviations, label=row, **style, **bars)
    axes.set_xscale("log")
    axes.set_xticks(shares, list(groups))
    axes.minorticks_off()
    axes.set_xlabel("share of the training labels that is learnt from", color=INK)
    axes.set_ylabel("UAR (%)", color=INK)
    tidy(axes)
    axes.set_title(
        f"error bars: standard deviation over {first.deviation_over}", color=PALE, fontsize=9
    )
    axes.legend(frameon=False, labelcolor=INK)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def _percent(name: str) -> float:
    try:
        return float(name.removesuffix("%"))
    except ValueError as error:
        raise ValueError(f"expected a percentage such as '10 %', found {name!r}.") from error
