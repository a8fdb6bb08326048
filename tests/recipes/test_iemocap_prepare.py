import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas
import pytest
import soundfile

from gemoclap_sb.data.manifests import COLUMNS, read_manifest
from tests.conftest import ROOT, load_script

SCRIPT = ROOT / "recipes" / "IEMOCAP" / "gemoclap" / "iemocap_prepare.py"
CLASSES = {"emotion": ("ang", "hap", "neu", "sad"), "gender": ("F", "M")}
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff\xfe\x81"

prepare_iemocap = load_script(SCRIPT).prepare_iemocap


def wav_bytes(num_samples, sample_rate=16000):
    """16-bit silence, written out by hand: thousands of files in a second."""
    size = 2 * num_samples
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
        + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        + struct.pack("<4sI", b"data", size)
        + bytes(size)
    )


def write_release(root, labels_of_session, num_samples=160):
    """Lay utterances out as the release does, two dialogues a session."""
    wav = wav_bytes(num_samples)
    for session, labels in labels_of_session.items():
        folder = root / f"Session{session}"
        evaluation = folder / "dialog" / "EmoEvaluation"
        transcriptions = folder / "dialog" / "transcriptions"
        evaluation.mkdir(parents=True)
        transcriptions.mkdir()
        for part, kind in enumerate(("impro01", "script01_1")):
            # The wearer of the markers, F here, is not the speaker.
            dialogue = f"Ses0{session}F_{kind}"
            wavs = folder / "sentences" / "wav" / dialogue
            wavs.mkdir(parents=True)
            summary = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
            script = []
            for number, label in enumerate(labels[part::2]):
                turn = f"{dialogue}_{'FM'[number % 2]}{number // 2:03d}"
                (wavs / f"{turn}.wav").write_bytes(wav)
                summary.append(
                    f"[6.2901 - 8.2357]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n"
                    "C-E2:\tNeutral;\t()\nC-E3:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n"
                )
                script.append(f"{turn} [006.2901-008.2357]: Sentence {number}, {label}.")
            (evaluation / f"{dialogue}.txt").write_text("\n".join(summary))
            (transcriptions / f"{dialogue}.txt").write_text("\n".join(script) + "\n")
    return root


def read_parts(result):
    return {
        part: pandas.read_csv(result[f"{part}_csv"], keep_default_na=False, dtype={"session": str})
        for part in ("train", "valid", "test")
    }


def whole(result):
    """Every row of a fold, in the order of the IDs, as a table without its split."""
    parts = read_parts(result)
    frame = pandas.concat(parts.values()).drop_duplicates("ID")
    return frame.sort_values("ID").reset_index(drop=True)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def full_release(tmp_path_factory):
    """The published numbers of utterances, and some of other labels."""
    labels = ["neu"] * 1708 + ["hap"] * 595 + ["exc"] * 1041 + ["ang"] * 1103 + ["sad"] * 1084
    random.Random(0).shuffle(labels)
    labels_of_session = {}
    for session, size in enumerate((1085, 1023, 1151, 1031, 1241), start=1):
        labels_of_session[session], labels = labels[:size] + ["fru", "xxx", "oth"], labels[size:]
    assert labels == []
    return write_release(tmp_path_factory.mktemp("full") / "IEMOCAP", labels_of_session)


@pytest.fixture
def small_release(tmp_path):
    """Five sessions of 24 utterances."""
    labels = ["ang", "ang", "exc", "hap", "neu", "neu", "sad", "sad"] * 3
    return write_release(tmp_path / "IEMOCAP", dict.fromkeys(range(1, 6), labels))


