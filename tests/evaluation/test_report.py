"""Tables against hand-computed figures."""

import json
import statistics

import numpy as np
import pytest

from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.evaluation.report import (
    VALIDATION_NOTES,
    cross_validation_report,
    cross_validation_summary,
    metrics_table,
)

LABELS = ["ang", "sad"]


def fold_of(number, confusion, **more):
    return {"fold": number, "labels": LABELS, "confusion": confusion, **more}


# WAR 5/6, 3/6, 7/8; UAR 7/8, 1/2, 5/6.
FOLDS = [
    fold_of(3, [[5, 0], [1, 2]], seconds=3.0, seed=7),
    fold_of(1, [[3, 1], [0, 2]], seconds=1.5, seed=7),
    fold_of(2, [[2, 2], [1, 1]], seconds=2.0, seed=7),
]


@pytest.fixture
def summary():
    return cross_validation_summary(FOLDS)


def test_metrics_table_is_aligned_and_in_percent():
    metrics = classification_metrics([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], ["ang", "frustrated"])
    lines = metrics_table(metrics).splitlines()
    assert "80.00 %" in lines[0] and "4 of 5" in lines[0] and lines[0].startswith("WAR")
    assert "83.33 %" in lines[1] and lines[1].startswith("UAR")
    assert lines[-1].split() == ["frustrated", "100.00", "%", "(2", "of", "2)"]
    assert len({line.index("%") for line in lines if "%" in line}) == 1


def test_metrics_table_shows_a_dash_for_an_absent_class():
    with pytest.warns(UserWarning, match="sad"):
        metrics = classification_metrics([0, 0], [0, 0], LABELS)
    lines = metrics_table(metrics).splitlines()
    assert lines[-1].split() == ["sad", "–", "(0", "of", "0)"]
    assert "mean over 1 class)" in lines[1]


def test_summary_is_hand_computed(summary):
    war, uar = [5 / 6, 3 / 6, 7 / 8], [7 / 8, 1 / 2, 5 / 6]
    assert [fold["fold"] for fold in summary["folds"]] == [1, 2, 3]
    assert [fold["war"] for fold in summary["folds"]] == pytest.approx(war)
    assert [fold["uar"] for fold in summary["folds"]] == pytest.approx(uar)
    assert summary["mean"] == pytest.approx({"war": sum(war) / 3, "uar": sum(uar) / 3})
    assert summary["std"] == pytest.approx(
        {"war": float(np.std(war, ddof=1)), "uar": float(np.std(uar, ddof=1))}
    )
    assert summary["std_ddof"] == 1
    assert summary["pooled"]["confusion"] == [[10, 3], [2, 5]]
    assert summary["pooled"]["war"] == pytest.approx(15 / 20)
    assert summary["pooled"]["uar"] == pytest.approx((10 / 13 + 5 / 7) / 2)
    assert summary["labels"] == LABELS
    assert all(fold["seed"] == 7 for fold in summary["folds"])


def test_summary_is_json_with_fractions_only(summary):
    text = json.dumps(summary, allow_nan=False)
    assert "%" not in text
    assert json.loads(text) == summary


def test_one_fold_has_no_standard_deviation():
    summary = cross_validation_summary(FOLDS[:1])
    assert summary["std"] == {"war": None, "uar": None}
    assert "±" not in cross_validation_report(summary, "t").split("mean ± std of 1")[1]


def test_summary_recomputes_figures_from_the_counts():
    edited = {**FOLDS[0], "uar": 0.99, "war": 0.99}
    assert cross_validation_summary([edited])["folds"][0]["uar"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("folds", "options", "message"),
    [
        ([], {}, "at least one fold"),
        ([FOLDS[0], FOLDS[0]], {}, "its own 'fold'; found \\[3, 3\\]"),
        ([{k: v for k, v in FOLDS[0].items() if k != "fold"}], {}, "found \\[None\\]"),
        ([FOLDS[0], {**FOLDS[1], "labels": ["sad", "ang"]}], {}, "different labels"),
        (
            FOLDS,
            {"validation": "dev"},
            "one of random, session, speaker, development, untested, test; found 'dev'",
        ),
    ],
)
def test_summary_refuses(folds, options, message):
    with pytest.raises(ValueError, match=message):
        cross_validation_summary(folds, **options)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_report_tables(summary):
    report = cross_validation_report(
        summary, "Demo", ["two cores"], command="python x.py", picture="cv.png"
    )
    lines = report.splitlines()
    assert lines[0] == "# Demo"
    assert cells(lines[2]) == ["fold", "WAR", "UAR", "n_test", "seconds"]
    assert cells(lines[4]) == ["1", "83.33 %", "87.50 %", "6", "1.5"]
    war = [5 / 6, 3 / 6, 7 / 8]
    spread = f"{100 * statistics.mean(war):.2f} ± {100 * statistics.stdev(war):.2f} %"
    assert cells(lines[7])[:2] == ["**mean ± std of 3**", spread]
    assert cells(lines[8]) == ["**pooled**", "75.00 %", "74.18 %", "20", "6.5"]
    assert "| ang | 13 | 76.92 % | 75.00 % | 50.00 % | 100.00 % |" in lines
    assert "| ang | **10** | 3 |" in lines and "| sad | 2 | **5** |" in lines
    assert "- two cores" in lines and "python x.py" in lines
    assert report.endswith("(cv.png)\n")
    # Every row of a table has as many cells as its head, or Markdown drops the table.
    for before, line in zip(lines, lines[1:], strict=False):
        if before.startswith("|") and line.startswith("|"):
            assert len(cells(before)) == len(cells(line))


def test_report_without_seconds_has_no_such_column():
    summary = cross_validation_summary([fold_of(1, [[1, 0], [0, 1]])])
    assert "seconds" not in cross_validation_report(summary, "t")


def test_report_says_in_words_that_the_test_session_validated():
    def text(validation):
        return cross_validation_report(cross_validation_summary(FOLDS, validation), "t")

    assert "are by the test side itself" in text("test")
    assert "optimistic" in text("test")
    for validation in ("random", "session", "speaker"):
        assert VALIDATION_NOTES[validation] in text(validation)
        assert "optimistic" not in text(validation)
