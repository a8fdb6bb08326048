r"""A comparison as Markdown to read, as CSV to compute with, and as LaTeX (booktabs) to print.

All numbers are in percent, differences in points of percent. A cell that lacks a fold is a
dash, and how many folds there are stands beside it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

from gemoclap_sb.evaluation.comparison import SCORES, Comparison, paired_test
from gemoclap_sb.evaluation.report import markdown_table

EMPTY = "–"
TEST_NOTE = (
    "Test between objectives: the corrected resampled t-test of Nadeau and Bengio (Machine "
    "Learning 52, 2003), two-sided, on the difference of each fold, averaged over seeds. A plain "
    "paired t-test takes the folds for independent. Any two share most of their training "
    "utterances, so it takes the variance of the mean for too small and finds differences where "
    "there are none. This one widens it from 1/n to 1/n + n_test/n_train times the variance of "
    "the differences. It assumes differences that are about normal and correlated by "
    "n_test/(n_test + n_train) between any two folds, which a few folds cannot show: take p for "
    "a guide. p is of one test alone, not corrected for their number. Where fewer than two folds "
    "are there for both objectives with every seed, there is no test; where all differences are "
    "equal, no interval and no p."
)
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "†": r"$^\dagger$",
    "–": "--",
}


def comparison_markdown(comparison: Comparison, title: str, picture: str | None = None) -> str:
    r"""Write a comparison as Markdown: the table, the tests, and each seed where several are.

    ``picture`` is a path relative to the text.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> folds = [FoldScore(0.7, 0.6, 10, 40), FoldScore(0.8, 0.7, 10, 40)]
    >>> cells = [Cell("emo", "wavlm", {1: folds}), Cell("sl", "wavlm", {1: [folds[0], None]})]
    >>> print("\n".join(comparison_markdown(Comparison(cells), "Demo").splitlines()[2:6]))
    | objective | encoder | folds | WAR | UAR |
    |:--|--:|--:|--:|--:|
    | emo | wavlm | 2 of 2 | 75.00 ± 7.07 | 65.00 ± 7.07 |
    | sl | wavlm | 1 of 2 | – | – |
    """
    lines = [f"# {title}", "", *markdown_table(*_cells(comparison)), "", _caption(comparison)]
    if comparison.notes:
        lines += ["", *(f"- {note}" for note in comparison.notes)]
    if picture:
        lines += ["", f"![WAR and UAR by encoder and objective]({picture})"]
    heading, rows = _tests(comparison)
    if rows:
        lines += ["", "## Between objectives", "", *markdown_table(heading, rows), "", TEST_NOTE]
    if len(comparison.seeds) > 1:
        lines += ["", "## Each seed", "", *markdown_table(*_each_seed(comparison)), ""]
        lines += ["Mean ± standard deviation over the folds of a seed (ddof = 1), in %."]
    return "\n".join(lines) + "\n"


def comparison_csv(comparison: Comparison) -> str:
    """Write a comparison as CSV, a row for each objective and encoder; empty where missing.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cell = Cell("emo", "wavlm", {1: [FoldScore(0.75, 0.5, 10, 40)]})
    >>> print(comparison_csv(Comparison([cell])).splitlines()[1])
    emo,wavlm,1,1,folds,75.0000,,,,50.0000,,,
    """
    text = StringIO()
    heading = ["objective", "encoder", "folds_finished", "folds_expected", "std_over"]
    for name in SCORES:
        heading += [f"{name}_percent", f"{name}_std_percent"]
        heading += [f"paper_{name}_percent", f"{name}_difference_points"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    for cell in comparison.cells:
        row = [
            cell.objective,
            cell.encoder,
            cell.finished,
            cell.expected,
            comparison.deviation_over,
        ]
        for name in SCORES:
            mean, std = cell.mean_and_std(name) or (None, None)
            published = comparison.published_score(cell, name)
            values = (mean, std, published, _minus(mean, published))
            row += ["" if value is None else f"{100 * value:.4f}" for value in values]
        writer.writerow(row)
    return text.getvalue()


def comparison_latex(comparison: Comparison, title: str, label: str) -> str:
    r"""Write a comparison as LaTeX tables for ``\input``; they need the package booktabs.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cell = Cell("emo", "my_encoder", {1: [FoldScore(0.75, 0.5, 10, 40)]})
    >>> text = comparison_latex(Comparison([cell]), "Demo", "demo")
    >>> print(text.splitlines()[11])
    my\_encoder & 1 of 1 & 75.00 & 50.00 \\
    """
    caption = " ".join([f"{title}.", _caption(comparison), *comparison.notes])
    lines = ["% \\usepackage{booktabs}", *_latex_table(*_cells(comparison), caption, label)]
    heading, rows = _tests(comparison)
    if rows:
        lines += ["", *_latex_table(heading, rows, TEST_NOTE, f"{label}_tests")]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    r"""Escape what LaTeX takes for commands, and spell out the signs of these tables.

    Examples
    --------
    >>> print(escape_latex("79.1 ± 0.4 % of sl_wavlm"))
    79.1 $\pm$ 0.4 \% of sl\_wavlm
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], caption: str, label: str
) -> list[str]:
    """Lay out one table over the whole page; the first column becomes lines above its rows."""
    # The footnote's size, so that it fits the text of a plain article.
    lines = [r"\begin{table*}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape_latex(caption)}}}", rf"\label{{tab:{label}}}", r"\smallskip"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heading) - 2)}}}", r"\toprule"]
    lines += [_latex_row(heading[1:]), r"\midrule"]
    group = None
    for row in rows:
        if row[0] != group:
            lines += [] if group is None else [r"\addlinespace"]
            group = row[0]
            name = rf"\emph{{{escape_latex(group)}}}"
            lines.append(rf"\multicolumn{{{len(heading) - 1}}}{{l}}{{{name}}} \\")
        lines.append(_latex_row(row[1:]))
    return [*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the cells, ours beside the paper's."""
    heading = ["objective", "encoder", "folds"]
    for name in SCORES:
        heading.append(name.upper())
        if comparison.published:
            heading += ["paper†", "difference"]
    rows = []
    for cell in comparison.cells:
        row = [comparison.names.get(name, name) for name in (cell.objective, cell.encoder)]
        row.append(f"{cell.finished} of {cell.expected}")
        for name in SCORES:
            found = cell.mean_and_std(name)
            row.append(_spread(found))
            if comparison.published:
                published = comparison.published_score(cell, name)
                row.append(EMPTY if published is None else f"{100 * published:.2f}")
                row.append(_signed(_minus(found and found[0], published)))
        rows.append(row)
    return heading, rows


def _tests(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the tests between the objectives of each encoder."""
    rows = []
    for cell, other in comparison.pairs():
        encoder, *objectives = (
            comparison.names.get(name, name)
            for name in (cell.encoder, cell.objective, other.objective)
        )
        for name in SCORES:
            test = paired_test(cell, other, name)
            row = [encoder, " − ".join(objectives), name.upper()]
            row += [f"{test.pairs} of {comparison.number_of_folds}", _signed(test.difference)]
            rows.append(row + [_interval(test.interval), _p(test.p)])
    return ["encoder", "objectives", "metric", "folds", "difference", "95 % interval", "p"], rows


def _each_seed(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the cells, each seed by itself."""
    rows = []
    for cell in comparison.cells:
        for seed in cell.scores:
            own = cell.of_seed(seed)
            row = [comparison.names.get(name, name) for name in (cell.objective, cell.encoder)]
            row += [str(seed), f"{own.finished} of {own.expected}"]
            rows.append(row + [_spread(own.mean_and_std(name)) for name in SCORES])
    return ["objective", "encoder", "seed", "folds", "WAR", "UAR"], rows


def _caption(comparison: Comparison) -> str:
    """Say what the numbers of the cells are."""
    seeds, folds = comparison.seeds, comparison.number_of_folds
    if len(seeds) == 1:
        over = f"over the {folds} folds of seed {seeds[0]}"
    else:
        over = f"over the means of the seeds {', '.join(map(str, seeds))}, each over {folds} folds"
    text = (
        f"WAR (accuracy) and UAR (mean of the per-class recalls) in %, mean ± standard deviation "
        f"{over} (ddof = 1). A dash: not all folds are there; their number says how many are."
    )
    if comparison.published:
        text += (
            f" † The paper's figures, as printed in {comparison.published.source}; not measured "
            "here. Difference: ours minus the paper's, in points."
        )
    return text


def _interval(interval: tuple[float, float] | None) -> str:
    """Give an interval in points, or a dash."""
    return EMPTY if interval is None else f"[{_signed(interval[0])}, {_signed(interval[1])}]"


def _p(p: float | None) -> str:
    """Give a p value, or a dash."""
    return EMPTY if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spread(mean_and_std: tuple[float, float | None] | None) -> str:
    """Give mean and deviation in percent without the sign, or a dash."""
    if mean_and_std is None:
        return EMPTY
    return " ± ".join(f"{100 * value:.2f}" for value in mean_and_std if value is not None)


def _signed(difference: float | None) -> str:
    """Give a difference in points with its sign, or a dash."""
    return EMPTY if difference is None else f"{100 * difference:+.2f}".replace("-", "−")


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
