"""The benchmark of clusters of speakers: it clusters and times what it says."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT, load_script

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytestmark = [pytest.mark.benchmark, pytest.mark.slow]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield load_script(ROOT / "benchmarks" / "speaker_clusters.py")
    for name in ("padding", "encoder_tables"):
        sys.modules.pop(name, None)


def test_tables_are_printed(benchmark, capsys, monkeypatch):
    fresh, steps, made = benchmark.fresh, [], {}

    def step(name, folder):
        # Two more processes would take as long, and no other path.
        steps.append(name)
        measured = fresh if len(steps) == 1 else benchmark.STEPS[name]
        made[len(steps)] = measured(*((name, folder) if measured is fresh else (folder,)))
        return made[len(steps)]

    monkeypatch.setattr(benchmark, "fresh", step)
    monkeypatch.setattr(benchmark, "DRAWN", 50)
    small = ["--utterances", "2000", "--speakers", "40", "--size", "16", "--sample", "3"]
    assert benchmark.main(small) == 0
    assert steps == ["cluster", "draw"] * 2
    assert [made[i]["rows"] for i in (1, 3)] == [200, 2000]
    assert [made[i]["speakers"] for i in (1, 3)] == [4, 40]
    # A fresh process has nothing of the whole in it.
    assert 0 < made[1]["before"] <= made[1]["after_shuffle"] <= made[1]["peak"]
    printed = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:1] == "|"]
    assert [line[:3] for line in lines[2:4]] == [["200", "4", "1"], ["2000", "40", "1"]]
    assert [line[0] for line in lines[6:8]] == ["200", "2000"]
    assert float(lines[7][2]) > 0
    assert "speakers/s of 50 utterances each" in printed


def test_speakers_are_scattered_and_have_four_groups(benchmark, tmp_path):
    options = benchmark.Namespace(seed=1, size=16)
    benchmark.write_corpus(tmp_path, 600, 3, options)
    embedded = benchmark.open_embedded(tmp_path / "all.csv", tmp_path / "embeddings")
    [block] = embedded.read(embedded.manifest.parts[0])
    changes = sum(a != b for a, b in zip(block.speakers, block.speakers[1:], strict=False))
    assert len(set(block.speakers)) == 3 and changes > 300
    of_one = block.vectors[[who == block.speakers[0] for who in block.speakers]]
    labels, _ = benchmark.cluster_speaker(of_one, "one", benchmark.ClusteringOptions())
    assert set(labels.tolist()) == {0, 1, 2, 3}
