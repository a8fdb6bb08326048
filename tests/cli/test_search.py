"""`gemoclap search` against NumPy over what `encode_text` and `embed_files` give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gemoclap_sb.cli.models import model_digest
from tests.cli.printed import names, one_line, parsed

TEXT = "this person sounds angry"


@pytest.fixture(scope="module")
def embedded(classifier, model, audio, tmp_path_factory):
    """What embed would write, and the similarities."""
    folder = tmp_path_factory.mktemp("embedded")
    vectors = classifier.embed_files(names(audio), progress=False).numpy()
    np.save(folder / "x.npy", vectors)
    rows = "".join(f'"{name}",{model_digest(Path(model))[:12]}\n' for name in names(audio))
    (folder / "x.ids.csv").write_text(f"ID,model\n{rows}")
    similarities = vectors @ classifier.encode_text([TEXT])[0].numpy()
    order = np.argsort(-similarities)
    return folder / "x.npy", [(names(audio)[i], float(similarities[i])) for i in order]


def test_search_in_every_format(embedded, model, command):
    path, expected = embedded
    arguments = ["search", TEXT, path, "--model", model]
    status, out, _ = command(*arguments, "--format", "json", "--top-k", 2)
    assert status == 0
    found = [(row["ID"], row["similarity"]) for row in json.loads(out)]
    assert [name for name, _ in found] == [name for name, _ in expected[:2]]
    assert [value for _, value in found] == pytest.approx([v for _, v in expected[:2]], abs=1e-5)

    rows = parsed(command(*arguments, "--format", "csv")[1])
    assert [row["ID"] for row in rows] == [name for name, _ in expected]
    heading, *lines = command(*arguments)[1].splitlines()
    assert heading.split() == ["similarity", "file"]
    assert [line.split(maxsplit=1)[1] for line in lines] == [name for name, _ in expected]


def test_search_block_by_block(embedded, model, command, monkeypatch):
    path, expected = embedded
    monkeypatch.setattr("gemoclap_sb.cli.embedding_files._ROWS", 1)
    out = command("search", TEXT, path, "--model", model, "--format", "csv", "--top-k", 2)[1]
    assert [row["ID"] for row in parsed(out)] == [name for name, _ in expected[:2]]


def test_search_among_rows_knows_its_model(embedded, model, exported, tmp_path, command):
    path, expected = embedded
    status, out, err = command("search", TEXT, path, "--model", exported["pretrained"])
    assert (status, out) == (2, "")
    assert "of another model" in one_line(err)
    # A file of before the second column.
    older = shutil.copy(path, tmp_path / "x.npy")
    pd.DataFrame({"ID": pd.read_csv(path.with_name("x.ids.csv"))["ID"]}).to_csv(
        tmp_path / "x.ids.csv", index=False
    )
    status, out, err = command("search", TEXT, older, "--model", model, "--format", "csv")
    assert status == 0 and "does not say which model" in err
    assert [row["ID"] for row in parsed(out)] == [name for name, _ in expected]


def test_search_in_parquet_knows_its_model(embedded, model, exported, audio, tmp_path, command):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    _, expected = embedded
    path = tmp_path / "x.parquet"
    command("embed", audio, "--model", model, "--output", path)
    status, out, _ = command("search", TEXT, path, "--model", model, "--format", "csv")
    assert status == 0
    assert [row["ID"] for row in parsed(out)] == [name for name, _ in expected]
    status, out, err = command("search", TEXT, path, "--model", exported["pretrained"])
    assert (status, out) == (2, "")
    assert "of another model" in one_line(err) and "--model" in err
    path.write_bytes(path.read_bytes()[:100])
    status, _, err = command("search", TEXT, path, "--model", model)
    assert status == 2
    assert "damaged" in one_line(err)


@pytest.mark.parametrize("place", [4, "numbers", -9])
def test_parquet_with_damaged_bytes_is_one_line(place, embedded, audio, model, tmp_path, command):
    """What pyarrow makes of them is mostly an OSError, of several lines and without a name."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "x.parquet"
    command("embed", audio, "--model", model, "--output", path)
    if place == "numbers":
        column = parquet.read_metadata(path).row_group(0).column(1)
        place = column.data_page_offset + column.total_compressed_size - 40
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes([0x6F] * 8)
    path.write_bytes(content)
    status, out, err = command("search", TEXT, path, "--model", model)
    assert (status, out) == (2, "")
    assert f"{path}: expected what `gemoclap embed` wrote, found" in one_line(err)


@pytest.mark.parametrize("names", [["a", None, "c"], [1, 2, 3]])
def test_parquet_whose_names_are_none(names, model, tmp_path, command):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    rows = np.eye(3, 16, dtype=np.float32).tolist()
    parquet.write_table(pa.table({"ID": names, "embedding": rows}), path)
    status, out, err = command("search", TEXT, path, "--model", model)
    assert (status, out) == (2, "")
    assert "names that are no text" in err.splitlines()[-1]


@pytest.mark.parametrize("cell", ["text", 0.5])
def test_parquet_whose_embeddings_are_none(cell, model, tmp_path, command):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"ID": ["a"], "embedding": [cell]}), path)
    status, out, err = command("search", TEXT, path, "--model", model)
    assert (status, out) == (2, "")
    assert "embeddings that are no lists but " in err.splitlines()[-1] and "pyarrow" not in err


DAMAGE = {
    "huge": lambda v: (1e30 * v).astype(np.float32),
    "another size": lambda v: v[:, :5] / np.linalg.norm(v[:, :5], axis=1, keepdims=True),
    "NaN": lambda v: np.where(np.arange(len(v))[:, None] == 1, np.nan, v),
    "length": lambda v: 2 * v,
    "one row": lambda v: v[:1],
    "more rows": lambda v: np.concatenate([v, v]),
    "a line": lambda v: v[0],
    "whole numbers": lambda v: np.ones_like(v, int),
    "objects": lambda v: np.array([{"a": 1}], object),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "cut", "empty", "no names", "a pipe's names", "none"])
def test_what_embed_did_not_write(damage, embedded, model, tmp_path, command):
    path = tmp_path / "x.npy"
    if damage == "none":
        path.mkdir()
    else:
        shutil.copy(embedded[0], path)
    shutil.copy(embedded[0].with_name("x.ids.csv"), tmp_path / "x.ids.csv")
    if damage in DAMAGE:
        np.save(path, DAMAGE[damage](np.load(path)), allow_pickle=True)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no names":
        (tmp_path / "x.ids.csv").unlink()
    elif damage == "a pipe's names":
        (tmp_path / "x.ids.csv").write_text("name\na\nb\nc\n")
    status, out, err = command("search", TEXT, path, "--model", model)
    assert (status, out) == (2, "")
    assert str(tmp_path) in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "x.npy"], "TEXT: expected words"),
        (["\udcff", "x.npy"], "TEXT: expected words in UTF-8"),
        (["a", "x.csv"], "FILE: expected a file that ends in .npy"),
        (["a", "none.npy"], "none.npy: expected a file of embeddings"),
        (["a", "x.npy", "--top-k", "0"], "expected 1 and more, found 0"),
        (["a", "x.npy", "--top-k", "1e9"], "found 1e9"),
    ],
)
def test_usage(arguments, message, model, command):
    status, out, err = command("search", *arguments, "--model", model)
    assert (status, out) == (2, "")
    assert message in one_line(err)


def test_the_model_must_be_named(command):
    status, _, err = command("search", "a", "x.npy")
    assert status == 2
    assert "--model" in one_line(err)