@pytest.mark.parametrize(
    ("fold", "test_size"), [(1, 1085), (2, 1023), (3, 1151), (4, 1031), (5, 1241)]
)
def test_published_counts(full_release, tmp_path, caplog, monkeypatch, fold, test_size):
    def refuse(*args, **kwargs):
        raise AssertionError("audio was decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    result = prepare_iemocap(full_release, tmp_path, fold)
    parts = read_parts(result)
    frame = pandas.concat(parts.values())
    assert len(frame) == 5531
    assert frame["ID"].is_unique
    assert Counter(frame["emotion"]) == {"neu": 1708, "hap": 1636, "ang": 1103, "sad": 1084}
    assert Counter(frame["label"])["hap"] == 595
    assert Counter(frame["label"])["exc"] == 1041
    assert len(parts["test"]) == test_size
    assert set(parts["test"]["session"]) == {str(fold)}
    assert str(fold) not in set(parts["train"]["session"]) | set(parts["valid"]["session"])
    assert len(parts["valid"]) == round(0.1 * (5531 - test_size))
    assert (frame["duration"] == 0.01).all()
    assert warnings_of(caplog) == []
    assert result["notes"] == []


def test_validation_is_stratified_by_emotion_and_speaker(full_release, tmp_path):
    parts = read_parts(prepare_iemocap(full_release, tmp_path, fold=1))
    keys = ["emotion", "spk_id"]
    valid = parts["valid"].groupby(keys).size()
    training_side = valid + parts["train"].groupby(keys).size()
    assert len(training_side) == 4 * 8
    assert (valid - 0.1 * training_side).abs().max() < 1.1


def test_rows(small_release, tmp_path):
    result = prepare_iemocap(small_release, tmp_path / "out", fold=2)
    assert result["data_root"] == str(small_release)
    frame = whole(result).set_index("ID")
    assert len(frame) == 120
    assert ("ID", *frame.columns) == (*COLUMNS, "label")
    row = frame.loc["Ses03F_script01_1_M000"]
    assert row["wav"] == (
        "$data_root/Session3/sentences/wav/Ses03F_script01_1/Ses03F_script01_1_M000.wav"
    )
    # Gender and speaker are of the turn, not of the dialogue that F gives its name to.
    assert (row["gender"], row["spk_id"], row["session"]) == ("M", "Ses03M", "3")
    assert (row["label"], row["emotion"]) == ("hap", "hap")
    assert row["transcript"] == "Sentence 1, hap."
    assert row["duration"] == 0.01
    excited = frame[frame["label"] == "exc"]
    assert len(excited) == 15
    assert set(excited["emotion"]) == {"hap"}
    assert set(frame["spk_id"]) == {f"Ses0{n}{g}" for n in range(1, 6) for g in "FM"}
    for part in ("train", "valid", "test"):
        read_manifest(result[f"{part}_csv"], result["data_root"], CLASSES)


def test_other_counts_are_one_warning_with_both(small_release, tmp_path, caplog):
    result = prepare_iemocap(small_release, tmp_path / "out", fold=1)
    (warning,) = warnings_of(caplog)
    assert "expected 5531" in warning
    assert "found 120" in warning
    assert result["notes"] == [warning.replace(" Going on with what was found.", "")]


@pytest.mark.parametrize("validation", ["random", "session", "test"])
def test_validation(small_release, tmp_path, validation):
    result = prepare_iemocap(small_release, tmp_path / "out", fold=5, validation=validation)
    parts = read_parts(result)
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert record["validation"] == validation
    assert set(parts["train"]["ID"]).isdisjoint(parts["test"]["ID"])
    assert set(parts["train"]["ID"]).isdisjoint(parts["valid"]["ID"])
    said = [note for note in result["notes"] if "Validated on the test session" in note]
    if validation == "test":
        assert list(parts["valid"]["ID"]) == list(parts["test"]["ID"])
        assert len(parts["train"]) == 96
        assert len(said) == 1
        assert said[0] in record["notes"]
    else:
        assert said == []
        assert len(whole(result)) == 120
    if validation == "session":
        assert set(parts["valid"]["session"]) == {"1"}
    if validation == "random":
        assert len(parts["valid"]) == 10


def test_held_out_speakers(small_release, tmp_path):
    for number, validation in enumerate(("speaker", "development")):
        parts = read_parts(
            prepare_iemocap(
                small_release, tmp_path / validation, 5, validation=validation, valid_speakers=2
            )
        )
        people = {part: set(frame["spk_id"]) for part, frame in parts.items()}
        assert sorted(name[-1] for name in people["valid"]) == ["F", "M"]
        assert not people["valid"] & people["train"]
        assert people["test"] == (people["valid"] if number else {"Ses05F", "Ses05M"})
        assert len(people["train"]) == 6


def test_valid_session_and_fraction(small_release, tmp_path):
    parts = read_parts(
        prepare_iemocap(small_release, tmp_path / "a", 1, validation="session", valid_session=4)
    )
    assert set(parts["valid"]["session"]) == {"4"}
    parts = read_parts(prepare_iemocap(small_release, tmp_path / "b", 1, valid_fraction=0.25))
    assert len(parts["valid"]) == 24


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fold": 0}, "fold must be one of 1, 2, 3, 4, 5, found 0"),
        ({"fold": 6}, "found 6"),
        ({"fold": 1, "validation": "none"}, "'none'"),
        ({"fold": 1, "valid_session": 2}, "valid_session=2"),
        ({"fold": 1, "validation": "session", "valid_session": 1}, "validate on session 1"),
        ({"fold": 1, "valid_fraction": 1.5}, "between 0 and 1"),
    ],
)
def test_arguments_that_do_not_fit(small_release, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        prepare_iemocap(small_release, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_same_files_whatever_the_listing_order(small_release, tmp_path, monkeypatch):
    first = prepare_iemocap(small_release, tmp_path / "a", fold=1)

    real_walk, real_iterdir = os.walk, Path.iterdir

    def backwards(folder):
        for parent, folders, names in real_walk(folder):
            folders.sort(reverse=True)
            yield parent, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(real_iterdir(path), reverse=True))
    second = prepare_iemocap(small_release, tmp_path / "b", fold=1)
    for part in ("train_csv", "valid_csv", "test_csv"):
        assert Path(first[part]).read_bytes() == Path(second[part]).read_bytes()


def test_seed_moves_the_validation_part(small_release, tmp_path):
    results = [prepare_iemocap(small_release, tmp_path / str(n), 1, seed=n) for n in (1, 2)]
    first, second = (set(read_parts(result)["valid"]["ID"]) for result in results)
    assert first != second


def test_second_time_is_skipped_until_something_differs(small_release, tmp_path):
    out = tmp_path / "out"
    first = prepare_iemocap(small_release, out, fold=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert set(before) == {"train.csv", "valid.csv", "test.csv", "prepare.json"}
    assert prepare_iemocap(small_release, out, fold=1) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    # Another fold in the same folder.
    second = prepare_iemocap(small_release, out, fold=2)
    assert set(read_parts(second)["test"]["session"]) == {"2"}
    # A file that went missing.
    (out / "valid.csv").unlink()
    prepare_iemocap(small_release, out, fold=2)
    assert (out / "valid.csv").exists()


def issues_of(folder):
    return json.loads((folder / "prepare.json").read_text())["issues"]


def add_line(path, line):
    path.write_bytes(path.read_bytes() + line + b"\n")


def test_issues_are_counted_and_stop_nothing(small_release, tmp_path, caplog):
    caplog.set_level("INFO")
    session = small_release / "Session1"
    evaluation = session / "dialog" / "EmoEvaluation"
    labels = evaluation / "Ses01F_impro01.txt"
    script = session / "dialog" / "transcriptions" / "Ses01F_impro01.txt"
    wavs = session / "sentences" / "wav" / "Ses01F_impro01"

    for folder in (evaluation, script.parent, wavs, small_release):
        (folder / "._Ses01F_impro01.txt").write_bytes(APPLE_DOUBLE)
    (wavs / "._Ses01F_impro01_F000.wav").write_bytes(APPLE_DOUBLE)
    (wavs / ".DS_Store").write_bytes(b"\x00")
    (evaluation / "Categorical").mkdir()
    (evaluation / "Categorical" / "Ses01F_impro01_e1.txt").write_text(
        "[1.0 - 2.0]\tSes01F_impro01_F000\tsad\t[1, 1, 1]\n"
    )
    (small_release / "Session6").mkdir()
    (small_release / "Documentation").mkdir()
    add_line(labels, b"[1.0 - 2.0]\tSes01F_impro01_F100\tfru\t[1.0, 1.0, 1.0]")
    add_line(labels, b"[1.0 - 2.0]\tSes01F_impro01_F101\tsad\t[1.0, 1.0, 1.0]")
    add_line(labels, b"[1.0 - 2.0]\tSes02F_impro01_F000\tsad\t[1.0, 1.0, 1.0]")
    add_line(labels, b"[1.0 - \tSes01F_impro01_F000\tsad")
    add_line(labels, b"[1.0 - 2.0]\tSes01F_\xff\xfe\tsad\t[1.0, 1.0, 1.0]")
    add_line(labels, b"[1.0 - 2.0]\tSes01F_impro01_F000\tang\t[1.0, 1.0, 1.0]")
    add_line(labels, b"[1.0 - 2.0]\tSes01F_impro01_F000\tsad\t[1.0, 1.0, 1.0]")
    for turn, content in (("F200", wav_bytes(160)), ("F201", wav_bytes(0)), ("F202", b"RIFF")):
        (wavs / f"Ses01F_impro01_{turn}.wav").write_bytes(content)
    for turn in ("F201", "F202"):
        add_line(labels, b"[1.0 - 2.0]\tSes01F_impro01_%s\tsad\t[1, 1, 1]" % turn.encode())
    (wavs / "copy").mkdir()
    shutil.copy(wavs / "Ses01F_impro01_F000.wav", wavs / "copy")
    # One transcript in Windows-1252 with what SpeechBrain's reader trips on, one missing.
    text = script.read_bytes().replace(b"Sentence 0, ang.", b"I\x92d pay $50\t\x00\x81.")
    lines = [line for line in text.split(b"\n") if b"_M000" not in line]
    script.write_bytes(b"\r\n".join([*lines, b"M: [LAUGHTER]", b""]))

    result = prepare_iemocap(small_release, tmp_path / "out", fold=1)
    frame = whole(result).set_index("ID")
    assert len(frame) == 120
    assert frame.loc["Ses01F_impro01_F000", "transcript"] == "I’d pay $ 50 \ufffd."
    assert frame.loc["Ses01F_impro01_F000", "emotion"] == "ang"
    assert "copy" not in frame.loc["Ses01F_impro01_F000", "wav"]
    assert frame.loc["Ses01F_impro01_M000", "transcript"] == ""

    expected = {
        "AppleDouble": 5,
        "hidden files": 1,
        "sub-folders": 1,
        "beside Session1": 1,
        "outside the four classes": 1,
        "a label but no wav": 1,
        "a wav but no label": 1,
        "another session": 1,
        "malformed label lines": 2,
        "labelled once more, ": 1,
        "once more and differently": 1,
        "unreadable or zero-length": 2,
        "same name": 1,
        "not UTF-8": 2,
        "without a transcript": 1,
    }
    issues = issues_of(tmp_path / "out")
    assert len(issues) == len(expected)
    for words, number in expected.items():
        assert [count for kind, count in issues.items() if words in kind] == [number], words
        told = [r.getMessage() for r in caplog.records if words in r.getMessage()]
        assert len(told) == 1, words
        assert "\n" not in told[0]
    assert len(warnings_of(caplog)) == 1


def test_missing_folders_are_counted(small_release, tmp_path):
    shutil.rmtree(small_release / "Session1" / "dialog" / "transcriptions")
    shutil.rmtree(small_release / "Session2" / "dialog" / "EmoEvaluation")
    shutil.rmtree(small_release / "Session3" / "sentences" / "wav")
    shutil.rmtree(small_release / "Session4")
    result = prepare_iemocap(small_release, tmp_path / "out", fold=5)
    assert Counter(whole(result)["session"]) == {"1": 24, "5": 24}
    assert issues_of(tmp_path / "out") == {
        "sessions without a label folder": 1,
        "sessions without a transcription folder": 1,
        "sessions without a wav folder": 1,
        "utterances with a label but no wav, left out": 24,
        "utterances with a wav but no label, left out": 24,
        "utterances without a transcript, which is left empty": 24,
    }
    with pytest.raises(ValueError, match="session 4, which has no utterances; found sessions 1, 5"):
        prepare_iemocap(small_release, tmp_path / "out", fold=4)


def test_folder_that_is_no_release(tmp_path, small_release):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        prepare_iemocap(tmp_path / "nowhere", tmp_path / "out", fold=1)
    with pytest.raises(FileNotFoundError, match="no folder Session1 to Session5") as caught:
        prepare_iemocap(small_release.parent, tmp_path / "out", fold=1)
    assert f"{small_release} has: give that one." in str(caught.value)
    (tmp_path / "empty" / "Session1").mkdir(parents=True)
    with pytest.raises(ValueError, match="No utterance of the four classes"):
        prepare_iemocap(tmp_path / "empty", tmp_path / "out", fold=1)


@pytest.mark.slow
def test_command_line(small_release, tmp_path):
    command = [sys.executable, str(SCRIPT), "IEMOCAP", "out", "--fold", "3", "--validation", "test"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Validated on the test session (3)" in done.stderr
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert record["arguments"]["data_folder"] == str(small_release)
    assert len(pandas.read_csv(tmp_path / "out" / "test.csv")) == 24
