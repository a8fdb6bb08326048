"""The picture of a table against what is inside the PNG."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from gemoclap_sb.evaluation import comparison_figure
from gemoclap_sb.evaluation.comparison import Cell, Comparison, FoldScore, Published
from gemoclap_sb.evaluation.comparison_figure import STYLES, draw_comparison, draw_groups
from gemoclap_sb.evaluation.figures import UAR_COLOUR
from tests.evaluation.drawn import Drawings

PAPER = Published("A paper", {("emo", "wavlm"): (79.0, 81.0), ("sl", "wavlm"): (80.0, 82.0)})


def inked(path, colour):
    """How many pixels have a colour."""
    image = matplotlib.image.imread(path)[..., :3]
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(image - rgb).max(axis=2) < 0.02).sum())


def comparison(last, published=PAPER):
    folds = [FoldScore(0.7, 0.6, 20, 80), FoldScore(0.8, 0.7, 20, 80)]
    cells = [Cell("emo", "wavlm", {1: folds}), Cell("sl", "wavlm", {1: [folds[0], last]})]
    return Comparison(cells, published)


def test_a_cell_that_lacks_a_fold_leaves_its_place_empty(tmp_path):
    whole = draw_comparison(comparison(FoldScore(0.8, 0.7, 20, 80)), tmp_path / "whole.png")
    partial = draw_comparison(comparison(None), tmp_path / "partial.png")
    (_, emo), (_, sl), *_ = STYLES
    # A filled mark has some 150 pixels: in the legend, and in both panels where it is whole.
    assert inked(whole, sl) - inked(partial, sl) > 200
    assert inked(partial, sl) > 100
    assert abs(inked(whole, emo) - inked(partial, emo)) < 20


def test_the_papers_figures_are_there_before_ours(tmp_path):
    cells = [Cell(name, "wavlm", {1: [None]}) for name in ("emo", "sl")]
    with_paper = draw_comparison(Comparison(cells, PAPER), tmp_path / "paper.png")
    # The same legend, and nothing else.
    nothing = Comparison(cells, Published("A paper", {}))
    without = draw_comparison(nothing, tmp_path / "nothing.png")
    for _, colour in STYLES[:2]:
        assert inked(with_paper, colour) > inked(without, colour) + 50


def group(title, seeds, **uars):
    """A group whose rows have one UAR with every seed, None for a row that lacks its folds."""
    cells = [
        Cell(row, title, {seed: [uar and FoldScore(0.5, uar, 20, 80)] * 2 for seed in seeds})
        for row, uar in uars.items()
    ]
    return Comparison(cells)


def test_groups_are_dots_where_their_rows_are(tmp_path, monkeypatch):
    groups = {
        "objective": group("objective", (1, 2, 3), first=0.6, another_rather_long_name=0.7),
        "target": group("target", (1, 2), normalized=0.65, softmax=None, last=0.6),
        "alpha_e": group("alpha_e", (1,), **{f"0.{i}": 0.6 + i / 100 for i in range(9)}),
    }
    whole = draw_groups(
        {**groups, "target": group("target", (1, 2), a=0.65, b=0.6, c=0.6)}, tmp_path / "w", "T"
    )
    partial = draw_groups(groups, tmp_path / "p", "T")
    # A dot has some 150 pixels.
    assert 80 < inked(whole, UAR_COLOUR) - inked(partial, UAR_COLOUR) < 300

    drawings = Drawings(monkeypatch, comparison_figure)
    draw_groups(groups, "somewhere.png", "Objectives and their settings on a corpus")
    assert drawings.overlapping() == [] and drawings.outside() == []
    [axes] = drawings.figure.axes
    rows = {label.get_text(): label for label in axes.get_yticklabels()}
    assert rows["objective (seeds 1, 2, 3)"].get_fontweight() == "bold"
    assert rows["alpha_e (seed 1)"].get_fontweight() == "bold"
    places = dict(zip(rows, axes.get_yticks(), strict=True))
    dots = {y[0]: x[0] for x, y in (of[0].get_data() for of in axes.containers)}
    assert dots[places["another_rather_long_name"]] == pytest.approx(70)
    assert places["softmax"] not in dots and len(dots) == 13
    assert "over seeds or folds" in axes.get_title()


def test_groups_of_which_nothing_can_be_compared_are_left_out(monkeypatch):
    drawings = Drawings(monkeypatch, comparison_figure)
    groups = {
        "objective": group("objective", (1,), one=0.6, other=None),
        "target": group("target", (1,), normalized=0.65, softmax=0.6),
    }
    draw_groups(groups, "somewhere.png", "T")
    rows = [label.get_text() for label in drawings.figure.axes[0].get_yticklabels()]
    assert rows == ["target (seed 1)", "normalized", "softmax"]


def test_groups_without_any_result_are_drawn_too(monkeypatch):
    drawings = Drawings(monkeypatch, comparison_figure)
    draw_groups({"target": group("target", (1,), a=None, b=None)}, "somewhere.png", "T")
    assert drawings.overlapping() == [] and drawings.outside() == []
    assert drawings.figure.axes[0].containers == []
