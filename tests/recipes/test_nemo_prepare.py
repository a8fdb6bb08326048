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

SCRIPT = ROOT / "recipes" / "nEMO" / "gemoclap" / "nemo_prepare.py"
RECORDINGS = SHARED / "data" / "nemo16k"
CODES = ("ang", "fea", "hap", "neu", "sad", "sur")
EMOTIONS = ("anger", "fear", "happiness", "neutral", "sadness", "surprised")
# As the corpus's description states them.
PUBLISHED = dict(zip(CODES, (749, 736, 749, 809, 769, 669), strict=True))
TESTED = {1: "EB0 KS0", 2: "IC0 SM0", 3: "KD0 TP0", 4: "MK0 MP0 WR0"}
FOLD_SIZES = {1: 1079, 2: 1078, 3: 1079, 4: 1245}
WOMEN = {"EB0", "IC0", "KD0", "MK0"}
# Every speaker reads 90 sentences in every emotion, but for these.
FEWER = {
    ("EB0", "surprised"): 89,
    ("MK0", "surprised"): 0,
    ("MP0", "anger"): 29,
    ("MP0", "fear"): 17,
    ("MP0", "happiness"): 30,
    ("MP0", "sadness"): 49,
    ("MP0", "surprised"): 41,
    ("SM0", "fear"): 89,
    ("SM0", "happiness"): 89,
    ("TP0", "surprised"): 89,
    ("WR0", "neutral"): 89,
}

prepare_nemo = load_script(SCRIPT).prepare_nemo


def table_line(speaker, emotion, sentence):
    # As in the corpus, some speaker ids have leading spaces.
    padded = f"        {speaker}" if sentence % 2 else speaker
    gender, age = ("female", "27") if speaker in WOMEN else ("male", "23")
    text = f"Zdanie „{sentence}”, z przecinkiem."
    cells = [f"{speaker}_{emotion}_{sentence}.wav", emotion, text, text.lower(), padded, gender]
    return "\t".join([*cells, age])


