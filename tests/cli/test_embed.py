"""`gemoclap embed` against `encode_batch`."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.printed import names


def test_embed_into_npy_with_ids(classifier, model, audio, broken, tmp_path, command):
    output = tmp_path / "new" / "x.npy"
    status, out, err = command("embed", broken, audio, "--model", model, "--output", output)
    assert (status, out) == (1, "")
    assert "broken.wav" in err
    found = np.load(output)
    assert found.dtype == np.float32
    expected = torch.stack(
        [classifier.encode_batch(classifier.load_audio(p))[0, 0] for p in names(audio)]
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert pd.read_csv(output.with_name("x.ids.csv"))["ID"].tolist() == names(audio)
    assert sorted(file.name for file in output.parent.iterdir()) == ["x.ids.csv", "x.npy"]


def test_embed_writes_nothing_from_nothing(model, broken, tmp_path, command):
    folder = tmp_path / "new"
    status, _, err = command("embed", broken, "--model", model, "--output", folder / "x.npy")
    assert status == 1
    assert "no file could be read" in err
    assert not folder.exists()


def test_parquet_without_pyarrow_names_the_extra(model, audio, tmp_path, command, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "pyarrow" else original(name, *a),
    )
    output = tmp_path / "x.parquet"
    status, _, err = command("embed", audio, "--model", model, "--output", output)
    assert status == 2
    assert "gemoclap_sb[parquet]" in err
    assert not output.exists()


def test_embed_into_parquet(classifier, model, audio, tmp_path, command):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    output = tmp_path / "x.parquet"
    status, _, _ = command("embed", audio, "--model", model, "--output", output)
    assert status == 0
    frame = pd.read_parquet(output)
    assert frame["ID"].tolist() == names(audio)
    expected = classifier.embed_files(names(audio), progress=False).numpy()
    np.testing.assert_allclose(np.stack(frame["embedding"]), expected, atol=1e-4)
