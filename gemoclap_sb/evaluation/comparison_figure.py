"""A comparison as one picture: ours with error bars beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gemoclap_sb.evaluation.comparison import SCORES, Comparison
from gemoclap_sb.evaluation.figures import INK, PALE, UAR_COLOUR, new_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by shape and, printed in grey, by darkness too.
STYLES = (("o", "#5a94bd"), ("s", "#e08e45"), ("D", "#184e77"), ("^", "#6b7a88"), ("v", "#22303c"))


def draw_comparison(
    comparison: Comparison, path: str | Path, title: str = "Objectives and encoders"
) -> Path:
    """Draw WAR and UAR of all cells, grouped by encoder, and return the path of the PNG.

    Filled: ours, with the standard deviation of the tables. Open, to the right of it: the
    published figure. A cell that lacks a fold leaves its place empty.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cell = Cell("emo", "wavlm", {1: [FoldScore(0.75, 0.5, 10, 40)]})
    >>> draw_comparison(Comparison([cell]), getfixture("tmp_path") / "table.png").name
    'table.png'
    """
    slots = len(comparison.encoders) * (len(comparison.objectives) + 1)
    figure = new_figure(max(6.5, 0.5 * slots + 1.5), 7.5)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, name in zip(panels, SCORES, strict=True):
        _draw_score(axes, comparison, name)
    panels[0].set_title(
        f"Error bars: standard deviation over {comparison.deviation_over}", color=PALE, fontsize=10
    )
    names = [comparison.names.get(encoder, encoder) for encoder in comparison.encoders]
    panels[-1].set_xticks(range(len(names)), names)
    handles, labels = panels[0].get_legend_handles_labels()
    # A column for each objective: ours, and below it the paper's.
    columns = len(comparison.objectives)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK
    )
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def draw_groups(groups: Mapping[str, Comparison], path: str | Path, title: str) -> Path:
    """Draw the UAR of each row, a block for each group, and return the path of the PNG.

    Groups are those of `gemoclap_sb.evaluation.comparison_tables.groups_markdown`. A row that
    lacks a fold leaves its place empty; a group of which fewer than two rows are whole is left
    out, unless all are.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cell = Cell("softmax", "target", {1: [FoldScore(0.75, 0.5, 10, 40)]})
    >>> groups = {"target": Comparison([cell])}
    >>> draw_groups(groups, getfixture("tmp_path") / "groups.png", "Demo").name
    'groups.png'
    """
    groups = {name: of for name, of in groups.items() if _whole_rows(of) > 1} or groups
    lines = sum(len(comparison.cells) + 1 for comparison in groups.values())
    figure = new_figure(6.5, 0.27 * lines + 1.6)
    axes = figure.subplots()
    place, places, called, headings = 0.0, [], [], []
    for group, comparison in groups.items():
        seeds = ", ".join(map(str, comparison.seeds))
        headings.append(len(called))
        called.append(f"{group} (seed{'s' * (len(comparison.seeds) > 1)} {seeds})")
        places.append(place)
        for number, cell in enumerate(comparison.cells, start=1):
            places.append(place + number)
            called.append(comparison.names.get(cell.objective, cell.objective))
            if found := cell.mean_and_std("uar"):
                mean, std = found
                bar = {"ecolor": INK, "elinewidth": 1.2, "capsize": 3, "markeredgecolor": INK}
                own = {"color": UAR_COLOUR, "marker": "o", "markersize": 7, "zorder": 3}
                axes.errorbar(100 * mean, places[-1], xerr=100 * (std or 0.0), **own, **bar)
                if number == 1:
                    ends = place + 0.6, place + len(comparison.cells) + 0.4
                    axes.vlines(100 * mean, *ends, color=PALE, linewidth=1.2, linestyle=":")
        # Half a line more between groups.
        place += len(comparison.cells) + 1.5
    axes.set_yticks(places, called)
    axes.set_ylim(place - 0.8, -0.8)
    tidy(axes)
    # Guides for rows, not for headings.
    for number, (tick, label) in enumerate(
        zip(axes.yaxis.get_major_ticks(), axes.get_yticklabels(), strict=True)
    ):
        if number in headings:
            label.set_fontweight("bold")
            tick.gridline.set_visible(False)
            tick.tick1line.set_visible(False)
    axes.set_xlabel("UAR (%)", color=INK)
    over = " or ".join(dict.fromkeys(of.deviation_over for of in groups.values()))
    explained = f"error bars: standard deviation over {over}\ndotted: the first row of the group"
    axes.set_title(explained, color=PALE, fontsize=9)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def _whole_rows(comparison: Comparison) -> int:
    return sum(cell.mean_and_std("uar") is not None for cell in comparison.cells)


def _draw_score(axes: Axes, comparison: Comparison, name: str) -> None:
    """Draw one score: a group for each encoder, a place in it for each objective."""
    step = 0.8 / len(comparison.objectives)
    for number, objective in enumerate(comparison.objectives):
        shape, colour = STYLES[number % len(STYLES)]
        own = {"color": colour, "marker": shape, "markersize": 8, "linestyle": "none"}
        called = comparison.names.get(objective, objective)
        # Drawn empty, so that the legend is the same whatever is there.
        axes.plot([], [], label=f"{called}, ours", markeredgecolor=INK, **own)
        if comparison.published:
            axes.plot([], [], label=f"{called}, paper", markerfacecolor="white", **own)
        for group, encoder in enumerate(comparison.encoders):
            cell = comparison.cell(objective, encoder)
            place = group + (number - (len(comparison.objectives) - 1) / 2) * step
            if found := cell.mean_and_std(name):
                mean, std = found
                bar = {"ecolor": INK, "elinewidth": 1.2, "capsize": 3, "markeredgecolor": INK}
                axes.errorbar(place - step / 6, 100 * mean, 100 * (std or 0.0), **own, **bar)
            if (published := comparison.published_score(cell, name)) is not None:
                open_style = {"markerfacecolor": "white", "markeredgewidth": 1.6}
                axes.plot(place + step / 6, 100 * published, **own, **open_style)
    for border in range(1, len(comparison.encoders)):
        axes.axvline(border - 0.5, color=PALE, linewidth=0.6, linestyle=":")
    axes.set_xlim(-0.5, len(comparison.encoders) - 0.5)
    axes.set_ylabel(f"{name.upper()} (%)", color=INK)
    tidy(axes)
