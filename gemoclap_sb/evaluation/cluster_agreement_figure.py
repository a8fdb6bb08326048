"""Pictures of how far clusters follow labels: every speaker against chance, and every cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemoclap_sb.evaluation.cluster_agreement import (
    MEASURES,
    ClusterAgreement,
    MeasuredAgreement,
    SpeakerTable,
)
from gemoclap_sb.evaluation.cluster_agreement_report import ALPHA, number_text, p_text
from gemoclap_sb.evaluation.figures import (
    INK,
    PALE,
    UAR_COLOUR,
    WAR_COLOUR,
    new_figure,
    save_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED, MOST_SPEAKERS = 40, 24
"""Speakers that have a row each, and a panel each."""
BAND = "#cfd8e0"
_BAND_LABEL, _MIDDLE_LABEL = "95 % of the shuffled", "mean of the shuffled"
_NAMES = {
    "nmi": "normalised mutual information",
    "ari": "adjusted Rand index",
    "purity": "purity",
}
_LABEL_COLOURS = (
    "#9b2226", "#6fb1e8", "#1b8a6b", "#eec643", "#14213d", "#e8743b", "#8e6bb0", "#b5c99a",
    "#c98bb9", "#8d6e53",
)  # fmt: skip
_OTHERS, _OTHERS_COLOUR = "others", "#c3cbd3"
_LONGEST_NAME, _PANELS_IN_A_ROW, _MOST_BANDS = 20, 6, 100


def draw_agreement(agreement: ClusterAgreement, path: str | Path, title: str) -> Path:
    """Draw what was measured against the band of the shuffled, and return the path of the PNG.

    Up to 40 speakers have a row each, the mean of all above them; of more, every panel has them
    in the order of its own measure.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    >>> found = cluster_agreement(["ann"] * 4, [0, 0, 1, 1], ["ang", "ang", "sad", "sad"])
    >>> draw_agreement(found, getfixture("tmp_path") / "agreement.png", "Demo").name
    'agreement.png'
    """
    draw = _draw_rows if len(agreement.speakers) <= MOST_NAMED else _draw_ranks
    return save_figure(draw(agreement, title), path)


def draw_clusters(agreement: ClusterAgreement, path: str | Path, title: str) -> Path:
    """Draw how each cluster divides over the labels, and return the path of the PNG.

    A panel for each of up to 24 speakers, from the highest NMI to the lowest; of more speakers,
    24 at even distances in this order. A cluster is as wide as it has utterances; to the left
    of them all utterances of the speaker. Of more than ten labels, the commonest nine and the
    others.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    >>> found = cluster_agreement(["ann"] * 4, [0, 0, 1, 1], ["ang", "ang", "sad", "sad"])
    >>> draw_clusters(found, getfixture("tmp_path") / "clusters.png", "Demo").name
    'clusters.png'
    """
    order = np.argsort(-agreement.measures["nmi"].values, kind="stable")
    shown = order
    if len(order) > MOST_SPEAKERS:
        shown = order[np.linspace(0, len(order) - 1, MOST_SPEAKERS).round().astype(int)]
    colours = _label_colours(agreement)
    rows = -(-len(shown) // _PANELS_IN_A_ROW)
    columns = -(-len(shown) // rows)
    figure = new_figure(max(5.0, 2.0 * columns + 0.6), 1.9 * rows + 1.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, i in zip(panels, shown, strict=False):
        _draw_speaker(axes, agreement.tables[i], colours)
        name = f"{_short(agreement.speakers[i])}\nNMI {agreement.measures['nmi'].values[i]:.2f}"
        axes.set_title(name, color=INK, fontsize=9, parse_math=False)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour) for colour in colours.values()]
    named = [_short(label) for label in colours]
    of = f"{len(shown)} of {len(order)} speakers, by NMI. " if len(order) > len(shown) else ""
    legend = figure.legend(
        handles,
        named,
        title=f"{of}Left: all utterances; then the clusters, as wide as each has utterances",
        title_fontsize=9,
        loc="outside lower center",
        ncols=min(len(named), columns + 1),
        frameon=False,
        labelcolor=INK,
    )
    legend.get_title().set_color(PALE)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold", parse_math=False)
    return save_figure(figure, path)


def _draw_rows(agreement: ClusterAgreement, title: str) -> Figure:
    """Draw a row for each speaker, from the highest NMI to the lowest, below one for the mean."""
    speakers = len(agreement.speakers)
    order = np.argsort(-agreement.measures["nmi"].values, kind="stable")
    figure = new_figure(11, 1.9 + 0.26 * (speakers + 1))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    places = np.arange(1, speakers + 1) + 0.4
    for axes, (name, found) in zip(panels, agreement.measures.items(), strict=True):
        ends = (found.mean_shuffled_low, found.mean_shuffled_high)
        low = np.array([ends[0], *found.shuffled_low[order]])
        high = np.array([ends[1], *found.shuffled_high[order]])
        middle = np.array([found.mean_shuffled, *found.shuffled[order]])
        at = np.array([0.0, *places])
        # The edge keeps a narrow band in sight.
        band = {"color": BAND, "edgecolor": BAND, "linewidth": 1.5, "label": _BAND_LABEL}
        axes.barh(at, high - low, 0.6, low, **band)
        axes.vlines(middle, at - 0.3, at + 0.3, PALE, linewidth=1.4, label=_MIDDLE_LABEL)
        own = {"color": UAR_COLOUR, "markeredgecolor": INK, "ecolor": INK, "elinewidth": 1.8}
        error = None
        if found.interval is not None:
            error = [[found.mean - found.interval[0]], [found.interval[1] - found.mean]]
            own["label"] = "mean, and its 95 % interval"
        axes.errorbar(found.mean, 0, xerr=error, fmt="D", zorder=4, **own)
        values, clear = found.values[order], found.p[order] < ALPHA
        dots = {"linestyle": "none", "marker": "o", "markersize": 7, "color": WAR_COLOUR}
        axes.plot(values[clear], places[clear], label=f"measured, p < {ALPHA:g}", **dots)
        dots |= {"markerfacecolor": "white", "markeredgewidth": 1.5}
        axes.plot(values[~clear], places[~clear], label=f"measured, p ≥ {ALPHA:g}", **dots)
        axes.axhline(0.7, color=PALE, linewidth=0.8)
        axes.set_xlim(_limits(low, high, values, found.interval or ()))
        _name_panel(axes, name, found)
        tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#e6eaee", linewidth=0.8)
        axes.tick_params(axis="y", length=0)
    names = [f"mean of {speakers}", *(_short(agreement.speakers[i]) for i in order)]
    panels[0].set_yticks([0.0, *places], names, parse_math=False)
    panels[0].get_yticklabels()[0].set_fontweight("bold")
    panels[0].set_ylim(speakers + 1.1, -0.7)
    _finish(figure, panels[0], title)
    return figure


def _draw_ranks(agreement: ClusterAgreement, title: str) -> Figure:
    """Draw the speakers of each panel side by side, and beside them how many are how high."""
    speakers = len(agreement.speakers)
    figure = new_figure(11, 10)
    grid = figure.subplots(len(MEASURES), 2, width_ratios=[5, 1], sharey="row")
    places = np.arange(1, speakers + 1)
    bands = min(speakers, _MOST_BANDS)
    label = _BAND_LABEL
    if bands < speakers:
        # Of every speaker, they would be a thicket.
        label += f", ends averaged over {round(speakers / bands)} neighbours"
    for (axes, beside), (name, found) in zip(grid, agreement.measures.items(), strict=True):
        order = np.argsort(-found.values, kind="stable")
        low, high = (
            np.array([of[group].mean() for group in np.array_split(order, bands)])
            for of in (found.shuffled_low, found.shuffled_high)
        )
        edges = np.linspace(0.5, speakers + 0.5, bands + 1)
        axes.stairs(high, edges, baseline=low, fill=True, color=BAND, label=label)
        dots = {"linestyle": "none", "marker": "o", "color": WAR_COLOUR}
        dots["markersize"] = float(np.clip(600 / speakers, 1.5, 5))
        axes.plot(places, found.values[order], label="measured", **dots)
        for each in (axes, beside):
            each.axhline(found.mean, color=UAR_COLOUR, linewidth=1.6, label="mean of the measured")
            line = {"color": PALE, "linewidth": 1.4, "linestyle": "--", "zorder": 3}
            each.axhline(found.mean_shuffled, label=_MIDDLE_LABEL, **line)
        axes.set_ylim(_limits(low, high, found.values))
        axes.set_xlim(0, speakers + 1)
        axes.set_xlabel("speakers, from the highest to the lowest", color=INK)
        bars = {"bins": min(40, round(3 * speakers**0.4)), "orientation": "horizontal"}
        beside.hist(found.values, color=WAR_COLOUR, alpha=0.75, **bars)
        beside.set_xlabel("how many speakers", color=INK)
        beside.locator_params(axis="x", integer=True, nbins=4)
        clear = int((found.p < ALPHA).sum())
        _name_panel(axes, name, found, f"; p < {ALPHA:g} for {clear} of {speakers} speakers")
        for each in (axes, beside):
            tidy(each)
    _finish(figure, grid[0, 0], title)
    return figure


def _limits(*values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Give the ends of an axis with a little room, which filled areas have not by themselves."""
    everything = np.concatenate(values)
    room = 0.04 * (np.ptp(everything) or 1.0)
    return everything.min() - room, everything.max() + room


