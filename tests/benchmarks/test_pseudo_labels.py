"""The benchmark of pseudo-labels: rows that are measured, and the goal."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT, load_script

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield load_script(ROOT / "benchmarks" / "pseudo_labels.py")
    for name in ("padding", "encoder_tables"):
        sys.modules.pop(name, None)


def test_a_row_and_the_goal(benchmark, capsys, monkeypatch):
    measured, first = benchmark.measure, {}

    def measure(options, hours):
        if first:
            # A second one would take as long, and no other path.
            assert hours == 0.02
            return first | {"peak": 1.3 * first["peak"]}
        first.update(measured(options, hours))
        return first

    monkeypatch.setattr(benchmark, "measure", measure)
    small = ["--hours", "0.01", "--block-seconds", "15", "--n-mels", "16", "--clusters", "4", "140"]
    assert benchmark.main([*small, "--passes", "1", "--times", "1", "2"]) == 1
    # 36 s in utterances of 1 to 9 s, and a frame every 128 ms.
    assert 36 <= first["frames"] * 0.128 < 50
    # The SE-ResNet's blocks have 16 x 8, 32 x 4, 32 x 4, 64 x 2 and 64 x 2 channels and bands.
    assert first["features"] == pytest.approx(first["frames"] * 4 * 5 * 128, rel=0.05)
    # Two scales of up to 280 classes in two bytes each, and NumPy's header.
    assert first["labels"] == pytest.approx(first["frames"] * 4, abs=200)
    assert "memory at 2 times over that at 1: 1.30, goal at most 1.2: not reached" in (
        capsys.readouterr().out
    )
