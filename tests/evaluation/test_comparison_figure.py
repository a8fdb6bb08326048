"""The picture of a table against what is inside the PNG."""

from __future__ import annotations

import matplotlib.image
import numpy as np

from gemoclap_sb.evaluation.comparison import Cell, Comparison, FoldScore, Published
from gemoclap_sb.evaluation.comparison_figure import STYLES, draw_comparison

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
