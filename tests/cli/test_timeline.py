"""`gemoclap timeline` against the class."""

from __future__ import annotations

import json

import pytest

from tests.cli.printed import PROBABILITIES, parsed
from tests.run_folders import LABELS, write_tone


def test_timeline_in_every_format(classifier, model, audio, tmp_path, command):
    path = write_tone(tmp_path / "long.wav", 4.3)
    expected = list(classifier.timeline(path, window=1.5, hop=1.0).rows())
    arguments = ["timeline", path, "--model", model, "--window", 1.5, "--hop", 1]

    picture = tmp_path / "long.png"
    status, out, _ = command(*arguments, "--format", "csv", "--output", picture)
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = parsed(out)
    assert list(rows[0]) == ["start", "end", "label", "score", *PROBABILITIES]
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for key in ("start", "end", "score"):
        found = [float(row[key]) for row in rows]
        assert found == pytest.approx([row[key] for row in expected], abs=1e-5)

    status, out, _ = command(*arguments, "--format", "json")
    assert status == 0
    for found, row in zip(json.loads(out), expected, strict=True):
        assert list(found) == ["start", "end", "label", "score", "probabilities"]
        assert found["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)

    status, out, _ = command(*arguments)
    assert status == 0
    heading, *lines = [line.split() for line in out.splitlines()]
    assert heading == ["start", "end", "label", *LABELS]
    assert [float(line[0]) for line in lines] == [0.0, 1.0, 2.0, 3.0]
    assert [line[2] for line in lines] == [row["label"] for row in expected]


def test_timeline_of_an_unreadable_file(model, broken, tmp_path, command):
    picture = tmp_path / "a.png"
    status, out, err = command("timeline", broken, "--model", model, "--output", picture)
    assert (status, out) == (1, "")
    assert "broken.wav" in err
    assert not picture.exists()
