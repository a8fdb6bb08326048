"""Folds of a column's values, and the manifests that are made of them."""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.folds import assign_folds, prepare_manifest
from gemoclap_sb.data.manifests import COLUMNS, ManifestError, read_manifest

EMOTIONS = ("anger", "joy")


@pytest.fixture
def corpus(tmp_path):
    """Six speakers in three sessions; no duration, gender or transcript; paths beside the CSV."""
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for number in range(36):
        name = f"u{number:02d}"
        samples = np.zeros(4000 + 100 * number)
        soundfile.write(folder / "audio" / f"{name}.wav", samples, 8000)
        speaker = number % 6
        cells = (name, f"audio/{name}.wav", EMOTIONS[number // 6 % 2], f"s{speaker}")
        rows.append((*cells, f"Ses{speaker // 2 + 1}", "Costs $50."))
    frame = pd.DataFrame(rows, columns=["ID", "wav", "emotion", "spk_id", "session", "remark"])
    frame.to_csv(folder / "corpus.csv", index=False)
    return folder


def prepare(corpus, fold=1, out="out", **options):
    result = prepare_manifest(
        None, corpus.parent / out, fold, manifest=corpus / "corpus.csv", **options
    )
    frames = {
        part: pd.read_csv(result[f"{part}_csv"], dtype=str, keep_default_na=False)
        for part in ("train", "valid", "test")
    }
    return result, frames


def edit(corpus, function):
    path = corpus / "corpus.csv"
    path.write_text(function(path.read_text()))


def test_a_fold_for_each_value_in_order():
    rows = [{"session": value} for value in ("10", "9", "b", "a", "9")]
    assert assign_folds(rows, "session") == {"9": 1, "10": 2, "a": 3, "b": 4}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=80),
    st.integers(2, 8),
    st.randoms(use_true_random=False),
)
def test_groups_are_balanced_whatever_the_order(speakers, number, shuffler):
    sizes = Counter(speakers)
    rows = [{"spk_id": speaker} for speaker in speakers]
    if number > len(sizes):
        if len(sizes) > 1:
            with pytest.raises(ValueError, match=f"expected 2 to {len(sizes)}"):
                assign_folds(rows, "spk_id", number)
        return
    fold_of = assign_folds(rows, "spk_id", number)
    assert set(fold_of) == set(sizes)
    totals = Counter()
    for speaker, fold in fold_of.items():
        totals[fold] += sizes[speaker]
    assert set(totals) == set(range(1, number + 1))
    # The fold with most rows got its last speaker when it had no more than any other.
    assert max(totals.values()) - min(totals.values()) <= max(sizes.values())
    shuffler.shuffle(rows)
    assert assign_folds(rows, "spk_id", number) == fold_of


def test_hand_computed_groups():
    """7 goes to 1, 5 to 2, 4 to 2 (9), 3 to 1 (10), 2 to 2 (11)."""
    rows = [{"spk_id": name} for name in "a" * 7 + "b" * 5 + "c" * 4 + "d" * 3 + "e" * 2]
    assert assign_folds(rows, "spk_id", 2) == {"a": 1, "b": 2, "c": 2, "d": 1, "e": 2}


@pytest.mark.parametrize("number", [0, 1, 3, "2", None])
def test_what_makes_no_folds(number):
    rows = [{"spk_id": "a"}, {"spk_id": "b" if number is not None else "a"}]
    with pytest.raises(ValueError, match="expected"):
        assign_folds(rows, "spk_id", number)


def test_rows_of_a_fold(corpus):
    result, frames = prepare(corpus, fold=2, validation="speaker", valid_speakers=1)
    assert set(frames["test"]["spk_id"]) == {"s2", "s3"}
    assert len(frames["test"]) == 12
    assert frames["valid"]["spk_id"].nunique() == 1
    assert len(pd.concat(frames.values())) == 36
    table = frames["test"].set_index("ID")
    assert ("ID", *table.columns) == (*COLUMNS, "remark")
    assert table.loc["u08"].to_dict() == {
        "duration": "0.6",
        "wav": "$data_root/audio/u08.wav",
        "spk_id": "s2",
        "gender": "",
        "emotion": "joy",
        "session": "2",
        "transcript": "",
        "remark": "Costs $ 50.",
    }
    assert result["data_root"] == str(corpus)
    assert len(read_manifest(result["train_csv"], result["data_root"])) == len(frames["train"])
    record = json.loads((corpus.parent / "out/prepare.json").read_text())
    assert record["arguments"]["folds"] == {"1": ["Ses1"], "2": ["Ses2"], "3": ["Ses3"]}


def test_speakers_in_groups(corpus):
    tested = []
    for fold in (1, 2, 3, 4):
        options = {"fold_column": "spk_id", "number_of_folds": 4}
        _, frames = prepare(corpus, fold, f"fold_{fold}", **options)
        speakers = set(frames["test"]["spk_id"])
        assert speakers.isdisjoint(frames["train"]["spk_id"])
        tested += frames["test"]["ID"].tolist()
    assert sorted(tested) == [f"u{number:02d}" for number in range(36)]


