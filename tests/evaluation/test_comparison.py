"""Cells against hand-computed figures, the test between objectives against SciPy and theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gemoclap_sb.evaluation.comparison import (
    Cell,
    Comparison,
    FoldScore,
    PairedTest,
    Published,
    corrected_t_test,
    paired_test,
)


def fold(war, uar=0.5, n_test=20, n_train=80, notes=()):
    return FoldScore(war, uar, n_test, n_train, notes)


def test_mean_and_deviation_of_one_seed_are_over_folds():
    cell = Cell("sl", "wavlm", {1: [fold(0.70, 0.1), fold(0.74, 0.3), fold(0.78, 0.8)]})
    assert cell.mean_and_std("war") == pytest.approx((0.74, 0.04))
    assert cell.mean_and_std("uar")[0] == pytest.approx(0.4)


def test_mean_and_deviation_of_several_seeds_are_over_their_means():
    # The folds are 0.2 apart, the seeds' means 0.70 and 0.76 only 0.06.
    seeds = {1: [fold(0.6), fold(0.8)], 2: [fold(0.66), fold(0.86)]}
    cell = Cell("sl", "wavlm", seeds)
    assert cell.mean_and_std("war") == pytest.approx((0.73, 0.06 / math.sqrt(2)))
    assert cell.of_seed(2).mean_and_std("war") == pytest.approx((0.76, 0.2 / math.sqrt(2)))


def test_a_cell_that_lacks_a_fold_has_no_mean():
    partial = Cell("sl", "wavlm", {1: [fold(0.6), fold(0.8)], 2: [fold(0.66), None]})
    assert (partial.finished, partial.expected) == (3, 4)
    assert partial.mean_and_std("war") is None
    assert partial.of_seed(1).mean_and_std("war")[0] == pytest.approx(0.7)
    assert Cell("sl", "wavlm", {1: [fold(0.6)]}).mean_and_std("war") == (0.6, None)


def test_published_figures_are_found_by_objective_and_encoder():
    cells = [Cell("emo", "wavlm", {1: [None]}), Cell("emo", "own", {1: [None]})]
    comparison = Comparison(cells, Published("A paper", {("emo", "wavlm"): (79.28, 81.12)}))
    assert comparison.published_score(cells[0], "war") == pytest.approx(0.7928)
    assert comparison.published_score(cells[0], "uar") == pytest.approx(0.8112)
    assert comparison.published_score(cells[1], "war") is None
    assert Comparison(cells).published_score(cells[0], "war") is None


def test_objectives_are_paired_within_an_encoder_the_later_first():
    cells = [Cell(o, e, {1: [None]}) for o in ("emo", "ml", "sl") for e in ("a", "b")]
    pairs = [(one.objective, two.objective, one.encoder) for one, two in Comparison(cells).pairs()]
    assert pairs == [
        (one, two, encoder)
        for encoder in ("a", "b")
        for one, two in (("ml", "emo"), ("sl", "emo"), ("sl", "ml"))
    ]
    assert all(one.encoder == two.encoder for one, two in Comparison(cells).pairs())


def test_notes_of_all_folds_are_given_once():
    cells = [
        Cell("emo", "a", {1: [fold(0.5, notes=("small corpus",)), None]}),
        Cell("sl", "a", {1: [fold(0.5, notes=("small corpus", "other"))] * 2}),
    ]
    assert Comparison(cells).notes == ["small corpus", "other"]


@pytest.mark.parametrize("n", [2, 5, 10])
def test_without_correction_it_is_the_paired_t_test(n):
    one, two = np.random.default_rng(n).normal(0.7, 0.05, (2, n))
    expected = stats.ttest_rel(one, two)
    found = corrected_t_test(list(one - two), test_to_train=0.0)
    assert found.pairs == n
    assert found.difference == pytest.approx((one - two).mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_corrected_test_by_hand():
    """Variance 2.5e-4, times 1/5 + 1/4; t is the root of eight, on four degrees of freedom."""
    found = corrected_t_test([0.01, 0.02, 0.03, 0.04, 0.05], test_to_train=0.25)
    assert found.difference == pytest.approx(0.03)
    # Student's distribution function for four degrees of freedom, in closed form.
    t = math.sqrt(8)
    below = 0.5 + 0.375 * t / math.sqrt(1 + t**2 / 4) * (1 - t**2 / 12 / (1 + t**2 / 4))
    assert found.p == pytest.approx(2 * (1 - below))
    reach = 2.776445 * math.sqrt(0.45 * 2.5e-4)
    assert found.interval == pytest.approx((0.03 - reach, 0.03 + reach), abs=1e-7)


def test_it_keeps_its_level_where_the_plain_test_does_not():
    """Five differences of mean zero, correlated as those of five folds are taken to be."""
    correlation = np.full((5, 5), 0.2) + 0.8 * np.eye(5)
    drawn = np.random.default_rng(0).multivariate_normal(np.zeros(5), correlation, size=2000)
    found = {
        ratio: np.mean([corrected_t_test(list(row), ratio).p < 0.05 for row in drawn])
        for ratio in (0.25, 0.0)
    }
    assert found[0.25] == pytest.approx(0.05, abs=0.015)
    assert found[0.0] > 0.1


def test_what_no_test_can_be_made_of():
    assert corrected_t_test([], 0.25) == PairedTest(0)
    assert corrected_t_test([0.1], 0.25) == PairedTest(1)
    # Three times 0.1 and their mean differ by rounding.
    found = corrected_t_test([0.3 - 0.2, 0.4 - 0.3, 0.1], 0.25)
    assert (found.difference, found.interval, found.p) == (pytest.approx(0.1), None, None)


def test_pairs_are_folds_and_seeds_are_averaged_first():
    one = Cell("sl", "a", {1: [fold(0.6), fold(0.7), fold(0.9)], 2: [fold(0.7), fold(0.8), None]})
    two = Cell("emo", "a", {1: [fold(0.5), fold(0.7), fold(0.1)], 2: [fold(0.5), fold(0.6), None]})
    found = paired_test(one, two, "war")
    assert (found.pairs, found.difference) == (2, pytest.approx(0.125))
    assert found.p == pytest.approx(corrected_t_test([0.15, 0.1], 20 / 80).p)
    assert paired_test(two, one, "war").difference == pytest.approx(-0.125)


def test_the_ratio_is_that_of_the_folds_together():
    folds = [fold(0.6, n_test=10, n_train=90), fold(0.8, n_test=30, n_train=50)]
    other = [fold(0.5, n_test=10, n_train=90), fold(0.5, n_test=30, n_train=50)]
    found = paired_test(Cell("sl", "a", {1: folds}), Cell("emo", "a", {1: other}), "war")
    assert found.p == pytest.approx(corrected_t_test([0.1, 0.3], 40 / 140).p)


def test_without_counts_of_training_utterances_there_is_no_test():
    cells = [Cell(name, "a", {1: [fold(0.6), fold(0.7, n_train=None)]}) for name in ("sl", "emo")]
    assert paired_test(*cells, "war") == PairedTest(2)


def test_folds_of_different_test_sides_are_no_pair():
    one = Cell("sl", "a", {1: [fold(0.6), fold(0.7)]})
    two = Cell("emo", "a", {1: [fold(0.6), fold(0.7, n_test=19)]})
    with pytest.raises(ValueError, match=r"fold 2 of sl_a and emo_a .* \[19, 20\] utterances"):
        paired_test(one, two, "war")
