"""Parts of a manifest against pandas, which reads it as a whole."""

from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest

from gemoclap_sb.data.csv_rows import ManifestError
from gemoclap_sb.data.parts import PartedManifest, cut_manifest

# A byte order mark, line ends of Windows, an empty line, a comma and a line end in quotes.
HARD = (
    "\ufeffwav,transcript,ID\r\n"
    '"a, b.wav","two\r\nlines",a\r\n'
    "\r\n"
    "b.wav,Zażółć,b\r\n"
    'c.wav,"""so""", c \r\n'
    "d.wav,,d"
)


def all_rows(manifest: PartedManifest) -> list[tuple[str, str]]:
    return [(row.ID, row.wav) for part in manifest.parts for row in manifest.read(part)]


@pytest.mark.parametrize("rows_per_part", [1, 2, 3, 4, 100])
def test_the_parts_are_what_pandas_reads(rows_per_part, tmp_path: Path):
    path = tmp_path / "all.csv"
    path.write_bytes(HARD.encode())
    manifest = cut_manifest(path, rows_per_part=rows_per_part)
    frame = pd.read_csv(path, encoding="utf-8-sig")
    expected = [(row.ID.strip(), row.wav) for row in frame.itertuples()]
    assert all_rows(manifest) == expected
    assert manifest.rows == 4
    sizes = [part.rows for part in manifest.parts]
    assert sizes[:-1] == [rows_per_part] * (len(sizes) - 1)
    # In any order, and from another process.
    again = pickle.loads(pickle.dumps(manifest))
    assert [row.ID for row in again.read(again.parts[-1])] == ["abcd"[i] for i in range(4)][
        -sizes[-1] :
    ]


def test_paths_start_from_the_data_root_the_manifest_or_here(tmp_path: Path, monkeypatch):
    for name in ("root/a.wav", "corpus/b.wav", "here/c.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    path = tmp_path / "corpus" / "all.csv"
    path.write_text(f"ID,wav\na,$data_root/a.wav\nb,b.wav\nc,c.wav\nd,{tmp_path}/d.wav\n")
    monkeypatch.chdir(tmp_path / "here")
    manifest = cut_manifest("../corpus/all.csv", "../root")
    monkeypatch.chdir(tmp_path)
    found = [Path(row.path).resolve() for row in manifest.read(manifest.parts[0])]
    expected = ["root/a.wav", "corpus/b.wav", "here/c.wav", "d.wav"]
    assert found == [tmp_path / name for name in expected]


def test_the_digest_is_of_rows_and_cut_and_not_of_places(tmp_path: Path):
    text = "ID,wav\na,$data_root/a.wav\nb,$data_root/b.wav\n"
    paths = [tmp_path / name for name in ("x/1.csv", "y/2.csv", "y/3.csv")]
    for path, content in zip(
        paths, (text, text.replace("\n", "\r\n"), text + "c,c.wav\n"), strict=True
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, newline="")
    one, same, more = (cut_manifest(path, path.parent) for path in paths)
    assert one.digest == same.digest != more.digest
    assert cut_manifest(paths[0], tmp_path, rows_per_part=1).digest != one.digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ID,wav\na,a.wav\nb,b.wav\na,c.wav\n", "row 3, ID 'a': duplicate ID"),
        ("ID,path\na,a.wav\n", "missing column wav"),
        ("ID,wav\n", "no rows"),
        ("ID,wav\na,a.wav\n,b.wav\n", "row 2, ID '': the ID is empty"),
        ("ID,wav\na,\n", "the wav is empty"),
        ("ID,wav\na,a.wav,more\n", "expected 2 cells"),
        ("ID,wav\na,$data_root/a.wav\n", "--data-root"),
        ("ID,wav\na,$home/a.wav\n", "has $home"),
        ('ID,wav\na,"a\x1b.wav"\n', "control character"),
    ],
)
def test_what_is_wrong_names_the_row(text, told, tmp_path: Path):
    path = tmp_path / "all.csv"
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
        cut_manifest(path)
    assert str(path) in str(error.value) and told in str(error.value)


def test_what_is_no_text_or_no_file_is_told(tmp_path: Path):
    (tmp_path / "all.csv").write_bytes(b"ID,wav\na,\xff.wav\n")
    with pytest.raises(ManifestError, match="not UTF-8 .byte 9"):
        cut_manifest(tmp_path / "all.csv")
    for name in ("none.csv", "."):
        with pytest.raises(ManifestError):
            cut_manifest(tmp_path / name)


def test_a_manifest_that_changes_meanwhile_is_noticed(tmp_path: Path):
    path = tmp_path / "all.csv"
    path.write_text("ID,wav\na,a.wav\nb,b.wav\n")
    manifest = cut_manifest(path, rows_per_part=1)
    path.write_text("ID,wav\nabc,a.wav\nb,b.wav\n")
    with pytest.raises(ManifestError, match="has changed"):
        manifest.read(manifest.parts[1])


def test_a_large_manifest_is_small_for_those_it_is_sent_to(tmp_path: Path):
    path = tmp_path / "all.csv"
    rows = [f"utterance_{i:06d},recordings/{i % 100}/{i}.wav" for i in range(50_000)]
    path.write_text("ID,wav\n" + "\n".join(rows))
    manifest = cut_manifest(path)
    assert len(manifest.parts) == 49
    assert len(pickle.dumps(manifest)) < 10_000
    last = manifest.read(manifest.parts[-1])
    assert [row.ID for row in last] == [row.split(",")[0] for row in rows[48 * 1024 :]]


def test_further_columns_are_read_beside_id_and_wav(tmp_path: Path):
    path = tmp_path / "all.csv"
    text = 'spk_id,ID,x,wav\nAnn,a,1,$data_root/a.wav\n"B, C" ,b,2,b.wav\n'
    path.write_text(text)
    manifest = cut_manifest(path, rows_per_part=1, more=["spk_id"], audio=False)
    found = [row for part in manifest.parts for row in manifest.cells(part)]
    assert found == [("a", "$data_root/a.wav", "Ann"), ("b", "b.wav", "B, C")]
    # The parts are those of embeddings that know of no further column.
    plain = cut_manifest(path, tmp_path, rows_per_part=1)
    assert plain.digest == manifest.digest
    assert plain.cells(plain.parts[1]) == [("b", "b.wav")]

    path.write_text(text.replace("Ann", "Eve"))
    other = cut_manifest(path, rows_per_part=1, more=["spk_id"], audio=False)
    assert other.digest == manifest.digest and other.more_digest != manifest.more_digest
    with pytest.raises(ManifestError, match="has changed while"):
        manifest.cells(manifest.parts[0])
    assert plain.read(plain.parts[0])[0].ID == "a"


def test_a_further_cell_that_is_empty_is_told(tmp_path: Path):
    path = tmp_path / "all.csv"
    path.write_text("ID,wav,spk_id\na,a.wav,Ann\nb,b.wav, \n")
    assert cut_manifest(path).rows == 2
    with pytest.raises(ManifestError, match="row 2, ID 'b': the spk_id is empty"):
        cut_manifest(path, more=["spk_id"])
    with pytest.raises(ManifestError, match="missing column age"):
        cut_manifest(path, more=["age"])