def test_where_files_are_looked_for(corpus, monkeypatch, tmp_path):
    """Beside the manifest, from the current folder, below the data folder, or anywhere."""
    (tmp_path / "elsewhere").mkdir()
    os.rename(corpus / "audio/u00.wav", tmp_path / "elsewhere/u00.wav")
    os.rename(corpus / "audio/u01.wav", tmp_path / "elsewhere/u01.wav")
    os.rename(corpus / "audio/u02.wav", tmp_path / "elsewhere/u02.wav")
    edit(corpus, lambda text: text.replace("audio/u00.wav", "$data_root/u00.wav"))
    edit(corpus, lambda text: text.replace("audio/u01.wav", str(tmp_path / "elsewhere/u01.wav")))
    edit(corpus, lambda text: text.replace("audio/u02.wav", "elsewhere/u02.wav"))
    monkeypatch.chdir(tmp_path)
    result = prepare_manifest(
        "elsewhere", "out", 1, manifest="corpus/corpus.csv", validation="test"
    )
    rows = pd.concat(pd.read_csv(result[name]) for name in ("train_csv", "test_csv"))
    wavs = rows.set_index("ID")["wav"]
    assert [wavs[f"u0{number}"] for number in range(3)] == [
        f"$data_root/u0{number}.wav" for number in range(3)
    ]
    assert wavs["u03"] == str(corpus / "audio/u03.wav")
    monkeypatch.chdir("/")
    assert len(read_manifest(tmp_path / result["train_csv"], result["data_root"])) == 24


def test_prepared_again_when_the_manifest_changes(corpus):
    _, before = prepare(corpus)
    stamp = (corpus.parent / "out/train.csv").stat().st_mtime_ns
    prepare(corpus)
    assert (corpus.parent / "out/train.csv").stat().st_mtime_ns == stamp
    edit(corpus, lambda text: text.replace("u00,audio/u00.wav,anger", "u00,audio/u00.wav,joy"))
    _, after = prepare(corpus)
    assert Counter(before["test"]["emotion"]) != Counter(after["test"]["emotion"])


def test_speaker_on_both_sides_is_noted(corpus):
    edit(corpus, lambda text: text.replace("s0,Ses1", "s0,Ses3", 1))
    result, _ = prepare(corpus, fold=3)
    assert result["notes"] == [
        "Not speaker-independent: 1 speakers of the test session (3) are on the training side "
        "too, first s0."
    ]
    assert prepare(corpus, fold=2, out="b")[0]["notes"] == []


def test_class_without_a_training_row_is_noted(corpus):
    result, _ = prepare(corpus, fold_column="emotion", validation="test")
    assert "train.csv has no utterance of the class anger." in result["notes"]


@pytest.mark.parametrize("column", ["ID", "wav"])
def test_any_column_makes_folds(corpus, column):
    _, parts = prepare(corpus, 2, fold_column=column)
    assert list(parts["test"]["ID"]) == ["u01"]


@pytest.mark.parametrize("fold", [0, 4])
def test_fold_that_is_not_there(corpus, fold):
    with pytest.raises(ValueError, match="fold must be one of 1, 2, 3, found"):
        prepare(corpus, fold)


def test_problems_name_the_row_of_the_manifest(corpus):
    os.remove(corpus / "audio/u04.wav")
    edit(corpus, lambda text: text.replace("u06,audio/u06.wav,joy", "u06,audio/u06.wav,"))
    with pytest.raises(ManifestError, match=r"row 7 .*ID 'u06': the emotion is empty"):
        prepare(corpus)
    edit(corpus, lambda text: text.replace("u06,audio/u06.wav,", "u06,audio/u06.wav,joy"))
    with pytest.raises(ManifestError, match=r"row 5 .*u04\.wav is missing.*Looked for in .*corpus"):
        prepare(corpus)
    _, frames = prepare(corpus, skip_bad_audio=True)
    assert len(pd.concat(frames.values())) == 35
    with pytest.raises(ManifestError, match="emotion is 'joy', expected one of anger, fear"):
        prepare(corpus, classes={"emotion": ("anger", "fear")}, skip_bad_audio=True)


def test_rows_without_usable_audio_are_left_out_of_the_split_that_they_are_in(corpus):
    """The others lie in the splits as they would with it, and the second time says the same."""
    whole, frames = prepare(corpus, out="whole", validation="random", valid_fraction=0.2)
    assert "left_out" not in whole
    victims = {part: frame.ID[1] for part, frame in frames.items()}
    for name in victims.values():
        (corpus / "audio" / f"{name}.wav").write_bytes(b"RIFF")
    for _ in range(2):
        given = {"validation": "random", "valid_fraction": 0.2, "skip_bad_audio": True}
        result, left = prepare(corpus, **given)
        assert result["left_out"] == {part: [name] for part, name in victims.items()}
        for part, frame in frames.items():
            assert left[part].ID.tolist() == [n for n in frame.ID if n != victims[part]]
