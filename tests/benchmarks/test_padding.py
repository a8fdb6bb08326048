"""The padding benchmark: what it prints agrees with figures computed otherwise."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler

from tests.conftest import ROOT, load_script

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def benchmark():
    return load_script(ROOT / "benchmarks" / "padding.py")


def table_of(printed: str) -> dict[str, list[float]]:
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "|" in line][2:]
    return {name: [float(cell) for cell in cells] for name, *cells in rows}


def test_benchmark_reports_padding_and_class_mix(benchmark, tmp_path, capsys):
    durations = np.random.default_rng(0).lognormal(mean=1.3, sigma=0.6, size=5531).clip(0.5, 35)
    # Classes told by length, with noise: sorting by length must unmix them.
    noise = np.random.default_rng(0).normal(scale=0.3, size=len(durations))
    score = np.log(durations) + noise
    labels = np.digitize(score, np.quantile(score, [0.25, 0.5, 0.75]))
    path = tmp_path / "manifest.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["duration", "emotion"])
        writer.writerows(zip(durations, labels, strict=True))
    benchmark.main(["--durations", str(path), "--labels", "emotion", "--epochs", "2"])
    rows = table_of(capsys.readouterr().out)
    ours = rows["LengthPooledBatchSampler, pools of 64"]
    random = rows["random"]
    dynamic = next(cells for name, cells in rows.items() if name.startswith("Dynamic"))

    # Random batches from torch's own pieces, as an independent figure.
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(len(durations), generator=generator).tolist()
    batches = [durations[batch] for batch in BatchSampler(order, 32, False)]
    oracle = durations.sum() / sum(len(batch) * batch.max() for batch in batches)
    assert random[0] == pytest.approx(100 * oracle, abs=2.0)
    assert rows["fully sorted"][0] > ours[0] > random[0]
    assert ours[2:4] == random[2:4] == [173, 172]
    assert dynamic[3] < 172
    assert random[4] > 3.9 and ours[4] < random[4]
    assert ours[7] > random[7] + 0.1


def test_micro_batches_are_padded_by_themselves_and_mixed_as_the_batch(benchmark, tmp_path, capsys):
    durations = np.random.default_rng(0).lognormal(mean=1.3, sigma=0.6, size=2048).clip(0.5, 35)
    path = tmp_path / "manifest.csv"
    lines = [f"{seconds},{seconds > 3.5}" for seconds in durations]
    path.write_text("\n".join(["duration,emotion", *lines]) + "\n")
    sizes = ["--batch-size", "256", "--micro-batches", "8", "256", "--epochs", "1"]
    benchmark.main(["--durations", str(path), "--labels", "emotion", *sizes])
    rows = table_of(capsys.readouterr().out)
    eight, whole = rows["random, micro-batches of 8"], rows["random, micro-batches of 256"]
    # Chunks of a sorted batch of 256, from NumPy alone.
    lengths = np.sort(np.random.default_rng(1).permutation(durations).reshape(8, 256), axis=1)
    chunks = lengths.reshape(-1, 8)
    oracle = chunks.sum() / (8 * chunks.max(axis=1)).sum()
    assert eight[0] == pytest.approx(100 * oracle, abs=1.5)
    assert whole[0] == pytest.approx(rows["random"][0], abs=8.0)
    assert eight[0] > 90 > 40 > whole[0]
    # Of the batch, whatever its micro-batches.
    assert eight[2:] == whole[2:]
    pooled = rows["LengthPooledBatchSampler, pools of 64"]
    assert eight[7] < 0.1 < pooled[7]


def test_class_mix_by_hand(benchmark):
    labels = np.array([0, 0, 1, 1, 0, 1])
    # Half and half in the corpus: the first batch is even, the second has one class,
    # the third is not full and does not count.
    mix = benchmark.class_mix([[0, 2], [1, 4], [3]], labels, batch_size=2)
    assert mix == pytest.approx([1.5, 1.0, 0.5, 0.25])


def test_benchmark_names_a_missing_column(benchmark, tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("seconds\n1.0\n")
    with pytest.raises(ValueError, match="duration"):
        benchmark.main(["--durations", str(path)])


@pytest.mark.parametrize("way", ["random", "pooled", "sorted"])
@pytest.mark.parametrize("count", [1, 4])
def test_typical_batches_cost_what_the_epoch_costs(benchmark, way, count):
    seconds = np.random.default_rng(1).lognormal(1.28, 0.6, 2000)
    epoch = benchmark.make_batches(way, seconds, 32, seed=1, epoch=1)
    assert sorted(index for batch in epoch for index in batch) == list(range(2000))
    picked = benchmark.typical_batches(way, seconds, 32, 1, count)
    assert [len(batch) for batch in picked] == [32] * count
    assert len({tuple(batch) for batch in picked}) == count
    padded, expected = (np.mean([seconds[b].max() for b in of]) for of in (picked, epoch))
    assert padded == pytest.approx(expected, rel=0.1)


def test_durations_fall_back_to_a_sample_and_say_so(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "IEMOCAP", tmp_path / "absent.csv")
    seconds, origin = benchmark.read_seconds(None, "duration", seed=1)
    assert "log-normal" in origin and len(seconds) == 5531
    # IEMOCAP's four classes: mean 4.55 s.
    assert np.mean(seconds) == pytest.approx(4.4, abs=0.3)
