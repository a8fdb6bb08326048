"""Tables and summary of agreement: the figures that were found, each where it belongs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gemoclap_sb.evaluation.cluster_agreement import MEASURES, cluster_agreement
from gemoclap_sb.evaluation.cluster_agreement_report import (
    agreement_markdown,
    agreement_rows,
    agreement_summary,
    number_text,
    p_text,
)


def made(speakers: int):
    """Speakers of 24 utterances, each with other clusters, and two that say nothing."""
    generator = np.random.default_rng(1)
    names = np.repeat([f"s{i:02d}" for i in range(speakers)], 24)
    labels = generator.choice(["ang", "hap", "neu"], len(names))
    clusters = np.where(generator.random(len(names)) < 0.5, labels == "ang", labels == "neu")
    more = ["x", "x", "y", "y"]
    return cluster_agreement(
        [*names, *more], [*clusters, 0, 1, 3, 3], [*labels, "", "hap", "ang", "sad"], shuffles=99
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_summary():
    found = made(12)
    summary = json.loads(json.dumps(agreement_summary(found), allow_nan=False))
    assert (summary["speakers"], summary["utterances"]) == (12, 12 * 24)
    assert summary["utterances_without_label"] == 1
    assert summary["left_out"] == {"one label": ["x"], "one cluster": ["y"]}
    assert (summary["shuffles"], summary["seed"], summary["level"]) == (99, 1, 0.95)
    for name, measure in found.measures.items():
        of = summary["measures"][name]
        assert of["mean"] == measure.values.mean()
        assert of["interval"][0] < of["mean"] < of["interval"][1]
        assert of["shuffled_interval"][0] < of["shuffled"] < of["shuffled_interval"][1]
        assert of["p"] == measure.mean_p
        assert of["speakers_with_p_below_alpha"] == sum(p < 0.05 for p in measure.p)
        ends = [of["quantiles"][share] for share in ("0", "0.5", "1")]
        assert ends == [measure.values.min(), np.median(measure.values), measure.values.max()]


def test_rows_are_of_each_speaker():
    found = made(12)
    rows = list(agreement_rows(found))
    assert [row["spk_id"] for row in rows] == [f"s{i:02d}" for i in range(12)]
    for i, row in enumerate(rows):
        assert (row["utterances"], row["clusters"], row["labels"]) == (24, 2, 3)
        for name, measure in found.measures.items():
            given = [row[name], row[f"{name}_shuffled"], row[f"{name}_p"]]
            assert given == [measure.values[i], measure.shuffled[i], measure.p[i]]
            ends = [row[f"{name}_shuffled_low"], row[f"{name}_shuffled_high"]]
            assert ends == [measure.shuffled_low[i], measure.shuffled_high[i]]


def test_table_of_few_speakers_names_each():
    found = made(30)
    lines = agreement_markdown(found, "Demo", [("The bands", "a.png")]).splitlines()
    rows = [cells(line) for line in lines if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["**mean of 30**", *found.speakers]
    for k, measure in enumerate(found.measures.values()):
        mean, shuffled, p = rows[0][4 + 3 * k : 7 + 3 * k]
        assert mean.split()[0] == number_text(measure.mean)
        assert shuffled.split()[0] == number_text(measure.mean_shuffled)
        assert p == p_text(measure.mean_p)
        for i, row in enumerate(rows[1:]):
            assert row[4 + 3 * k] == number_text(measure.values[i])
            assert row[6 + 3 * k] == p_text(measure.p[i])
    assert "- Left out: 1 utterances without a label." in lines
    assert "- Left out: 1 speakers with one label: x." in lines
    assert lines[-1] == "![The bands](a.png)"


def test_table_of_many_speakers_has_quantiles():
    found = made(31)
    lines = agreement_markdown(found, "Demo").splitlines()
    rows = {(row := cells(line))[0]: row[1:] for line in lines if line.startswith("|")}
    assert list(rows)[2:] == [
        "**mean of 31**", "highest", "95 %", "75 %", "median", "25 %", "5 %", "lowest",
    ]  # fmt: skip
    for k, name in enumerate(MEASURES):
        values = found.measures[name].values
        assert rows["highest"][3 + 3 * k] == number_text(values.max())
        assert rows["median"][3 + 3 * k] == number_text(np.median(values))
        assert rows["lowest"][3 + 3 * k] == number_text(values.min())
    assert any("agreement.csv has every speaker" in line for line in lines)


def test_many_left_out_are_counted_and_some_named():
    speakers = [f"s{i:02d}" for i in range(13)] + ["t"] * 2
    found = cluster_agreement(speakers, [0] * 13 + [0, 1], ["a"] * 13 + ["a", "b"], shuffles=1)
    text = agreement_markdown(found, "Demo")
    assert "13 speakers with one label: s00, s01" in text
    assert "s09 and 3 more." in text and "s10" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0002, "0.000"), (0.25, "0.250"), (-0.0625, "-0.062"), (1.0, "1.000")]
)
def test_numbers_have_no_minus_before_zero(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(("p", "text"), [(1 / 1001, "0.001"), (0.25, "0.250"), (1e-5, "1e-05")])
def test_p_is_never_zero(p, text):
    assert p_text(p) == text
