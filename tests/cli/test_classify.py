"""`gemoclap classify` against `classify_file`."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

from gemoclap_sb.cli.inputs import UsageError, find_audio
from tests.cli.printed import PROBABILITIES, answers, names, parsed
from tests.run_folders import LABELS


def test_folders_are_searched(audio, tmp_path):
    assert find_audio([audio]) == names(audio)
    assert find_audio(["none.txt", audio / "b.wav", audio]) == [
        "none.txt", str(audio / "b.wav"), names(audio)[0], names(audio)[2],
    ]  # fmt: skip
    assert find_audio([audio / ".folder"]) == [str(audio / ".folder" / "d.wav")]
    with pytest.raises(UsageError, match="expected recordings"):
        find_audio([tmp_path])


@pytest.mark.parametrize("status", [0, 2])
def test_garbage_is_collected_again_once_the_model_is_loaded(status, model, audio, command):
    source = model if status == 0 else "no/such/folder"
    assert command("classify", audio / "b.wav", "--model", source)[0] == status
    assert gc.isenabled()


def test_classify_as_csv(classifier, model, audio, command):
    status, out, _ = command("classify", audio, "--model", model, "--format", "csv")
    assert status == 0
    assert out.splitlines()[0] == ",".join(["path", "label", "score", "error", *PROBABILITIES])
    labels, probabilities = answers(classifier, names(audio))
    rows = parsed(out)
    assert [row["path"] for row in rows] == names(audio)
    assert [row["label"] for row in rows] == labels
    assert {row["error"] for row in rows} == {""}
    found = np.array([[float(row[column]) for column in PROBABILITIES] for row in rows])
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    assert [float(row["score"]) for row in rows] == found.max(axis=1).tolist()


def test_classify_goes_on_after_a_bad_file(classifier, model, audio, broken, command):
    paths = [names(audio)[0], broken, "none.wav", names(audio)[1]]
    status, out, err = command("classify", *paths, "--model", model, "--format", "json")
    assert status == 1
    records = json.loads(out)
    assert [record["path"] for record in records] == paths
    labels, probabilities = answers(classifier, [paths[0], paths[3]])
    for record, label, values in zip(records[::3], labels, probabilities, strict=True):
        assert (record["label"], record["error"]) == (label, None)
        assert list(record["probabilities"]) == LABELS
        assert list(record["probabilities"].values()) == pytest.approx(values.tolist(), abs=1e-4)
    for record, message in zip(records[1:3], ("broken.wav", "none.wav is missing"), strict=True):
        assert (record["label"], record["score"], record["probabilities"]) == (None, None, {})
        assert message in record["error"]
        assert record["error"] in err


def test_classify_as_a_table(classifier, model, audio, broken, command):
    status, out, _ = command("classify", names(audio)[1], broken, "--model", model)
    assert status == 1
    heading, row, failed = [line.split() for line in out.splitlines()]
    assert heading == ["label", *LABELS, "file"]
    labels, probabilities = answers(classifier, [names(audio)[1]])
    assert [row[0], row[-1]] == [labels[0], names(audio)[1]]
    assert [float(cell) for cell in row[1:-1]] == pytest.approx(probabilities[0], abs=6e-4)
    assert failed == ["-"] * 5 + [broken]


def test_classify_with_other_words(classifier, model, audio, command):
    status, out, _ = command(
        "classify", audio, "--model", model, "--format", "csv", "--batch-size", 2,
        "--labels", "label", "f=afraid", "sad", "--templates", "so {}", "a {} voice",
    )  # fmt: skip
    assert status == 0
    words = {"label": "label", "f": "afraid", "sad": "sad"}
    labels, probabilities = answers(
        classifier, names(audio), labels=words, templates=["so {}", "a {} voice"]
    )
    rows = parsed(out)
    assert [row["label"] for row in rows] == labels
    found = [[float(row[f"probability_{name}"]) for name in words] for row in rows]
    np.testing.assert_allclose(found, probabilities, atol=1e-4)


def test_classify_another_attribute(model, audio, command):
    status, out, _ = command(
        "classify", audio, "--model", model, "--attribute", "gender", "--format", "csv"
    )
    assert status == 0
    assert {row["label"] for row in parsed(out)} <= {"F", "M"}


def test_abstaining_says_what_was_highest(classifier, model, audio, broken, command):
    labels, probabilities = answers(classifier, names(audio))
    scores = sorted(probabilities.max(axis=1))
    least = float((scores[0] + scores[1]) / 2)
    expected = ["unsure" if row.max() < least else row.argmax() for row in probabilities]
    expected = [LABELS[i] if i != "unsure" else i for i in expected]
    assert expected.count("unsure") == 1
    arguments = ["classify", audio, broken, "--model", model, "--abstain-below", least]

    status, out, _ = command(*arguments, "--format", "csv")
    assert status == 1
    columns = ["path", "label", "highest", "score", "error", *PROBABILITIES]
    assert out.splitlines()[0] == ",".join(columns)
    *rows, failed = parsed(out)
    assert [row["label"] for row in rows] == expected
    assert [row["highest"] for row in rows] == labels
    found = np.array([[float(row[column]) for column in PROBABILITIES] for row in rows])
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    assert (failed["label"], failed["highest"]) == ("", "")

    *records, failed = json.loads(command(*arguments, "--format", "json")[1])
    assert [(r["label"], r["highest"]) for r in records] == list(zip(expected, labels, strict=True))
    assert records[0]["probabilities"].keys() == set(LABELS)
    assert (failed["label"], failed["highest"]) == (None, None)

    table = command(*arguments)[1].splitlines()
    heading, *lines = [line.split() for line in table]
    assert heading == ["label", "highest", *LABELS, "file"]
    assert {line[: table[0].index("highest")][-2:] for line in table} == {"  "}
    assert [line[:2] for line in lines[:3]] == [list(p) for p in zip(expected, labels, strict=True)]


@pytest.mark.parametrize("least", [0, 1])
def test_abstaining_at_the_ends(model, audio, command, least):
    arguments = ["classify", audio, "--model", model, "--format", "csv", "--abstain-below", least]
    rows = parsed(command(*arguments)[1])
    assert [row["label"] == "unsure" for row in rows] == [bool(least)] * 3