def _name_panel(axes: Axes, name: str, found: MeasuredAgreement, more: str = "") -> None:
    figures = f"mean {number_text(found.mean)}, shuffled {number_text(found.mean_shuffled)}"
    figures += f", p = {p_text(found.mean_p)}"
    axes.set_title(f"{_NAMES[name]}\n{figures}{more}", color=INK, fontsize=10)


def _finish(figure: Figure, axes: Axes, title: str) -> None:
    """Give a figure its title and legend, everything once."""
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold", parse_math=False)
    named = sorted(zip(*axes.get_legend_handles_labels()[::-1], strict=True), key=lambda of: of[0])
    place = {"loc": "outside lower center", "ncols": len(named)}
    labels, handles = zip(*named, strict=True)
    figure.legend(handles, labels, frameon=False, labelcolor=INK, fontsize=9, **place)


def _draw_speaker(axes: Axes, table: SpeakerTable, colours: dict[str, str]) -> None:
    """Draw a speaker's clusters as bars that divide over the labels."""
    labels = list(colours)
    counts = np.zeros((len(table.counts), len(labels)))
    for label, of in zip(table.labels, table.counts.T, strict=True):
        counts[:, labels.index(label if label in colours else _OTHERS)] += of
    # Clusters of the same commonest label side by side.
    order = np.lexsort((-counts.sum(axis=1), counts.argmax(axis=1)))
    counts = np.concatenate([counts.sum(axis=0, keepdims=True), counts[order]])
    widths = counts.sum(axis=1) / counts[0].sum()
    widths[0] = 0.1
    # Of the width of all clusters.
    gaps = np.array([0.0, 0.08, *[0.012] * (len(widths) - 2)])
    lefts = np.cumsum(gaps) + np.cumsum([0.0, *widths[:-1]])
    shares = counts / counts.sum(axis=1, keepdims=True)
    bottom = np.zeros(len(counts))
    for share, colour in zip(shares.T, colours.values(), strict=True):
        bars = {"align": "edge", "color": colour, "edgecolor": "white", "linewidth": 0.4}
        axes.bar(lefts, share, widths, bottom, **bars)
        bottom += share
    axes.set_ylim(0, 1)
    axes.set_xlim(0, lefts[-1] + widths[-1])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _label_colours(agreement: ClusterAgreement) -> dict[str, str]:
    """Give labels their colours, in the order of the alphabet; the rarest may share one."""
    totals: Counter[str] = Counter()
    for table in agreement.tables:
        totals.update(dict(zip(table.labels, table.counts.sum(axis=0).tolist(), strict=True)))
    if len(totals) <= len(_LABEL_COLOURS):
        return dict(zip(sorted(totals), _LABEL_COLOURS, strict=False))
    commonest = sorted(name for name, _ in totals.most_common(len(_LABEL_COLOURS) - 1))
    return dict(zip(commonest, _LABEL_COLOURS, strict=False)) | {_OTHERS: _OTHERS_COLOUR}


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
