"""`gemoclap evaluate` against scikit-learn."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.files import read_json
from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.cli.printed import answers, one_line, parsed
from tests.run_folders import LABELS, write_tone


@pytest.fixture
def corpus(tmp_path):
    """Recordings with labels at will, and their manifest."""
    emotions = ["ang", "ang", "hap", "hap", "hap", "neu", "sad", "sad"]
    lines = ["ID,wav,emotion"]
    for i, emotion in enumerate(emotions):
        write_tone(tmp_path / f"{i}.wav", 0.4 + 0.1 * i, 90 + 77 * i)
        lines.append(f"u{i},$data_root/{i}.wav,{emotion}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "all.csv", emotions


def test_evaluate_counts_right(classifier, model, corpus, tmp_path, command):
    manifest, true = corpus
    output = tmp_path / "results"
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    status, out, _ = command(*arguments, "--format", "json", "--output", output)
    assert status == 0
    predicted, _ = answers(classifier, [tmp_path / f"{i}.wav" for i in range(8)])
    metrics = json.loads(out)
    assert metrics["war"] == pytest.approx(accuracy_score(true, predicted))
    assert metrics["uar"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert metrics["confusion"] == confusion_matrix(true, predicted, labels=LABELS).tolist()
    assert (metrics["labels"], metrics["n_test"], metrics["n_failed"]) == (LABELS, 8, 0)
    assert list(metrics["per_class_recall"]) == LABELS

    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert (output / "confusion.png").read_bytes().startswith(b"\x89PNG")
    rows = parsed((output / "predictions.csv").read_text())
    assert [row["ID"] for row in rows] == [f"u{i}" for i in range(8)]
    assert [row["predicted"] for row in rows] == predicted
    assert [row["true"] for row in rows] == true

    status, out, _ = command(*arguments)
    assert status == 0
    figures = [line.split()[:3] for line in out.splitlines()[:2]]
    assert figures == [[k.upper(), f"{100 * metrics[k]:.2f}", "%"] for k in ("war", "uar")]


def test_evaluate_on_other_labels(classifier, model, corpus, tmp_path, command):
    manifest, true = corpus
    manifest.write_text(manifest.read_text().replace(",hap", ",bor").replace(",sad", ",afr"))
    arguments = [
        "evaluate",
        manifest,
        "--model",
        model,
        "--data-root",
        tmp_path,
        "--format",
        "json",
    ]
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert "emotion is 'bor', expected one of ang, hap, neu, sad" in err

    words = {"bor": "bored", "afr": "afraid", "ang": "angry", "neu": "calm"}
    given = ["bor=bored", "afr=afraid", "ang", "neu=calm"]
    status, out, _ = command(*arguments, "--labels", *given)
    assert status == 0
    metrics = json.loads(out)
    predicted, _ = answers(classifier, [tmp_path / f"{i}.wav" for i in range(8)], labels=words)
    renamed = [{"hap": "bor", "sad": "afr"}.get(label, label) for label in true]
    expected = confusion_matrix(renamed, predicted, labels=list(words)).tolist()
    assert (metrics["confusion"], metrics["labels"]) == (expected, list(words))
    assert metrics["words"] == words

    status, out, err = command(*arguments, "--ignore-others", "--labels", "ang", "neu")
    assert status == 0
    assert json.loads(out)["n_test"] == 3
    assert "Left out: 5 utterances" in err


def test_evaluate_goes_on_after_bad_files(model, corpus, tmp_path, command):
    manifest, _ = corpus
    (tmp_path / "3.wav").unlink()
    soundfile.write(tmp_path / "4.wav", np.array([0.1, np.nan]), 16000, "FLOAT")
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    status, out, _ = command(*arguments, "--format", "json")
    assert status == 1
    metrics = json.loads(out)
    assert (metrics["n_test"], metrics["n_failed"]) == (6, 2)
    assert metrics["failed"] == ["u3", "u4"]
    table = command(*arguments)[1]
    assert "without u3, u4, which could not be read" in table
    # Of labels that nobody asked for, nothing is lost.
    words = ["--labels", "ang", "neu", "sad", "--ignore-others"]
    status, out, err = command(*arguments, "--format", "json", *words)
    metrics = json.loads(out)
    assert (status, metrics["n_test"], metrics["failed"]) == (0, 5, [])
    assert "Left out: 3 utterances" in err
    # Whatever is wrong with the manifest itself is a usage error still.
    status, out, err = command("evaluate", manifest, "--model", model)
    assert (status, out) == (2, "")
    assert "$data_root" in err


def test_a_row_that_is_lost_later_is_never_right(
    classifier, model, corpus, tmp_path, command, monkeypatch
):
    """Every true label is what the model says; a file is gone when it is its turn."""
    manifest, true = corpus
    predicted, _ = answers(classifier, [tmp_path / f"{i}.wav" for i in range(8)])
    lines = [f"u{i},$data_root/{i}.wav,{label}" for i, label in enumerate(predicted)]
    manifest.write_text("\n".join(["ID,wav,emotion", *lines]) + "\n")
    original = GEmoCLAPClassifier.classify_files

    def without_one(self, paths, *arguments, **options):
        (tmp_path / "5.wav").unlink()
        return original(self, paths, *arguments, **options)

    monkeypatch.setattr(GEmoCLAPClassifier, "classify_files", without_one)
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    output = tmp_path / "results"
    status, out, _ = command(*arguments, "--format", "json", "--output", output)
    metrics = json.loads(out)
    assert (status, metrics["n_test"], metrics["failed"]) == (1, 7, ["u5"])
    assert np.sum(metrics["confusion"]) == 7
    assert "u5" not in (output / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ID,wav\na,a.wav\n", "missing column emotion"),
        ("", "missing column ID"),
        (b"\x00\xff\xfe\x00", "not UTF-8"),
        (f"ID,wav,emotion\na,{'x' * 200_000},ang\n", "field larger than field limit"),
        ("ID,wav,emotion\na,$data_root/a.wav,ang\n", "with --data-root"),
        ("ID,wav,emotion\na,a\0.wav,ang\n", "line 2: has a NUL byte"),
    ],
)
def test_a_manifest_that_is_none(content, message, model, tmp_path, command):
    path = tmp_path / "all.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = command("evaluate", path, "--model", model)
    assert (status, out) == (2, "")
    assert message in one_line(err)
    status, _, err = command("evaluate", path, "--model", model, "--data-root", tmp_path / "no")
    assert status == 2
    assert "--data-root: expected a folder" in one_line(err)


def test_manifests_that_are_no_files(model, tmp_path, command):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/zero"):
        status, out, err = command("evaluate", path, "--model", model)
        assert (status, out) == (2, "")
        assert str(path) in one_line(err)


def test_names_of_any_bytes_and_like_formulas(model, corpus, tmp_path, command):
    """What is written for people's spreadsheets starts no formula; programs read it back."""
    text = corpus[0].read_text().replace("u0", "=1+2")
    manifest = tmp_path / os.fsdecode(b"\xff.csv")
    manifest.write_text(text)
    output = tmp_path / "results"
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    assert command(*arguments, "--output", output, "--labels", "ang", "hap", "neu", "sad")[0] == 0
    assert read_json(output / "metrics.json")["manifest"] == str(manifest)
    rows = parsed((output / "predictions.csv").read_text())
    assert rows[0]["ID"] == "'=1+2"
    assert Predictions.read(output / "predictions.csv").ids[0] == "=1+2"
