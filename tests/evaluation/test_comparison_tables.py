"""Tables of constructed cells, read back by other readers."""

from __future__ import annotations

import io
import math
import re

import pandas
import pytest

from gemoclap_sb.evaluation.comparison import Cell, Comparison, FoldScore, Published
from gemoclap_sb.evaluation.comparison_tables import (
    TEST_NOTE,
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    escape_latex,
    groups_csv,
    groups_markdown,
)

NAMES = {"emo": "Emo-CLAP", "sl": "SL-GEmo-CLAP", "my_encoder": "Mine & 100 %"}
PAPER = Published("Table 1 of a paper", {("emo", "wavlm"): (79.28, 81.12)})


def folds(*wars, notes=()):
    return [war and FoldScore(war, war - 0.1, 20, 80, notes) for war in wars]


@pytest.fixture
def one_seed():
    """A complete cell, a partial one, a missing one, and one without a published figure."""
    cells = [
        Cell("emo", "wavlm", {3: folds(0.7, 0.8, notes=("5 % of {a_corpus}",))}),
        Cell("emo", "my_encoder", {3: folds(None, None)}),
        Cell("sl", "wavlm", {3: folds(0.75, None)}),
        Cell("sl", "my_encoder", {3: folds(0.6, 0.6)}),
    ]
    return Comparison(cells, PAPER, NAMES)


@pytest.fixture
def two_seeds():
    cells = [
        Cell("emo", "wavlm", {1: folds(0.70, 0.80), 2: folds(0.74, 0.84)}),
        Cell("sl", "wavlm", {1: folds(0.76, 0.82), 2: folds(0.78, None)}),
        Cell("ml", "wavlm", {1: folds(0.60, 0.80), 2: folds(0.62, 0.82)}),
    ]
    return Comparison(cells, PAPER, NAMES)


