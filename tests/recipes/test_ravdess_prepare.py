import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas
import pytest
import soundfile

from gemoclap_sb.data.manifests import COLUMNS, read_manifest
from tests.conftest import ROOT, SHARED, load_script

SCRIPT = ROOT / "recipes" / "RAVDESS" / "gemoclap" / "ravdess_prepare.py"
RECORDINGS = SHARED / "data" / "ravdess16k"
EIGHT = ("neu", "cal", "hap", "sad", "ang", "fea", "dis", "sur")

prepare_ravdess = load_script(SCRIPT).prepare_ravdess


def names_of_actor(actor):
    for emotion, intensity, statement, repetition in itertools.product(
        range(1, 9), (1, 2), (1, 2), (1, 2)
    ):
        # Neutral has no strong intensity.
        if (emotion, intensity) != (1, 2):
            fields = (3, 1, emotion, intensity, statement, repetition, actor)
            yield "-".join(f"{field:02d}" for field in fields)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """All 1,440 names: WAV at 48 kHz, and FLAC at 8 kHz for the women."""
    root = tmp_path_factory.mktemp("ravdess") / "RAVDESS"
    content = {}
    for ending, rate in ((".wav", 48000), (".flac", 8000)):
        path = root.parent / f"silence{ending}"
        soundfile.write(path, np.zeros(rate // 100), rate)
        content[ending] = path.read_bytes()
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        ending = ".wav" if actor % 2 else ".flac"
        for name in names_of_actor(actor):
            (folder / f"{name}{ending}").write_bytes(content[ending])
    return root


@pytest.fixture
def two_folds(corpus, tmp_path):
    """Actors 1, 4, 9, 22 (fold 5) and 3, 6, 7, 13, 18 (fold 2), to add issues to."""
    for actor in (1, 4, 9, 22, 3, 6, 7, 13, 18):
        name = f"Actor_{actor:02d}"
        shutil.copytree(corpus / name, tmp_path / "RAVDESS" / name)
    return tmp_path / "RAVDESS"


def read_parts(result):
    return {
        part: pandas.read_csv(result[f"{part}_csv"], dtype={"session": str})
        for part in ("train", "valid", "test")
    }


def actors_of(frame):
    return {int(name.removeprefix("Actor_")) for name in frame["spk_id"]}


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("fold", "actors"),
    [
        (1, {2, 5, 14, 15, 16}),
        (2, {3, 6, 7, 13, 18}),
        (3, {10, 11, 12, 19, 20}),
        (4, {8, 17, 21, 23, 24}),
        (5, {1, 4, 9, 22}),
    ],
)
def test_folds(corpus, tmp_path, caplog, fold, actors):
    result = prepare_ravdess(corpus, tmp_path, fold)
    parts = read_parts(result)
    assert actors_of(parts["test"]) == actors
    assert len(parts["test"]) == 60 * len(actors)
    assert set(parts["test"]["session"]) == {str(fold)}
    held_out = actors_of(parts["valid"])
    assert len(held_out) == 2
    assert {actor % 2 for actor in held_out} == {0, 1}
    assert actors_of(parts["train"]) == set(range(1, 25)) - actors - held_out
    frame = pandas.concat(parts.values())
    assert len(frame) == 1440
    assert Counter(frame["emotion"]) == {name: 96 if name == "neu" else 192 for name in EIGHT}
    assert warnings_of(caplog) == []
    assert result["notes"] == []


def test_rows(corpus, tmp_path):
    result = prepare_ravdess(corpus, tmp_path, fold=1)
    frame = pandas.concat(read_parts(result).values()).set_index("ID")
    assert ("ID", *frame.columns) == (*COLUMNS, "label", "intensity")
    row = frame.loc["03-01-05-02-02-01-16"]
    assert row.to_dict() == {
        "duration": 0.01,
        "wav": "$data_root/Actor_16/03-01-05-02-02-01-16.flac",
        "spk_id": "Actor_16",
        "gender": "F",
        "emotion": "ang",
        "session": "1",
        "transcript": "Dogs are sitting by the door.",
        "label": "ang",
        "intensity": "strong",
    }
    row = frame.loc["03-01-02-01-01-02-01"]
    assert (row["gender"], row["emotion"], row["intensity"]) == ("M", "cal", "normal")
    assert row["wav"].endswith(".wav")
    assert row["transcript"] == "Kids are talking by the door."
    read_manifest(result["test_csv"], result["data_root"], {"emotion": EIGHT, "gender": ("F", "M")})


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (
            {"classes": ["neu", "hap", "sad", "ang"]},
            {"neu": 96, "hap": 192, "sad": 192, "ang": 192},
        ),
        ({"classes": "ang, neu"}, {"neu": 96, "ang": 192}),
        (
            {"merge_calm": True},
            {name: 288 if name == "neu" else 192 for name in EIGHT if name != "cal"},
        ),
        ({"classes": ["neu", "sad"], "merge_calm": True}, {"neu": 288, "sad": 192}),
        ({"classes": ["neu", "cal", "sad"], "merge_calm": True}, {"neu": 288, "sad": 192}),
    ],
)
def test_classes(corpus, tmp_path, caplog, options, counts):
    result = prepare_ravdess(corpus, tmp_path, fold=3, **options)
    frame = pandas.concat(read_parts(result).values())
    assert Counter(frame["emotion"]) == counts
    assert warnings_of(caplog) == []
    if options.get("merge_calm"):
        merged = frame[frame["emotion"] == "neu"]
        assert Counter(merged["label"]) == {"neu": 96, "cal": 192}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fold": 0}, "fold must be one of 1, 2, 3, 4, 5"),
        ({"fold": 1, "classes": ["neu", "happy"]}, "'happy'"),
        ({"fold": 1, "classes": ["neu", "cal"], "merge_calm": True}, "cal is merged into another"),
        ({"fold": 1, "classes": ["neu"]}, "at least two"),
        ({"fold": 1, "validation": "session"}, "'session'"),
        ({"fold": 1, "valid_speakers": 19}, "19 of 19 speakers"),
        ({"fold": 1, "valid_speakers": [2]}, "Actor_02"),
    ],
)
def test_arguments_that_do_not_fit(corpus, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        prepare_ravdess(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_validation(corpus, tmp_path):
    parts = read_parts(prepare_ravdess(corpus, tmp_path / "a", 1, valid_speakers=[1, 4]))
    assert actors_of(parts["valid"]) == {1, 4}
    parts = read_parts(prepare_ravdess(corpus, tmp_path / "b", 1, valid_speakers=4))
    assert Counter(actor % 2 for actor in actors_of(parts["valid"])) == {0: 2, 1: 2}
    parts = read_parts(prepare_ravdess(corpus, tmp_path / "c", 1, validation="random"))
    assert len(parts["valid"]) == 114
    assert len(actors_of(parts["valid"])) == 19
    result = prepare_ravdess(corpus, tmp_path / "d", 1, validation="test")
    parts = read_parts(result)
    assert list(parts["valid"]["ID"]) == list(parts["test"]["ID"])
    assert len(parts["train"]) == 1140
    assert "Validated on the test session (1)" in result["notes"][0]


def test_seed_moves_the_held_out_speakers(corpus, tmp_path):
    drawn = {
        frozenset(
            actors_of(
                read_parts(
                    prepare_ravdess(corpus, tmp_path / str(seed), 5, ["neu", "ang"], seed=seed)
                )["valid"]
            )
        )
        for seed in range(4)
    }
    assert len(drawn) > 1


def test_issues_are_counted_and_stop_nothing(two_folds, tmp_path, caplog):
    caplog.set_level("INFO")
    # The copy on Kaggle has every actor a second time, one folder deeper.
    shutil.copytree(two_folds / "Actor_01", two_folds / "audio_speech_actors_01-24" / "Actor_01")
    folder = two_folds / "Actor_03"
    (folder / "._03-01-01-01-01-01-03.wav").write_bytes(b"\x00\x05\x16\x07")
    shutil.copy(folder / "03-01-01-01-01-01-03.wav", folder / "03-02-01-01-01-01-03.wav")
    shutil.copy(folder / "03-01-01-01-01-01-03.wav", folder / "noise.wav")
    shutil.copy(folder / "03-01-01-01-01-01-03.wav", folder / "03-01-01-01-01-01-25.wav")
    (folder / "03-01-02-01-01-01-03.wav").write_bytes(b"")
    (folder / "03-01-02-01-01-02-03.wav").unlink()
    (folder / "notes.txt").write_text("")

    result = prepare_ravdess(two_folds, tmp_path / "out", fold=5)
    frame = pandas.concat(read_parts(result).values())
    assert len(frame) == 538
    assert frame["ID"].is_unique
    assert not frame["wav"].str.contains("audio_speech").any()
    issues = json.loads((tmp_path / "out" / "prepare.json").read_text())["issues"]
    assert issues == {
        "AppleDouble files (._*), ignored": 1,
        "audio files with other names than RAVDESS has, left out": 2,
        "files of the same name as another, counted once": 60,
        "files that are unreadable or zero-length, left out": 1,
        "songs or sound tracks of videos, left out": 1,
    }
    for kind in issues:
        assert len([r for r in caplog.records if kind in r.getMessage()]) == 1
    (warning,) = warnings_of(caplog)
    assert "expected 1440" in warning
    assert "found 538" in warning


def test_actors_may_lie_deeper(two_folds, tmp_path):
    (tmp_path / "up").mkdir()
    two_folds.rename(tmp_path / "up" / "Audio_Speech_Actors_01-24")
    result = prepare_ravdess(tmp_path / "up", tmp_path / "out", fold=2)
    rows = read_manifest(result["test_csv"], result["data_root"])
    assert len(rows) == 300


def test_fold_whose_actors_are_missing(two_folds, tmp_path):
    with pytest.raises(ValueError, match="session 1, which has no utterances; found sessions 2, 5"):
        prepare_ravdess(two_folds, tmp_path / "out", fold=1)


def test_folder_without_speech(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        prepare_ravdess(tmp_path / "nowhere", tmp_path / "out", fold=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No RAVDESS speech file"):
        prepare_ravdess(tmp_path / "empty", tmp_path / "out", fold=1)


def test_second_time_is_skipped_until_something_differs(two_folds, tmp_path):
    out = tmp_path / "out"
    first = prepare_ravdess(two_folds, out, fold=5)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare_ravdess(two_folds, out, fold=5) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    prepare_ravdess(two_folds, out, fold=5, merge_calm=True)
    assert "cal" not in set(pandas.read_csv(out / "train.csv")["emotion"])


@pytest.mark.slow
def test_command_line(two_folds, tmp_path):
    command = [sys.executable, str(SCRIPT), "RAVDESS", "out", "--fold", "5", "--classes", "neu,ang"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(pandas.read_csv(tmp_path / "out" / "test.csv")) == 4 * (4 + 8)


def test_real_recordings(tmp_path, caplog):
    if not RECORDINGS.is_dir():
        pytest.skip(f"needs real speech: {RECORDINGS} is absent")
    folds_from_0 = {
        int(fold) + 1: {int(actor) for actor in actors.split(", ")}
        for fold, actors in re.findall(
            r"^\| (\d) \| ([\d, ]+) \|$", (RECORDINGS / "README.md").read_text(), re.MULTILINE
        )
    }
    assert set(folds_from_0) == {1, 2, 3, 4, 5}
    for fold, actors in folds_from_0.items():
        result = prepare_ravdess(RECORDINGS, tmp_path / str(fold), fold)
        parts = read_parts(result)
        assert actors_of(parts["test"]) == actors
        assert sum(map(len, parts.values())) == 1440
    assert warnings_of(caplog) == []
    rows = read_manifest(result["valid_csv"], result["data_root"], {"emotion": EIGHT})
    for row in rows.values():
        samples, rate = soundfile.read(row["wav"])
        assert abs(row["duration"] - len(samples) / rate) < 1e-5
