"""What splits contain and share, wherever the corpus lies."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemoclap_sb.data.contents import (
    check_overlaps,
    left_out_rows,
    rows_digest,
    same_rows,
    unlearnt_classes,
)
from gemoclap_sb.data.manifests import ManifestError

PATHS = {split: f"{split}.csv" for split in ("train", "valid", "test")}


def rows(names, speaker="s", folder="/corpus", **cells):
    return {
        name: {"wav": f"{folder}/{name}.wav", "duration": 1.5, "spk_id": speaker, **cells}
        for name in names
    }


def splits(**given):
    """Utterances of one letter; of each split a speaker of its own, but by ``speaker``."""
    speaker = given.pop("speaker", None)
    names = {"train": "ab", "valid": "cd", "test": "ef"} | given
    return {
        split: rows(names[split], own if speaker is None else speaker)
        for split, own in zip(PATHS, "xyz", strict=True)
    }


CELL = st.text(st.characters(codec="utf-8", exclude_characters="$"), max_size=5)


@given(st.dictionaries(CELL, st.tuples(CELL, st.floats(0.01, 60)), max_size=5), st.data())
def test_digest_is_of_the_cells(cells, data):
    one = {
        name: {"wav": f"/a/{i}.wav", "emotion": of, "duration": seconds, "more": "/a/more"}
        for i, (name, (of, seconds)) in enumerate(cells.items())
    }
    moved = {
        name: {**row, "wav": row["wav"].replace("/a/", "/b/c/"), "more": "/b/c/more"}
        for name, row in one.items()
    }
    assert rows_digest(one, "/a") == rows_digest(moved, "/b/c")
    if one:
        name = data.draw(st.sampled_from(sorted(one)))
        key, other = data.draw(
            st.sampled_from([("emotion", "!other!"), ("duration", 61.0), ("wav", "/a/x.wav")])
        )
        assert rows_digest({**one, name: {**one[name], key: other}}, "/a") != rows_digest(one, "/a")
        without = {key: row for key, row in one.items() if key != name}
        assert rows_digest(without, "/a") != rows_digest(one, "/a")
    if len(one) > 1:
        assert rows_digest(dict(reversed(one.items()))) != rows_digest(one)
        assert same_rows(one, dict(reversed(one.items())))


@pytest.mark.parametrize("root", [".", "./", "a", "/corpus"])
def test_spelling_of_the_folder_changes_no_other_cell(root):
    one = rows("ab", folder=root, transcript="Kids are talking. a b", more=f"{root}/a.txt")
    other = rows("ab", folder="/x", transcript="Kids are talking. a b", more="/x/a.txt")
    assert rows_digest(one, root) == rows_digest(other, "/x")


def test_classes_that_training_never_hears_are_noted():
    given = {"train": rows("ab", emotion="ang"), "test": rows("c", emotion="sad")}
    assert unlearnt_classes(given, "emotion") == ["Tested, but not in the training set: sad."]
    assert unlearnt_classes({**given, "test": rows("c", emotion="ang")}, "emotion") == []


def test_splits_of_their_own_are_no_news():
    assert check_overlaps(splits(), PATHS) == []


@pytest.mark.parametrize(
    ("given", "pair"),
    [
        ({"test": "xaf"}, "train.csv and test.csv share 1 ID, first 'a'"),
        ({"valid": "ab"}, "train.csv and valid.csv share 2 IDs, first 'a'"),
        ({"valid": "cf"}, "valid.csv and test.csv share 1 ID, first 'f'"),
        ({"train": "ef"}, "train.csv and test.csv share 2 IDs, first 'e'"),
    ],
)
def test_shared_ids_are_refused(given, pair):
    with pytest.raises(ManifestError, match=pair) as told:
        check_overlaps(splits(**given), PATHS)
    assert "\n" not in str(told.value)


def test_shared_files_are_refused_under_whatever_name(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")
    given = splits()
    given["train"]["a"]["wav"] = str(tmp_path / "a.wav")
    os.link(tmp_path / "a.wav", tmp_path / "hard.wav")
    for other in ("link.wav", "sub/../a.wav", "hard.wav"):
        given["test"]["f"]["wav"] = str(tmp_path / other)
        message = "train.csv and test.csv share 1 audio file, first .*a.wav .IDs 'a' and 'f'"
        with pytest.raises(ManifestError, match=message):
            check_overlaps(given, PATHS)


def test_copies_are_noted(tmp_path):
    """Of files of one size, and of these with the same middle, all bytes are looked at."""
    middle = bytes(range(256)) * 64
    contents = {
        "a": b"a" + middle + b"a", "b": b"b" + middle + b"b", "c": b"c" + middle + b"d",
        "d": b"d" + middle[::-1] + b"d", "e": b"b" + middle + b"b", "f": b"ff" + middle,
    }  # fmt: skip
    given = splits()
    for of in given.values():
        for name, row in of.items():
            row["wav"] = str(tmp_path / f"{name}.wav")
            (tmp_path / f"{name}.wav").write_bytes(contents[name])
    expected = "The same recordings: 1 of the test manifest, first e, also in the train manifest"
    assert check_overlaps(given, PATHS) == [f"{expected}, as copies under other names."]
    (tmp_path / "e.wav").write_bytes(contents["b"][:-1] + b"x")
    assert check_overlaps(given, PATHS) == []


def test_validation_on_the_test_is_meant_so():
    given = splits()
    given["valid"] = dict(reversed(given["test"].items()))
    assert check_overlaps(given, PATHS, "development") == []


def test_shared_speakers_are_noted_once():
    given = splits(speaker="ann")
    own = check_overlaps(given, PATHS)
    assert [("test manifest" in note, "train manifest" in note) for note in own] == [
        (True, True), (True, False), (False, True),
    ]  # fmt: skip
    assert all(note.startswith("Not speaker-independent: 1 speaker") for note in own)
    # By validation at random speakers are shared; and a preparation tells of the test's.
    assert len(check_overlaps(given, PATHS, "random")) == 2
    told = ["RAVDESS: Not speaker-independent: 1 speakers of the test session"]
    assert check_overlaps(given, PATHS, "random", told) == []
    assert check_overlaps(splits(speaker=""), PATHS) == []


def test_left_out_rows_are_those_that_are_gone(tmp_path):
    for split, names in (("train", "abc"), ("test", "ef")):
        (tmp_path / f"{split}.csv").write_text("\n".join(["ID,wav", *(f"{n},x" for n in names)]))
    manifests = {split: tmp_path / f"{split}.csv" for split in ("train", "test")}
    used = {"train": rows("ac"), "test": rows("ef")}
    assert left_out_rows(manifests, used, {}) == {"train": ["b"]}
    before = {"train": ["z"], "test": ["y"]}
    assert left_out_rows(manifests, used, before) == {"train": ["z", "b"], "test": ["y"]}
