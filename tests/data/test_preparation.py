import json
from pathlib import Path

import pytest

from gemoclap_sb.data.manifests import ManifestError
from gemoclap_sb.data.preparation import (
    CorpusIssues,
    compare_counts,
    finished_preparation,
    visible_files,
    write_preparation,
)

ARGUMENTS = {"data_folder": "/corpus", "fold": 1, "validation": "random", "classes": ("ang",)}


def make_splits():
    return {
        split: [
            {
                "ID": f"{split}{number}",
                "duration": 1.0,
                "wav": "$data_root/a.wav",
                "spk_id": "s",
                "gender": "F",
                "emotion": emotion,
                "session": "1",
                "transcript": "",
            }
            for number, emotion in enumerate(("ang", "neu"))
        ]
        for split in ("train", "valid", "test")
    }


def test_record_vouches_for_the_same_arguments_and_whole_files_only(tmp_path):
    assert finished_preparation(tmp_path, ARGUMENTS) is None
    result = write_preparation(
        tmp_path, ARGUMENTS, make_splits(), CorpusIssues("/corpus"), "W.", ["N."]
    )
    assert result == {
        "train_csv": str(tmp_path / "train.csv"),
        "valid_csv": str(tmp_path / "valid.csv"),
        "test_csv": str(tmp_path / "test.csv"),
        "data_root": "/corpus",
        "notes": ["W.", "N."],
    }
    assert finished_preparation(tmp_path, ARGUMENTS) == result
    assert finished_preparation(tmp_path, ARGUMENTS | {"fold": 2}) is None
    assert finished_preparation(tmp_path, ARGUMENTS | {"classes": ["ang", "neu"]}) is None
    (tmp_path / "valid.csv").unlink()
    assert finished_preparation(tmp_path, ARGUMENTS) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"arguments": {}}'])
def test_damaged_record_is_no_record(tmp_path, text):
    write_preparation(tmp_path, ARGUMENTS, make_splits(), CorpusIssues("/corpus"))
    (tmp_path / "prepare.json").write_text(text)
    assert finished_preparation(tmp_path, ARGUMENTS) is None


def test_preparation_that_fails_halfway_is_not_vouched_for(tmp_path):
    write_preparation(tmp_path, ARGUMENTS, make_splits(), CorpusIssues("/corpus"))
    other = make_splits()
    other["test"][1]["ID"] = other["test"][0]["ID"]
    with pytest.raises(ManifestError, match="same ID"):
        write_preparation(tmp_path, ARGUMENTS | {"fold": 2}, other, CorpusIssues("/corpus"))
    assert finished_preparation(tmp_path, ARGUMENTS) is None
    assert finished_preparation(tmp_path, ARGUMENTS | {"fold": 2}) is None


def test_class_that_a_part_lacks_is_noted(tmp_path):
    splits = make_splits()
    del splits["valid"][1]
    result = write_preparation(tmp_path, ARGUMENTS, splits, CorpusIssues("/corpus"))
    assert result["notes"] == ["valid.csv has no utterance of the class neu."]
    record = json.loads((tmp_path / "prepare.json").read_text())
    assert record["counts"]["valid"] == {
        "utterances": 1,
        "seconds": 1.0,
        "emotion": {"ang": 1},
    }


def test_issues_are_one_line_for_each_kind():
    issues = CorpusIssues("/corpus")
    for label in ("fru", "xxx", "fru"):
        issues.add("labels left out", label)
    for number in range(30):
        issues.add("files", Path(f"/corpus/{number:02d}\n.wav"))
    assert issues.lines() == ["30 files: first 00 .wav", "3 labels left out: fru 2, xxx 1"]
    assert issues.counts() == {"files": 30, "labels left out": 3}


def test_compare_counts_notices_rows_that_nobody_expected():
    expected = {"emotion": {"ang": 1, "neu": 1}}
    rows = [{"emotion": "ang"}, {"emotion": "neu"}]
    assert compare_counts("Tiny", rows, expected) is None
    found = compare_counts("Tiny", [*rows, {"emotion": "fea"}], expected)
    assert "expected 2" in found
    assert "found 3" in found
    swapped = compare_counts("Tiny", [rows[0]] * 2, expected)
    assert "found 2 (emotion: ang 2, neu 0)" in swapped


def test_visible_files_come_in_one_order(tmp_path, monkeypatch):
    for name in ("b/2.wav", "b/1.wav", "a/9.WAV", "b/.DS_Store", "b/._1.wav", "._b", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    issues = CorpusIssues(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in visible_files(tmp_path, (".wav",), issues)]
    assert found == ["a/9.WAV", "b/1.wav", "b/2.wav"]
    assert sorted(issues.counts().values()) == [1, 2]
    assert list(visible_files(tmp_path / "nowhere", (".wav",), issues)) == []
