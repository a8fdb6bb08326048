"""The arithmetic of a million hours, by hand."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT, load_script

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def benchmark():
    return load_script(ROOT / "benchmarks" / "million_hours.py")


def rows(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_bytes_and_hours(benchmark, capsys):
    assert benchmark.main(["--speed", "100", "--cores", "1", "1000", "--read-gb", "0.5"]) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert [row[1] for row in table[2:7]] == ["115.2", "737.28", "368.64", "2.95", "1.47"]
    # 1e6 h / 100; 32 kB a second of audio, a hundred of them a second.
    assert "10,000 core-hours" in printed
    assert "reads 3.20 MB/s" in printed and "feeds 156 cores" in printed
    one, many = table[9:]
    assert one == ["1", "416.7", "0.003", "20", "the model"]
    # 115.2 TB at 0.5 GB/s, whoever computes.
    assert many == ["1000", "2.7", "0.500", "3,125", "storage"]


def test_compression_and_dimension(benchmark):
    corpus = benchmark.Corpus(hours=1, utterance=10, dimension=512, compressed=0.5)
    assert corpus.recordings == 360
    assert corpus.bytes_in() == 3600 * 32000 / 2
    assert corpus.bytes_out(4, frames=False) == 360 * 512 * 4
    assert corpus.bytes_out(2, frames=True) == pytest.approx(180_000 * 512 * 2)
