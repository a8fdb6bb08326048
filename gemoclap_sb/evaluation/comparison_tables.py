r"""A comparison as Markdown to read, as CSV to compute with, and as LaTeX (booktabs) to print.

All numbers are in percent, differences in points of percent. A cell that lacks a fold is a
dash, and how many folds there are stands beside it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from gemoclap_sb.evaluation.comparison import (
    SCORES,
    Comparison,
    PairedTest,
    difference_from_first,
    paired_test,
)
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
_GROUPS_CAPTION = (
    "WAR (accuracy) and UAR (mean of the per-class recalls) in %, mean ± standard deviation over "
    "the means of a row's seeds, or over its folds where it has one seed (ddof = 1). A dash: not "
    "all folds are there; their number says how many are. UAR on validation: of the checkpoint "
    "that was tested, each utterance heard once, to choose settings by; WAR and UAR: of the test. "
    "Difference: a row's UAR minus that of the first row of its group, in points, where both have "
    "all folds. A run that stands in several groups is the same run, over the seeds of each. "
    "Seconds: mean of the finished folds."
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


def groups_markdown(
    groups: Mapping[str, Comparison], title: str, picture: str | None = None
) -> str:
    r"""Write comparisons of few rows as one table, each row against the first of its group.

    A group's comparison has one encoder, and its objectives are the rows. ``picture`` is a path
    relative to the text.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cells = [Cell(row, "target", {1: [FoldScore(0.7, 0.6, 10, 40)]}) for row in "ab"]
    >>> text = groups_markdown({"target": Comparison(cells)}, "Demo")
    >>> print("\n".join(text.splitlines()[4:6]))
    | target | a | 1 | 1 of 1 | – | 70.00 | 60.00 |  |  |  | – |
    | target | b | 1 | 1 of 1 | – | 70.00 | 60.00 | – | – | – | – |
    """
    heading = ["group", "row", "seeds", "folds", "UAR on validation", "WAR", "UAR"]
    heading += ["difference in UAR", "95 % interval", "p", "seconds a fold"]
    rows = []
    for group, comparison in groups.items():
        for cell in comparison.cells:
            first = cell is comparison.cells[0]
            row = [group, comparison.names.get(cell.objective, cell.objective)]
            row += [", ".join(map(str, cell.scores)), f"{cell.finished} of {cell.expected}"]
            row += [_spread(cell.mean_and_std(name)) for name in ("valid_uar", *SCORES)]
            test = difference_from_first(comparison, cell, "uar") or PairedTest(0)
            compared = [_signed(test.difference), _interval(test.interval), _p(test.p)]
            row += ["", "", ""] if first else compared
            seconds = cell.mean_seconds
            rows.append([*row, EMPTY if seconds is None else f"{seconds:.0f}"])
    lines = [f"# {title}", "", *markdown_table(heading, rows), "", _GROUPS_CAPTION]
    if notes := dict.fromkeys(note for group in groups.values() for note in group.notes):
        lines += ["", *(f"- {note}" for note in notes)]
    if picture:
        lines += ["", f"![UAR of each row]({picture})"]
    return "\n".join([*lines, "", TEST_NOTE.replace("objectives", "rows")]) + "\n"


def groups_csv(groups: Mapping[str, Comparison]) -> str:
    """Write comparisons as one CSV, a line for each row of each group; empty where missing.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.comparison import Cell, FoldScore
    >>> cell = Cell("softmax", "target", {1: [FoldScore(0.75, 0.5, 10, 40, seconds=3.0)]})
    >>> print(groups_csv({"target": Comparison([cell])}).splitlines()[1])
    target,softmax,1,1,1,folds,,,75.0000,,50.0000,,,,,,3.0
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heading = ["group", "row", "seeds", "folds_finished", "folds_expected", "std_over"]
    scores = ("valid_uar", *SCORES)
    heading += [f"{name}_{of}" for name in scores for of in ("percent", "std_percent")]
    heading += ["uar_difference_points", "interval_low_points", "interval_high_points", "p"]
    writer.writerow([*heading, "seconds_a_fold"])
    for group, comparison in groups.items():
        for cell in comparison.cells:
            test = difference_from_first(comparison, cell, "uar") or PairedTest(0)
            values = [v for name in scores for v in cell.mean_and_std(name) or (None, None)]
            values += [test.difference, *(test.interval or (None, None))]
            seconds = cell.mean_seconds
            writer.writerow(
                [group, cell.objective, " ".join(map(str, cell.scores))]
                + [cell.finished, cell.expected, comparison.deviation_over]
                + ["" if value is None else f"{100 * value:.4f}" for value in values]
                + ["" if test.p is None else f"{test.p:.4g}"]
                + ["" if seconds is None else f"{seconds:.1f}"]
            )
    return text.getvalue()


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
