"""Objectives side by side on the same folds: the cells of a table, and the test between them.

A cell is one objective with one encoder, over all seeds and folds. Its mean is that of its
seeds' means, and its deviation is over those; with one seed it is over the folds. A cell that
lacks a fold has neither. Numbers are fractions; `gemoclap_sb.evaluation.comparison_tables`
writes them in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
from scipy import stats

SCORES = ("war", "uar")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class FoldScore:
    """Result of one fold: fractions, and how many utterances it was tested and trained on.

    ``notes`` are what a table with it must say, ``seconds`` what it took, ``valid_uar`` what the
    tested checkpoint had on validation.
    """

    war: float
    uar: float
    n_test: int
    n_train: int | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    valid_uar: float | None = None


@dataclass(frozen=True)
class Cell:
    """One objective with one encoder: for each seed its folds in order, None where missing."""

    objective: str
    encoder: str
    scores: Mapping[int, Sequence[FoldScore | None]]

    @property
    def finished(self) -> int:
        """How many folds there are, over all seeds."""
        return sum(score is not None for folds in self.scores.values() for score in folds)

    @property
    def expected(self) -> int:
        """How many folds there should be, over all seeds."""
        return sum(len(folds) for folds in self.scores.values())

    @property
    def mean_seconds(self) -> float | None:
        """What a finished fold took on average; None if no fold says."""
        scores = [score for folds in self.scores.values() for score in folds if score]
        seconds = [score.seconds for score in scores if score.seconds is not None]
        return fmean(seconds) if seconds else None

    def of_seed(self, seed: int) -> Cell:
        """Give the cell that has this seed alone."""
        return Cell(self.objective, self.encoder, {seed: self.scores[seed]})

    def mean_and_std(self, name: str) -> tuple[float, float | None] | None:
        """Average a score of the folds; None if one lacks it, no deviation for a single value."""
        if self.finished < self.expected:
            return None
        values = [[getattr(score, name) for score in folds] for folds in self.scores.values()]
        if any(None in folds for folds in values):
            return None
        averaged = values[0] if len(values) == 1 else [fmean(folds) for folds in values]
        return fmean(averaged), stdev(averaged) if len(averaged) > 1 else None


@dataclass(frozen=True)
class Published:
    """Figures of others: where they stand, and (WAR, UAR) in percent by objective and encoder."""

    source: str
    scores: Mapping[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True)
class PairedTest:
    """Mean difference of pairs, its 95 % interval and p; None where it is not defined."""

    pairs: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The cells of a table in the order of its rows, all with the same seeds and folds.

    ``names`` are what objectives and encoders are called in print, by their own names.
    """

    cells: Sequence[Cell]
    published: Published | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def objectives(self) -> list[str]:
        """Objectives in the order of their first row."""
        return list(dict.fromkeys(cell.objective for cell in self.cells))

    @property
    def encoders(self) -> list[str]:
        """Encoders in the order of their first row."""
        return list(dict.fromkeys(cell.encoder for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """Seeds, which are those of every cell."""
        return list(self.cells[0].scores)

    @property
    def number_of_folds(self) -> int:
        """How many folds a seed has."""
        return len(self.cells[0].scores[self.seeds[0]])

    @property
    def deviation_over(self) -> str:
        """What the standard deviations are over."""
        return "seeds" if len(self.seeds) > 1 else "folds"

    @property
    def notes(self) -> list[str]:
        """What the folds' notes say, each once."""
        scores = [score for cell in self.cells for folds in cell.scores.values() for score in folds]
        return list(dict.fromkeys(note for score in scores if score for note in score.notes))

    def cell(self, objective: str, encoder: str) -> Cell:
        """Give the cell of an objective and an encoder."""
        [found] = [c for c in self.cells if (c.objective, c.encoder) == (objective, encoder)]
        return found

    def published_score(self, cell: Cell, name: str) -> float | None:
        """Give the published WAR or UAR of a cell as a fraction, if there is one."""
        scores = self.published and self.published.scores.get((cell.objective, cell.encoder))
        return scores[SCORES.index(name)] / 100 if scores else None

    def pairs(self) -> list[tuple[Cell, Cell]]:
        """Pair the objectives of each encoder, the later one first."""
        return [
            (self.cell(later, encoder), self.cell(earlier, encoder))
            for encoder in self.encoders
            for earlier, later in combinations(self.objectives, 2)
        ]


def difference_from_first(comparison: Comparison, cell: Cell, name: str) -> PairedTest | None:
    """Test a cell against the first of its comparison; None for that one, or if a fold is missing.

    ValueError as `paired_test` has it.
    """
    first = comparison.cells[0]
    if cell is first or cell.finished < cell.expected or first.finished < first.expected:
        return None
    return paired_test(cell, first, name)


def paired_test(cell: Cell, other: Cell, name: str) -> PairedTest:
    """Test whether two objectives differ in WAR or UAR, by the same folds of both.

    A fold's difference is averaged over the seeds, which are no samples of their own: they
    share the fold's test speakers. A fold is a pair where both cells have it with every seed.
    The ratio of test to training utterances is that of these folds together. ValueError if a
    fold was not tested on as many utterances in both cells, so that it is no pair.
    """
    differences, n_test, n_train = [], 0, 0
    for fold in range(len(next(iter(cell.scores.values())))):
        scores = [(cell.scores[seed][fold], other.scores[seed][fold]) for seed in cell.scores]
        if any(one is None or two is None for one, two in scores):
            continue
        counts = {score.n_test for pair in scores for score in pair}
        if len(counts) > 1:
            raise ValueError(
                f"fold {fold + 1} of {cell.objective}_{cell.encoder} and "
                f"{other.objective}_{other.encoder} was tested on {sorted(counts)} utterances: "
                "expected the same test side for all seeds and objectives. Run the folds on the "
                "same data."
            )
        differences.append(fmean(getattr(one, name) - getattr(two, name) for one, two in scores))
        for score in (score for pair in scores for score in pair):
            n_test += score.n_test
            n_train = None if None in (n_train, score.n_train) else n_train + score.n_train
    if not n_train:
        return PairedTest(len(differences))
    return corrected_t_test(differences, n_test / n_train)


def corrected_t_test(differences: Sequence[float], test_to_train: float) -> PairedTest:
    """Test whether the mean of paired differences of folds is zero, two-sided.

    The corrected resampled t-test of Nadeau and Bengio, "Inference for the generalization
    error", Machine Learning 52, 2003. The plain paired t-test takes the differences for
    independent and divides their variance by n. Folds are not: any two share most of their
    training data, so their differences move together, the variance of the mean is larger than
    that, and the plain test finds differences where there are none. Here the variance of the
    mean is (1/n + n_test/n_train) times that of the differences; t has n - 1 degrees of
    freedom.

    It assumes that the differences are about normal, and correlated alike between any two
    folds, by n_test / (n_test + n_train). That is a rule of thumb, derived for random splits
    and carried over to folds; no unbiased estimate of the variance exists for one
    cross-validation (Bengio and Grandvalet, JMLR 5, 2004). With five folds it finds large and
    steady differences only.

    Parameters
    ----------
    differences : Sequence[float]
        The difference on each fold.
    test_to_train : float
        Test utterances for each training utterance of a fold; 1 / (n - 1) where no utterance
        is held out for validation. 0 gives the plain paired t-test.

    Returns
    -------
    PairedTest
        Without interval and p where all differences are equal (their variance is no estimate),
        without anything for fewer than two.

    Examples
    --------
    >>> test = corrected_t_test([0.02, 0.03, 0.01, 0.02, 0.02], test_to_train=0.25)
    >>> print(f"{test.difference:.3f}, p = {test.p:.3f}")
    0.020, p = 0.014
    >>> low, high = test.interval
    >>> print(f"{low:.4f} to {high:.4f}")
    0.0068 to 0.0332
    """
    n = len(differences)
    if n < 2:
        return PairedTest(n)
    difference = fmean(differences)
    error = float(np.sqrt((1 / n + test_to_train) * np.var(differences, ddof=1)))
    # Equal differences leave a variance of rounding errors.
    if np.ptp(differences) < 1e-12:
        return PairedTest(n, difference)
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    p = 2 * float(stats.t.sf(abs(difference) / error, n - 1))
    return PairedTest(n, difference, (difference - reach, difference + reach), p)
