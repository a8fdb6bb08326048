"""`gemoclap agreement` on folders of clusters that were made by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from gemoclap_sb.data.speaker_clusters import (
    COLUMNS,
    RECORD,
    clusters_file,
    clusters_schema,
    write_clusters_file,
)
from gemoclap_sb.files import read_json, write_json
from tests.cli.printed import one_line, parsed

SPEAKERS, FILES = ["ann", "bob", "eve"], 2


@pytest.fixture
def rows() -> list[dict]:
    """Utterances in the order of speakers and clusters, with two columns of labels."""
    generator = np.random.default_rng(0)
    found = []
    for speaker in SPEAKERS:
        for cluster in range(3):
            for i in range(8):
                follows = generator.random() < 0.7
                emotion = ("ang", "hap", "sad")[cluster if follows else generator.integers(3)]
                name = f"{speaker}_{cluster}_{i}"
                row = {"ID": name, "wav": f"{name}.wav", "spk_id": speaker, "cluster": cluster}
                found.append(row | {"emotion": emotion, "style": "loud" if i % 2 else "low"})
    return found


def write_clusters(folder: Path, rows: list[dict]) -> Path:
    of_files = [rows[: len(rows) // 3], rows[len(rows) // 3 :]]
    for number, of in enumerate(of_files):
        table = pa.Table.from_pylist(
            [{name: row[name] for name in COLUMNS} for row in of], schema=clusters_schema()
        )
        write_clusters_file(clusters_file(folder, number, FILES), table)
    write_json(folder / RECORD, {"files": FILES})
    return folder


def write_csv(path: Path, rows: list[dict]) -> Path:
    # Neither in the order of the clusters nor theirs alone.
    lines = [",".join(str(row[name]) for name in ("emotion", "ID", "style")) for row in rows[::-1]]
    path.write_text("\n".join(["emotion,ID,style", "ang,another,low", *lines]) + "\n")
    return path


@pytest.fixture
def given(rows, tmp_path) -> list:
    """What is asked for but the output."""
    clusters = write_clusters(tmp_path / "clusters", rows)
    manifest = write_csv(tmp_path / "all.csv", rows)
    return ["agreement", clusters, "--manifest", manifest, "--shuffles", 99]


def test_all_that_is_written(given, rows, tmp_path, command):
    output = tmp_path / "out"
    status, out, err = command(*given, "--output", output)
    assert status == 0
    assert err.splitlines()[-1] == f"Written: {output}"
    written = parsed((output / "agreement.csv").read_text())
    assert [row["spk_id"] for row in written] == SPEAKERS
    for row in written:
        of = [other for other in rows if other["spk_id"] == row["spk_id"]]
        labels, clusters = ([other[name] for other in of] for name in ("emotion", "cluster"))
        nmi, ari = (
            score(labels, clusters) for score in (normalized_mutual_info_score, adjusted_rand_score)
        )
        assert float(row["nmi"]) == pytest.approx(nmi, abs=1e-6)
        assert float(row["ari"]) == pytest.approx(ari, abs=1e-6)
        assert (row["utterances"], row["clusters"], row["labels"]) == ("24", "3", "3")
        assert 0.01 <= float(row["nmi_p"]) < 0.1

    record = read_json(output / "agreement.json")
    assert record["measures"]["nmi"]["mean"] == pytest.approx(
        np.mean([float(row["nmi"]) for row in written]), abs=1e-6
    )
    asked = (record["clusters"], record["manifest"], record["column"], record["shuffles"])
    assert asked == (str(given[1]), str(given[3]), "emotion", 99)
    table = (output / "agreement.md").read_text()
    assert table.index("mean of 3") < table.index("| ann |") < table.index("| eve |")
    for picture in ("agreement.png", "agreement_clusters.png"):
        assert f"]({picture})" in table
        assert (output / picture).read_bytes().startswith(b"\x89PNG")

    lines = [re.split("  +", line) for line in out.splitlines()]
    assert lines[0][0] == "mean of 3"
    assert [line[0] for line in lines[1:]] == ["NMI", "ARI", "purity"]
    for line, measure in zip(lines[1:], record["measures"].values(), strict=True):
        assert float(line[1]) == pytest.approx(measure["mean"], abs=0.0005)
        assert float(line[3]) == pytest.approx(measure["shuffled"], abs=0.00051)
        assert line[6] == f"{measure['speakers_with_p_below_alpha']} of 3"


def test_the_same_seed_gives_the_same(given, tmp_path, command):
    texts = []
    for number, seed in enumerate((4, 4, 0)):
        output = tmp_path / str(number)
        assert command(*given, "--seed", seed, "--output", output)[0] == 0
        files = ("agreement.csv", "agreement.json", "agreement.md")
        texts.append([(output / name).read_bytes() for name in files])
    assert texts[0] == texts[1]
    assert all(one != other for one, other in zip(texts[0], texts[2], strict=True))


def test_another_column(given, tmp_path, command):
    status, out, _ = command(*given, "--column", "style", "--output", tmp_path / "out")
    assert status == 0
    record = read_json(tmp_path / "out" / "agreement.json")
    # Every cluster has as many of both: nothing can be less.
    assert record["measures"]["nmi"]["mean"] == pytest.approx(0, abs=1e-9)
    assert record["measures"]["nmi"]["p"] == 1
    assert "0 of 3" in out


def test_who_is_left_out_is_told(given, rows, tmp_path, command):
    for row in rows:
        if row["spk_id"] == "ann":
            row["emotion"] = "neu"
    rows[-1]["emotion"] = rows[-2]["emotion"] = ""
    write_csv(given[3], rows)
    status, out, _ = command(*given, "--output", tmp_path / "out")
    assert status == 0
    told = [
        "Left out: 2 utterances without a label.",
        "Left out: 1 speakers with one label: ann.",
    ]
    assert out.splitlines()[-2:] == told
    record = read_json(tmp_path / "out" / "agreement.json")
    assert record["left_out"] == {"one label": ["ann"]}
    assert (record["utterances"], record["utterances_without_label"]) == (46, 2)
    written = parsed((tmp_path / "out" / "agreement.csv").read_text())
    assert [(row["spk_id"], row["utterances"]) for row in written] == [("bob", "24"), ("eve", "22")]


def without_an_utterance(given, rows):
    write_csv(given[3], [row for row in rows if row["ID"] != "bob_1_0"])


def of_one_label(given, rows):
    write_csv(given[3], [row | {"emotion": "neu"} for row in rows])


def repeated(given, rows):
    write_csv(given[3], [*rows, rows[0]])


def unfinished(given, rows):
    (given[1] / RECORD).unlink()


def no_record(given, rows):
    (given[1] / RECORD).write_text("{")


def a_file_less(given, rows):
    clusters_file(given[1], 1, FILES).unlink()


def cut_short(given, rows):
    file = clusters_file(given[1], 0, FILES)
    file.write_bytes(file.read_bytes()[:-200])


def of_no_speaker(given, rows):
    write_json(given[1] / RECORD, {"files": 0})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_an_utterance, r"clusters is of another manifest: 1 of its 72 .*'bob_1_0'\.$"),
        (of_one_label, r"emotion: expected a speaker with at least two labels .* among 3\.$"),
        (repeated, r"all\.csv, row \d+ \(line \d+\), ID 'ann_0_0': duplicate ID, used before$"),
        (unfinished, r"has no clusters\.json: expected a folder that `gemoclap cluster`"),
        (no_record, r"clusters is damaged \(.*delete it and cluster again\.$"),
        (a_file_less, r"speakers-00001-of-00002\.arrow is missing"),
        (cut_short, r"clusters is damaged \(.*delete it and cluster again\.$"),
        (of_no_speaker, r"emotion: expected a speaker .* found none among 0\.$"),
    ],
)
def test_what_cannot_be_compared(spoil, told, given, rows, tmp_path, command):
    spoil(given, rows)
    status, out, err = command(*given, "--output", tmp_path / "out")
    assert (status, out) == (2, "")
    assert re.search(told, one_line(err))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--column", "mood"], "missing column mood. Found the columns emotion, ID, style."),
        (["--shuffles", "0"], "argument --shuffles: expected 1 and more, found 0"),
        (["--seed", "-1"], "argument --seed: expected 0 to 4294967295, found -1"),
        (["--manifest", "no.csv"], "Manifest no.csv is missing."),
    ],
)
def test_options_that_are_wrong(options, told, given, tmp_path, command):
    status, out, err = command(*given, *options, "--output", tmp_path / "out")
    assert (status, out) == (2, "")
    assert told in one_line(err)


def test_the_manifest_is_not_written_over(given, tmp_path, command):
    manifest = given[3].rename(tmp_path / "agreement.csv")
    before = manifest.read_bytes()
    given[3] = manifest
    status, _, err = command(*given, "--output", tmp_path)
    assert status == 2 and "is what is read, and would be lost" in one_line(err)
    assert manifest.read_bytes() == before


def test_without_pyarrow(given, tmp_path, command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = command(*given, "--output", tmp_path / "out")
    assert status == 2 and "pip install 'gemoclap_sb[parquet]'" in one_line(err)
