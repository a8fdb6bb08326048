"""The scaling benchmark: rows that are measured, and one that does not fit."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT, load_script

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield load_script(ROOT / "benchmarks" / "scaling.py")
    for name in ("padding", "encoder_tables", "encoders"):
        sys.modules.pop(name, None)


def test_rows_and_goal(benchmark, capsys, monkeypatch):
    asked, measured = [], benchmark.measure

    def measure(options, processes, way, size):
        asked.append((processes, way, size))
        found = {"peak": 9e9, "seconds": 2.0}
        if len(asked) == 2:
            # More take no other path here.
            found = measured(options, 1, way, size)
        return None if asked[-1] == (1, "direct", 16) else found

    monkeypatch.setattr(benchmark, "measure", measure)
    sizes = ["--size", "tiny", "--batch-sizes", "8", "16", "--micro-batch-size", "4"]
    assert benchmark.main([*sizes, "--threads", "1", "--processes", "1"]) == 1
    ways = ("direct", "micro-batches")
    assert asked == [(1, way, size) for size in (8, 16) for way in ways]
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    assert [row[:3] for row in rows] == [[str(size), "1", way] for _, way, size in asked]
    _, _, _, peak, seconds, rate = rows[1]
    assert 300 < float(peak) < 5000 and 0 < float(seconds) < 300
    assert float(rate) > 0
    assert rows[2][3] == "does not fit"
    assert any(line.endswith("goal at most 1.3: not reached") for line in lines)


def test_what_does_not_fit_is_told_apart_from_other_errors(benchmark, tmp_path):
    options = benchmark.parse(["--size", "tiny", "--memory-limit", "0.3", "--threads", "1"])
    options.folder, options.families, options.attention_dropout = tmp_path, ["wavlm"], 0.1
    benchmark.save_models(options)
    assert benchmark.measure(options, 1, "direct", 8) is None
    options.memory_limit = 16.0
    (tmp_path / "text/config.json").unlink()
    with pytest.raises(RuntimeError, match="1 processes, direct, batch of 8:"):
        benchmark.measure(options, 1, "direct", 8)