def write_corpus(root, speakers):
    """WAV at 24 kHz in samples/, as published; one speaker in FLAC, one in Ogg, in folders."""
    content = {}
    for ending, rate in ((".wav", 24000), (".flac", 8000), (".ogg", 16000)):
        path = root.parent / f"silence{ending}"
        soundfile.write(path, np.zeros(rate // 100), rate)
        content[ending] = path.read_bytes()
    lines = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"]
    for speaker in speakers:
        ending = {"KS0": ".flac", "SM0": ".ogg"}.get(speaker, ".wav")
        folder = root / ("samples" if ending == ".wav" else speaker)
        folder.mkdir(parents=True, exist_ok=True)
        for emotion in EMOTIONS:
            for sentence in range(1, FEWER.get((speaker, emotion), 90) + 1):
                lines.append(table_line(speaker, emotion, sentence))
                name = f"{speaker}_{emotion}_{sentence}{ending}"
                (folder / name).write_bytes(content[ending])
    (root / "data.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """All 4,481 names."""
    speakers = " ".join(TESTED.values()).split()
    return write_corpus(tmp_path_factory.mktemp("nemo") / "nEMO", speakers)


@pytest.fixture
def two_folds(tmp_path):
    """MP0 of fold 4, and fold 1, to add issues to."""
    return write_corpus(tmp_path / "nEMO", ("MP0", "EB0", "KS0"))


def read_parts(result):
    return {
        part: pandas.read_csv(result[f"{part}_csv"], dtype={"session": str})
        for part in ("train", "valid", "test")
    }


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_folds_have_the_published_counts(corpus, tmp_path, caplog):
    for fold, names in TESTED.items():
        result = prepare_nemo(corpus, tmp_path / str(fold), fold)
        parts = read_parts(result)
        speakers = {part: set(frame["spk_id"]) for part, frame in parts.items()}
        assert speakers["test"] == set(names.split())
        assert len(parts["test"]) == FOLD_SIZES[fold]
        assert set(parts["test"]["session"]) == {str(fold)}
        assert [len(speakers["valid"]), len(speakers["valid"] & WOMEN)] == [2, 1]
        assert len(set.union(*speakers.values())) == sum(map(len, speakers.values())) == 9
        frame = pandas.concat(parts.values())
        assert Counter(frame["emotion"]) == PUBLISHED
        assert set(frame[frame["gender"] == "F"]["spk_id"]) == WOMEN
    assert warnings_of(caplog) == []


def test_rows(corpus, tmp_path):
    result = prepare_nemo(corpus, tmp_path, fold=1)
    frame = pandas.concat(read_parts(result).values()).set_index("ID")
    assert ("ID", *frame.columns) == (*COLUMNS, "age", "sentence")
    assert frame.loc["KS0_surprised_64"].to_dict() == {
        "duration": 0.01,
        "wav": "$data_root/KS0/KS0_surprised_64.flac",
        "spk_id": "KS0",
        "gender": "M",
        "emotion": "sur",
        "session": "1",
        "transcript": "Zdanie „64”, z przecinkiem.",
        "age": 23,
        "sentence": 64,
    }
    assert frame.loc["EB0_fear_7"]["wav"] == "$data_root/samples/EB0_fear_7.wav"
    rows = read_manifest(result["test_csv"], result["data_root"], {"emotion": CODES})
    assert len(rows) == FOLD_SIZES[1]


def test_classes(corpus, tmp_path, caplog):
    result = prepare_nemo(corpus, tmp_path, fold=4, classes="sur, neu")
    parts = read_parts(result)
    frame = pandas.concat(parts.values())
    assert Counter(frame["emotion"]) == {name: PUBLISHED[name] for name in ("neu", "sur")}
    assert warnings_of(caplog) == []
    with pytest.raises(ValueError, match="'happy'; expected some of ang, fea, hap"):
        prepare_nemo(corpus, tmp_path, fold=4, classes=["happy", "neu"])


def test_validation(corpus, tmp_path):
    given = {"classes": ["ang", "sur"]}
    parts = read_parts(prepare_nemo(corpus, tmp_path / "a", 1, valid_speakers=["MK0"], **given))
    assert set(parts["valid"]["spk_id"]) == {"MK0"}
    parts = read_parts(prepare_nemo(corpus, tmp_path / "b", 1, validation="random", **given))
    assert parts["valid"]["spk_id"].nunique() == 7
    result = prepare_nemo(corpus, tmp_path / "c", 1, validation="test", **given)
    assert "Validated on the test session (1)" in result["notes"][0]
    with pytest.raises(ValueError, match="EB0: the training side has the speakers"):
        prepare_nemo(corpus, tmp_path / "d", 1, valid_speakers=["EB0"], **given)
    with pytest.raises(ValueError, match="fold must be one of 1, 2, 3, 4, found 5"):
        prepare_nemo(corpus, tmp_path / "d", 5, **given)
    assert not (tmp_path / "d").exists()


def test_issues_are_counted_and_stop_nothing(two_folds, tmp_path, caplog):
    caplog.set_level("INFO")
    samples = two_folds / "samples"
    (samples / "._MP0_fear_1.wav").write_bytes(b"\x00\x05\x16\x07")
    shutil.copy(samples / "MP0_fear_1.wav", two_folds / "MP0_fear_1.wav")
    shutil.copy(samples / "MP0_fear_1.wav", samples / "noise.wav")
    (samples / "MP0_fear_2.wav").write_bytes(b"")
    (samples / "MP0_fear_3.wav").unlink()
    with open(two_folds / "data.tsv", "a", encoding="utf-8") as table:
        print(table_line("MP0", "fear", 4), file=table)
        print(table_line("MP0", "disgust", 4), file=table)
        print(table_line("XX0", "fear", 4), file=table)
    prepare_nemo(two_folds, tmp_path / "out", fold=4, valid_speakers=1)
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert record["counts"]["test"]["utterances"] == 254
    assert record["issues"] == {
        "AppleDouble files (._*), ignored": 1,
        "audio files that data.tsv does not name, left out": 1,
        "files of the same name as another, counted once": 1,
        "files that are unreadable or zero-length, left out": 1,
        "rows of data.tsv that name a file again, counted once": 1,
        "rows of data.tsv with values that nEMO does not have, left out": 2,
        "rows of data.tsv without a recording, left out": 1,
    }
    (warning,) = warnings_of(caplog)
    assert "expected 4481" in warning
    assert "found 1333" in warning


def test_folders_that_are_none(two_folds, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        prepare_nemo(tmp_path / "nowhere", tmp_path / "out", fold=1)
    with pytest.raises(FileNotFoundError, match=r"no data.tsv.*nEMO has: give that one"):
        prepare_nemo(tmp_path, tmp_path / "out", fold=1)
    shutil.rmtree(two_folds / "samples")
    shutil.rmtree(two_folds / "KS0")
    with pytest.raises(ValueError, match="No nEMO recording"):
        prepare_nemo(two_folds, tmp_path / "out", fold=1)
    (two_folds / "data.tsv").write_text("file_id,emotion\n")
    with pytest.raises(ValueError, match="missing column file_id"):
        prepare_nemo(two_folds, tmp_path / "out", fold=1)


@pytest.mark.slow
def test_command_line(two_folds, tmp_path):
    command = [sys.executable, str(SCRIPT), "nEMO", "out", "--fold", "4", "--classes", "ang,neu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--valid_speakers", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(pandas.read_csv(tmp_path / "out" / "test.csv")) == 29 + 90


def test_real_recordings(tmp_path, caplog):
    if not RECORDINGS.is_dir():
        pytest.skip(f"needs real speech: {RECORDINGS} is absent")
    described = re.findall(
        r"^\| (\d) \| ([A-Z0, ]+) \| ([\d,]+) \|$",
        (RECORDINGS / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [int(fold) for fold, _, _ in described] == [1, 2, 3, 4]
    for fold, speakers, size in described:
        result = prepare_nemo(RECORDINGS, tmp_path / fold, int(fold))
        parts = read_parts(result)
        assert set(parts["test"]["spk_id"]) == set(speakers.split(", "))
        assert len(parts["test"]) == int(size.replace(",", ""))
        assert sum(map(len, parts.values())) == 4481
    assert warnings_of(caplog) == []
    assert json.loads((tmp_path / "1" / "prepare.json").read_text())["issues"] == {}
    rows = read_manifest(result["valid_csv"], result["data_root"], {"emotion": CODES})
    for row in list(rows.values())[::50]:
        samples, rate = soundfile.read(row["wav"])
        assert abs(row["duration"] - len(samples) / rate) < 1e-5
