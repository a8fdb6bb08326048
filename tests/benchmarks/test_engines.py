"""The benchmark of engines: it times and compares what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.export.folder import export
from gemoclap_sb.inference import bulk
from tests.conftest import ROOT, load_script
from tests.run_folders import make_run, telling_model, write_tones

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytestmark = pytest.mark.benchmark
SECONDS = [0.5, 2.0, 0.3, 1.1, 0.9, 0.31, 1.7, 0.6, 0.45, 1.3]


@pytest.fixture(scope="module")
def benchmark():
    return load_script(ROOT / "benchmarks" / "engines.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return export(make_run(folder / "run", telling_model()), folder / "model")


def test_tables_are_printed(benchmark, model, tmp_path: Path, capsys):
    write_tones(tmp_path)
    given = ["--audio", str(tmp_path), "--model", str(model), "--files", "4", "--rounds", "1"]
    assert benchmark.main([*given, "--engines", "local"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 files")
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert table[2][0] == "local"
    # Importing torch takes longer than four recordings.
    assert float(table[2][1]) > 1
    shares = {row[0]: float(row[1]) for row in table[5:]}
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)
    # Of one recording, as in parts of one, nothing is padding.
    assert shares.pop("the model, on padding") == 0
    assert all(share > 0 for share in shares.values())
    assert "Largest difference of a number: 0.0e+00" in printed


def test_padding_is_that_of_the_batches(benchmark, model, tmp_path: Path):
    paths = [str(path) for path in write_tones(tmp_path / "audio")]
    manifest = cut_manifest(benchmark.write_csv(tmp_path / "all.csv", paths), rows_per_part=5)
    classifier = benchmark.GEmoCLAPClassifier.from_pretrained(model, device="cpu")
    shares = benchmark.take_apart(classifier, manifest, tmp_path / "out", model)
    # Two parts of five, each short enough to be one batch.
    padded = 5 * max(SECONDS[:5]) + 5 * max(SECONDS[5:])
    assert shares.padding == pytest.approx(1 - sum(SECONDS) / padded)
    assert 0 < shares.decoding + shares.model < shares.total
    # What was put in their places is gone.
    assert bulk.embed_batch.__module__ == bulk.read_recording.__module__ == bulk.__name__
    assert bulk.embed_batch.__name__ == "embed_batch"


def test_engines_are_the_command(benchmark, model, tmp_path: Path):
    setting = benchmark.Setting(model, 7, "cpu")
    one, two = setting.commands("shards", tmp_path / "all.csv", tmp_path / "out")
    assert one[0][-4:-2] == ["--shard", "1/2"] and two[0][-4:-2] == ["--shard", "2/2"]
    assert one[1] == max(1, torch.get_num_threads() // 2)
    [(command, threads)] = setting.commands("ray", tmp_path / "all.csv", tmp_path / "out")
    assert command[1:4] == ["-m", "gemoclap_sb.cli", "embed"] and "--engine" in command
    assert threads == 0
    with pytest.raises(SystemExit, match="A command failed"):
        benchmark.run(setting.commands("local", tmp_path / "none.csv", tmp_path / "out"))
