"""A manifest beside its embeddings: joined by ID, and what is wrong with either is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gemoclap_sb.data.csv_rows import ManifestError
from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.inference.embedded_manifest import open_embedded
from gemoclap_sb.inference.shards import EmbeddingJob, ShardError
from tests.embedded_speakers import MODEL, Embedded, blobs, write_embedded

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def written(tmp_path) -> Embedded:
    vectors = {"Ann": blobs([9]), "Bob, Jr.": blobs([4], seed=1), "=C": blobs([5], seed=2)}
    return write_embedded(tmp_path, vectors, without={"Ann": 3, "Dan": 2})


def test_rows_are_joined_by_id(written):
    embedded = open_embedded(written.csv, written.folder)
    assert (embedded.size, embedded.embedded, embedded.manifest.rows) == (8, 18, 23)
    seen, without = [], []
    for part in embedded.manifest.parts:
        for block in embedded.read(part):
            seen += block.ids
            assert list(block.speakers) == [written.speakers[name] for name in block.ids]
            assert list(block.wavs) == [f"{name}.wav" for name in block.ids]
            if block.vectors is None:
                without += block.ids
            else:
                expected = np.array([written.vectors[name] for name in block.ids])
                np.testing.assert_array_equal(block.vectors, expected)
    assert sorted(seen) == sorted(written.speakers)
    assert sorted(without) == ["Ann/x0", "Ann/x1", "Ann/x2", "Dan/x0", "Dan/x1"]


def test_a_part_may_have_no_embedding(tmp_path):
    written = write_embedded(tmp_path, {"Ann": blobs([1])}, 1, without={"Bob": 1})
    embedded = open_embedded(written.csv, written.folder)
    blocks = [block for part in embedded.manifest.parts for block in embedded.read(part)]
    assert sorted((list(block.ids), block.vectors is None) for block in blocks) == [
        (["Ann/0"], False), (["Bob/x0"], True),
    ]  # fmt: skip


def test_no_data_root_is_asked_for(tmp_path):
    (tmp_path / "all.csv").write_text("ID,wav,who\na,$data_root/a.wav,Ann\n")
    manifest = cut_manifest(tmp_path / "all.csv", tmp_path)
    job = EmbeddingJob(manifest, str(tmp_path / "out"), MODEL, "emotion")
    job.open_folder()
    job.write(manifest.parts[0], ["a"], blobs([1]), [])
    embedded = open_embedded(tmp_path / "all.csv", tmp_path / "out", "who")
    [block] = embedded.read(embedded.manifest.parts[0])
    assert block.wavs == ("$data_root/a.wav",)


def rewritten(path: Path, **columns) -> None:
    """Write a part again with other columns, and the same metadata."""
    table = pq.read_table(path)
    for name, change in columns.items():
        place = table.schema.get_field_index(name)
        cells = change(table.column(name).to_pylist())
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(cells, field.type))
    pq.write_table(table, path)


def told_otherwise(**changes: str | None):
    """A part whose metadata say something else, or nothing."""

    def do(path: Path) -> None:
        table = pq.read_table(path)
        told = dict(table.schema.metadata)
        for key, value in changes.items():
            told.pop(key := f"gemoclap_sb.{key}".encode())
            told |= {} if value is None else {key: value.encode()}
        pq.write_table(table.replace_schema_metadata(told), path)

    return do


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """One byte of an embedding is another."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PAR1") + 200] ^= 255
    path.write_bytes(data)


