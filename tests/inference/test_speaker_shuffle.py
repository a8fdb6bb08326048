"""Rows brought together by speaker, in whatever pieces they are written."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from gemoclap_sb.inference import speaker_shuffle
from gemoclap_sb.inference.embedded_manifest import EmbeddedManifest, open_embedded
from gemoclap_sb.inference.speaker_shuffle import (
    ShuffleError,
    drop,
    file_of,
    read_speakers,
    shuffle,
)
from tests.embedded_speakers import blobs, write_embedded

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
NAMES = [f"s{i}" for i in range(12)] + ["ż ó", "=x"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    vectors = {name: blobs([3 + i % 5], seed=i) for i, name in enumerate(NAMES)}
    without = {"s3": 2, "unheard": 3}
    return write_embedded(tmp_path_factory.mktemp("corpus"), vectors, without=without)


def test_a_digest_says_where_a_speaker_is():
    expected = int(hashlib.sha256(b"s1").hexdigest()[:16], 16) % 5
    assert file_of("s1", 5) == expected
    assert {file_of(f"s{i}", 5) for i in range(100)} == set(range(5))


@pytest.mark.parametrize("held", [1, 32 * 20, 2**25])
def test_each_row_is_in_the_file_of_its_speaker(held, written, tmp_path, monkeypatch):
    monkeypatch.setattr(speaker_shuffle, "_HELD_BYTES", held)
    embedded, told = open_embedded(written.csv, written.folder), []
    rows = shuffle(embedded, tmp_path / "rows", 4, range(4), told.append)
    assert sum(told) == sum(rows.values()) == len(written.speakers)
    found = {}
    for number in range(4):
        speakers = list(read_speakers(tmp_path / "rows", number))
        assert all(file_of(one.name, 4) == number for one in speakers)
        assert [one.name for one in speakers] == sorted(one.name for one in speakers)
        assert rows[number] == sum(len(one.ids) + one.without for one in speakers)
        found |= {one.name: one for one in speakers}
    assert found.keys() == {*NAMES, "unheard"}
    assert {name: one.without for name, one in found.items() if one.without} == {
        "s3": 2, "unheard": 3,
    }  # fmt: skip
    for name, one in found.items():
        ids = sorted(i for i, who in written.speakers.items() if who == name and "/x" not in i)
        assert one.ids.tolist() == ids
        assert one.wavs.tolist() == [f"{i}.wav" for i in ids]
        expected = np.array([written.vectors[i] for i in ids]).reshape(-1, 8)
        np.testing.assert_array_equal(one.vectors, expected)


def test_only_wanted_files_are_written(written, tmp_path):
    embedded = open_embedded(written.csv, written.folder)
    whole = shuffle(embedded, tmp_path / "whole", 4, range(4), lambda rows: None)
    some = shuffle(embedded, tmp_path / "some", 4, [1, 3], lambda rows: None)
    assert some == {number: whole[number] for number in (1, 3)}
    for number in (1, 3):
        pair = (list(read_speakers(tmp_path / top, number)) for top in ("whole", "some"))
        for one, other in zip(*pair, strict=True):
            assert (one.name, one.ids.tolist()) == (other.name, other.ids.tolist())
            np.testing.assert_array_equal(one.vectors, other.vectors)
    assert len(list((tmp_path / "some").glob("*.arrow"))) == 2


def test_it_is_done_once_unless_it_was_interrupted(written, tmp_path, monkeypatch):
    embedded, calls = open_embedded(written.csv, written.folder), []
    original = EmbeddedManifest.read

    def read(self, part):
        calls.append(part.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, part)

    monkeypatch.setattr(EmbeddedManifest, "read", read)
    folder = tmp_path / "rows"
    with pytest.raises(KeyboardInterrupt):
        shuffle(embedded, folder, 3, range(3), lambda rows: None)
    rows = shuffle(embedded, folder, 3, range(3), lambda rows: None)
    assert sum(rows.values()) == len(written.speakers)
    count = len(calls)
    drop(folder, 0)
    assert shuffle(embedded, folder, 3, [1, 2], lambda rows: None) == rows
    assert len(calls) == count
    # What is gone is made again.
    assert shuffle(embedded, folder, 3, [0, 2], lambda rows: None) == {0: rows[0], 2: rows[2]}
    assert len(calls) == count + len(embedded.manifest.parts)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize("begun", [0, 2])
def test_of_two_at_the_same_time_one_goes_on(begun, written, tmp_path, monkeypatch):
    """The other begins when the first has just begun, or is in the middle."""
    monkeypatch.setattr(speaker_shuffle, "_HELD_BYTES", 1)
    embedded, folder = open_embedded(written.csv, written.folder), tmp_path / "rows"
    original, parts = EmbeddedManifest.read, []
    expected = shuffle(embedded, tmp_path / "alone", 3, range(3), lambda rows: None)

    def read(self, part):
        parts.append(part.number)
        if len(parts) == begun + 1:
            assert shuffle(embedded, folder, 3, range(3), lambda rows: None) == expected
        return original(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedManifest, "read", read)
        with pytest.raises(ShuffleError, match="another process does the same work"):
            shuffle(embedded, folder, 3, range(3), lambda rows: None)
    found = [one for number in range(3) for one in read_speakers(folder, number)]
    assert sum(len(one.ids) + one.without for one in found) == len(written.speakers)
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "rows"}
    drop(folder, 1)
    with pytest.raises(ShuffleError, match="rows-00001.arrow: another process"):
        list(read_speakers(folder, 1))