def table_below(text, heading):
    """Rows of the first Markdown table after a heading, heading row first."""
    lines = text[text.index(heading) :].splitlines()[2:]
    rows = [line for line in lines[: lines.index("")] if not line.startswith("|:--")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_markdown_shows_ours_beside_the_papers_and_what_is_missing(one_seed):
    text = comparison_markdown(one_seed, "Title", picture="table.png")
    rows = table_below(text, "# Title")
    assert rows[0][3:6] == ["WAR", "paper†", "difference"]
    assert rows[1] == [
        "Emo-CLAP", "wavlm", "2 of 2",
        "75.00 ± 7.07", "79.28", "−4.28", "65.00 ± 7.07", "81.12", "−16.12",
    ]  # fmt: skip
    assert rows[2] == ["Emo-CLAP", "Mine & 100 %", "0 of 2", *"––––––"]
    assert rows[3] == ["SL-GEmo-CLAP", "wavlm", "1 of 2", *"––––––"]
    assert rows[4][2:6] == ["2 of 2", "60.00 ± 0.00", "–", "–"]
    assert "over the 2 folds of seed 3" in text
    assert "† The paper's figures, as printed in Table 1 of a paper; not measured here" in text
    assert "- 5 % of {a_corpus}" in text
    assert "](table.png)" in text
    # One seed is no more than the table itself.
    assert "Each seed" not in text


def test_markdown_of_several_seeds_has_each_of_them(two_seeds):
    text = comparison_markdown(two_seeds, "Title")
    assert table_below(text, "# Title")[1][2:4] == ["4 of 4", "77.00 ± 2.83"]
    assert "over the means of the seeds 1, 2, each over 2 folds" in text
    rows = {tuple(row[::2][:2]): row[3:] for row in table_below(text, "## Each seed")}
    assert rows["SL-GEmo-CLAP", "1"] == ["2 of 2", "79.00 ± 4.24", "69.00 ± 4.24"]
    assert rows["SL-GEmo-CLAP", "2"] == ["1 of 2", "–", "–"]


def test_tests_between_objectives(two_seeds):
    """ML minus Emo is -0.11 and -0.01; with one degree of freedom t has Cauchy's distribution."""
    error = 100 * math.sqrt((1 / 2 + 20 / 80) * 0.005)
    p = 1 - 2 / math.pi * math.atan(6 / error)
    reach = error * math.tan(0.475 * math.pi)
    rows = table_below(comparison_markdown(two_seeds, "Title"), "## Between objectives")
    by_pair = {(row[1], row[2]): row[3:] for row in rows[1:]}
    assert by_pair["ml − Emo-CLAP", "WAR"] == [
        "2 of 2", "−6.00", f"[−{reach + 6:.2f}, +{reach - 6:.2f}]", f"{p:.3f}",
    ]  # fmt: skip
    assert by_pair["SL-GEmo-CLAP − Emo-CLAP", "UAR"] == ["1 of 2", "–", "–", "–"]
    assert len(rows) == 1 + 3 * 2
    assert TEST_NOTE in comparison_markdown(two_seeds, "Title")


def test_one_objective_alone_needs_no_test_and_no_paper():
    comparison = Comparison([Cell("emo", "wavlm", {1: folds(0.7, 0.8)})])
    for text in (comparison_markdown(comparison, "T"), comparison_latex(comparison, "T", "t")):
        assert "Nadeau" not in text and "paper" not in text and "75.00" in text


def test_csv_is_tidy_and_empty_where_nothing_is(one_seed, two_seeds):
    table = pandas.read_csv(io.StringIO(comparison_csv(one_seed)))
    assert len(table) == 4
    assert list(table.objective + "_" + table.encoder) == [
        "emo_wavlm", "emo_my_encoder", "sl_wavlm", "sl_my_encoder",
    ]  # fmt: skip
    first = table.iloc[0]
    assert first.war_percent == 75.0
    assert first.war_std_percent == pytest.approx(7.0711, abs=1e-4)
    assert (first.paper_uar_percent, first.uar_difference_points) == (81.12, -16.12)
    assert table.war_percent.isna().tolist() == [False, True, True, False]
    assert table.war_difference_points.isna().tolist() == [False, True, True, True]
    assert list(table.folds_finished) == [2, 0, 1, 2]
    assert set(table.folds_expected) == {2} and set(table.std_over) == {"folds"}
    assert ",seeds,77.0000," in comparison_csv(two_seeds)


@pytest.mark.parametrize("cells", ["one_seed", "two_seeds"])
def test_latex_is_whole(cells, request):
    text = comparison_latex(request.getfixturevalue(cells), "100 % of a_title", "t")
    assert text.isascii()
    assert r"100 \% of a\_title" in text
    bare = re.sub(r"\\[{}%_&$#]|\\label\{\S*\}|\$\S*\$", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.startswith("% \\usepackage{booktabs}\n")
    assert not re.search(r"[%#~^_$]", bare[1:])
    tables = re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL)
    assert len(tables) == 2
    for columns, body in tables:
        rows = [line for line in body.splitlines() if "&" in line]
        assert {row.count("&") + 1 for row in rows} == {len(columns)}
        assert all(row.endswith(r"\\") for row in rows)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert body.count(rule) == 1
    assert text.count(r"paper$^\dagger$") == 2


def test_latex_escapes(one_seed):
    assert escape_latex("\\a~b^c {d}") == (
        r"\textbackslash{}a\textasciitilde{}b\textasciicircum{}c \{d\}"
    )
    text = comparison_latex(one_seed, "T", "t")
    assert r"Mine \& 100 \% & 0 of 2 & -- & -- & --" in text
    assert r"5 \% of \{a\_corpus\}" in text
    assert r"wavlm & 2 of 2 & 75.00 $\pm$ 7.07 & 79.28 & $-$4.28" in text


@pytest.fixture
def groups():
    """Two seeds of three rows, of which one lacks a fold, and one seed of two equal rows."""
    notes = ("Figures of somebody.",)
    target = [
        Cell("normalized", "target", {1: folds(0.70, 0.80), 2: folds(0.74, 0.84)}),
        Cell("softmax", "target", {1: folds(0.60, 0.80, notes=notes), 2: folds(0.62, 0.82)}),
        Cell("partial", "target", {1: folds(0.60, 0.80), 2: folds(0.62, None)}),
    ]
    last = [(10.0, 0.5), (30.0, 0.6)]
    same = [FoldScore(0.5, 0.4, 20, 80, notes, *seconds_and_valid) for seconds_and_valid in last]
    prompts = [Cell(row, "prompts", {3: same}) for row in ("a", "b")]
    return {"target": Comparison(target), "prompts": Comparison(prompts)}


def test_groups_have_each_row_against_the_first(groups):
    """Softmax minus normalized is -0.11 and -0.03 on the folds, averaged over the seeds."""
    text = groups_markdown(groups, "Title", picture="p.png")
    rows = {tuple(row[:2]): row[2:] for row in table_below(text, "# Title")[1:]}
    assert list(rows) == [
        ("target", "normalized"), ("target", "softmax"), ("target", "partial"),
        ("prompts", "a"), ("prompts", "b"),
    ]  # fmt: skip
    assert rows["target", "normalized"] == [
        "1, 2", "4 of 4", "–", "77.00 ± 2.83", "67.00 ± 2.83", "", "", "", "–",
    ]  # fmt: skip
    # By hand: 0.60 + 0.62 - 0.70 - 0.74 and 0.80 + 0.82 - 0.80 - 0.84, halved.
    error = 100 * math.sqrt((1 / 2 + 20 / 80) * (0.10**2) / 2)
    p = 1 - 2 / math.pi * math.atan(6 / error)
    reach = error * math.tan(0.475 * math.pi)
    assert rows["target", "softmax"][5:] == [
        "−6.00", f"[−{reach + 6:.2f}, +{reach - 6:.2f}]", f"{p:.3f}", "–",
    ]  # fmt: skip
    # A fold is missing: no figure, though one fold could be compared.
    assert rows["target", "partial"][1:] == ["3 of 4", *"–––––––"]
    assert rows["prompts", "b"] == [
        "3",
        "2 of 2",
        "55.00 ± 7.07",
        "50.00 ± 0.00",
        "40.00 ± 0.00",
        "+0.00",
        *"––",
        "20",
    ]
    assert text.count("- Figures of somebody.") == 1
    assert "![UAR of each row](p.png)" in text
    assert "Test between rows:" in text and "objectives" not in text


def test_groups_as_csv_are_empty_where_nothing_is(groups):
    table = pandas.read_csv(io.StringIO(groups_csv(groups))).set_index(["group", "row"])
    softmax, partial = table.loc["target", "softmax"], table.loc["target", "partial"]
    assert softmax.uar_difference_points == pytest.approx(-6.0)
    assert softmax.interval_low_points + softmax.interval_high_points == pytest.approx(-12.0)
    assert (softmax.war_percent, softmax.uar_percent, softmax.seeds) == (71.0, 61.0, "1 2")
    assert partial[["war_percent", "uar_percent", "uar_difference_points", "p"]].isna().all()
    assert (partial.folds_finished, partial.folds_expected) == (3, 4)
    assert table.loc["prompts", "a"].seconds_a_fold == 20.0
    assert table.loc["prompts", "a"].valid_uar_percent == 55.0
    assert math.isnan(softmax.valid_uar_percent)
    assert table.std_over.to_dict()["prompts", "a"] == "folds"
    first = table.loc["target", "normalized"]
    assert first[["uar_difference_points", "p", "seconds_a_fold"]].isna().all()