DAMAGES = {
    "half": (half, "ArrowInvalid"),
    "nothing": (lambda path: path.write_bytes(b""), "ArrowInvalid"),
    "IDs in another order": (
        lambda path: rewritten(path, ID=lambda cells: cells[::-1]),
        "its IDs are not those",
    ),
    "foreign IDs": (lambda path: rewritten(path, ID=lambda c: ["x", *c[1:]]), "its IDs are not"),
    "repeated IDs": (lambda path: rewritten(path, ID=lambda c: [c[1], *c[1:]]), "its IDs are not"),
    "NaN": (
        lambda path: rewritten(path, embedding=lambda c: [[float("nan")] * 8, *c[1:]]),
        "not finite",
    ),
    "another size": (
        lambda path: rewritten(path, embedding=lambda c: [[1.0]] * len(c)),
        "1 numbers an embedding, not 8",
    ),
    "a byte": (flipped, ""),
    "no size": (told_otherwise(size=None), "KeyError"),
    "a size of 0": (told_otherwise(size="0"), "embeddings of 7 rows"),
    "no failures": (told_otherwise(errors=None), "KeyError"),
    "failures of nothing": (told_otherwise(errors="[[1]]"), "TypeError"),
    "rows are gone": (
        lambda path: pq.write_table(pq.read_table(path).slice(1), path),
        "embeddings of 7 rows",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_the_file_and_what_to_do(damage, written):
    do, reason = DAMAGES[damage]
    path = sorted(written.folder.glob("part-*"))[1]
    do(path)
    with pytest.raises(ShardError) as error:
        embedded = open_embedded(written.csv, written.folder)
        for part in embedded.manifest.parts:
            list(embedded.read(part))
    told = str(error.value)
    assert told.startswith(f"{path} is damaged (") and "\n" not in told and reason in told
    assert told.endswith("Delete it, and give `gemoclap embed` again.")


def test_a_linear_classifiers_embeddings_are_told_from_damage(written):
    path = sorted(written.folder.glob("part-*"))[1]
    rewritten(path, embedding=lambda cells: [[2.0] * 8, *cells[1:]])
    embedded = open_embedded(written.csv, written.folder)
    with pytest.raises(ShardError, match=r"expected embeddings of length 1, found 5\.65") as error:
        list(embedded.read(embedded.manifest.parts[1]))
    told = str(error.value)
    assert told.startswith(f"{path}: ") and "damaged" not in told and "linear layer" in told


def changed(written: Embedded, old: str, new: str) -> None:
    text = written.csv.read_text()
    assert old in text
    written.csv.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("spk_id", "speaker", "missing column spk_id. Found the columns ID, wav, speaker, emotion"),
        ('"Ann"', '" "', "the spk_id is empty"),
        ('"Ann/3"', '"Ann/33"', "those of another manifest"),
        ("Ann/3.wav", "ann/3.wav", "those of another manifest"),
        ("secret\n", "secret\nnew,new.wav,Ann,secret\n", "those of another manifest"),
    ],
)
def test_a_manifest_that_does_not_go_with_them_is_told(old, new, told, written):
    changed(written, old, new)
    with pytest.raises((ManifestError, ShardError), match=re.escape(told)) as error:
        open_embedded(written.csv, written.folder)
    assert ("--speaker-column" in str(error.value)) == (old == "spk_id")


def test_a_manifest_that_changes_meanwhile_is_told(written):
    embedded = open_embedded(written.csv, written.folder)
    changed(written, '"Ann"', '"Eve"')
    with pytest.raises(ManifestError, match="has changed while"):
        for part in embedded.manifest.parts:
            list(embedded.read(part))


def test_embeddings_that_are_unfinished_are_told(written):
    first, *_ = sorted(written.folder.glob("part-*"))
    first.unlink()
    with pytest.raises(ShardError) as error:
        open_embedded(written.csv, written.folder)
    told = str(error.value)
    assert f"1 of 4 parts are missing, as {first.name}. Finish them: `gemoclap embed" in told
    assert f"{written.csv} --output {written.folder} --rows-per-part 7`" in told


def test_what_is_no_folder_of_embeddings_is_told(written, tmp_path):
    for folder in (tmp_path, written.csv, tmp_path / "none"):
        with pytest.raises(ShardError, match="expected the folder of a manifest's embeddings"):
            open_embedded(written.csv, folder)
    description = written.folder / "__about__" / "embeddings.json"
    whole = json.loads(description.read_text())
    for key, value in (("rows_per_part", "7"), ("rows_per_part", True), ("model", "")):
        description.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(ShardError, match=f"expected {key}, found {value!r}"):
            open_embedded(written.csv, written.folder)
    description.write_text("[1]")
    with pytest.raises(ShardError, match="cannot be read"):
        open_embedded(written.csv, written.folder)
