"""Batching by length: coverage, padding, reproducibility, sharing among processes."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from speechbrain.dataio.sampler import DistributedSamplerWrapper

from gemoclap_sb.data.samplers import (
    LengthPooledBatchSampler,
    length_sorted_batches,
    speech_share,
)

ROOT = Path(__file__).resolve().parents[2]
IEMOCAP_DURATIONS = ROOT.parent / "shared" / "data" / "iemocap_durations.csv"


@pytest.fixture(scope="module")
def durations() -> np.ndarray:
    """As many utterances as IEMOCAP's four classes, about as spread as they are."""
    return np.random.default_rng(0).lognormal(mean=1.3, sigma=0.6, size=5531).clip(0.5, 35.0)


@pytest.fixture(scope="module")
def iemocap_durations() -> np.ndarray:
    if not IEMOCAP_DURATIONS.is_file():
        pytest.skip("IEMOCAP's durations are not beside the project (shared/data)")
    return np.loadtxt(IEMOCAP_DURATIONS, skiprows=1)


def padding_written_out(durations, batches) -> float:
    """Speech share from a padded matrix, as a collate function would build it."""
    valid = padded = 0.0
    for batch in batches:
        matrix = np.zeros((len(batch), 1)) + max(durations[i] for i in batch)
        padded += matrix.sum()
        valid += math.fsum(durations[i] for i in batch)
    return valid / padded


def indices_of(batches) -> list[int]:
    return sorted(index for batch in batches for index in batch)


# ------------------------------------------------------------------ one process


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([0.5, 1.0, 1.25, 2.0, 7.5, 30.0]), min_size=1, max_size=200),
    batch_size=st.integers(1, 40),
    pool_batches=st.integers(1, 10),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
def test_every_utterance_once_and_all_batches_full_but_the_last(
    lengths, batch_size, pool_batches, seed, epoch
):
    sampler = LengthPooledBatchSampler(lengths, batch_size, pool_batches, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert indices_of(batches) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), batch_size)
    sizes = [len(batch) for batch in batches]
    if rest == 1 and full:
        # A single utterance shares with the batch before it.
        shared = [batch_size + 1 - (batch_size + 1) // 2, (batch_size + 1) // 2]
        shared = [3] if batch_size == 2 else shared
        assert sorted(sizes) == sorted([batch_size] * (full - 1) + shared)
    else:
        assert sizes == [batch_size] * full + [rest] * (rest > 0)
    assert len(sampler) == len(batches)
    assert all(type(index) is int for batch in batches for index in batch)


def test_short_batch_lies_anywhere_on_the_length_scale():
    lengths = np.arange(1.0, 1001.0)
    sampler = LengthPooledBatchSampler(lengths, 32, pool_batches=64)
    medians = [np.median(lengths[sampler.batches(epoch)[-1]]) for epoch in range(60)]
    assert min(medians) < 250 and max(medians) > 750


def test_seed_and_epoch_alone_decide(durations):
    torch.manual_seed(1)
    np.random.seed(1)
    first = LengthPooledBatchSampler(durations, seed=7)
    first.set_epoch(3)
    one = list(first)
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.get_rng_state()
    second = LengthPooledBatchSampler(torch.tensor(durations), seed=7)
    for epoch in (5, 1, 3):
        second.set_epoch(epoch)
        two = list(second)
    assert one == two
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"


def test_epochs_and_seeds_differ(durations):
    epochs = {str(LengthPooledBatchSampler(durations, seed=1).batches(e)) for e in range(6)}
    assert len(epochs) == 6
    # seed + epoch would make these two the same.
    assert LengthPooledBatchSampler(durations, seed=1).batches(2) != LengthPooledBatchSampler(
        durations, seed=2
    ).batches(1)


@pytest.mark.parametrize("count", [64, 96, 320])
def test_batches_are_composed_anew_even_in_a_corpus_smaller_than_a_pool(count):
    lengths = np.random.default_rng(0).permutation(count) + 1.0
    sampler = LengthPooledBatchSampler(lengths, 32, pool_batches=64)
    compositions = {
        frozenset(frozenset(batch) for batch in sampler.batches(epoch)) for epoch in range(5)
    }
    assert len(compositions) == 5


def test_equal_lengths_are_shuffled():
    sampler = LengthPooledBatchSampler([2.0] * 640, 32)
    mates = Counter(
        frozenset(batch).intersection({0, 1})
        for epoch in range(400)
        for batch in sampler.batches(epoch)
        if 0 in batch
    )
    together = mates[frozenset({0, 1})] / 400
    # Two of 640 share one of 20 batches with probability 31 / 639.
    assert together == pytest.approx(31 / 639, abs=4 * math.sqrt(0.05 * 0.95 / 400))


def test_batches_come_in_random_order_of_length(durations):
    batches = LengthPooledBatchSampler(durations).batches(1)[:-1]
    longest = np.array([durations[batch].max() for batch in batches])
    position = np.arange(len(longest))
    ranks = longest.argsort().argsort()
    assert abs(np.corrcoef(position, ranks)[0, 1]) < 0.3


def test_pools_of_one_batch_are_random_batches(durations):
    batches = LengthPooledBatchSampler(durations, 32, pool_batches=1).batches(1)
    order = np.random.default_rng(0).permutation(len(durations))
    random = [order[i : i + 32] for i in range(0, len(order), 32)]
    assert speech_share(durations, batches) == pytest.approx(
        padding_written_out(durations, random), abs=0.02
    )


@pytest.mark.parametrize("world", [2, 3])
def test_random_batches_of_a_step_are_alike_in_length(durations, world):
    sampler = LengthPooledBatchSampler(durations, 16, pool_batches=1, num_replicas=world)
    lengths = np.array(durations)
    batches = sampler.batches(1)
    assert sorted(sum(batches, [])) == list(range(len(durations)))
    steps = [batches[i : i + world] for i in range(0, len(batches), world)]
    for step in steps:
        dealt = sorted(step, key=lambda batch: (lengths[batch].tolist(), batch))
        ranks = [lengths[batch] for batch in dealt]
        # Dealt like cards in the order of length: between two of one hand lies one of each other.
        for one, other in zip(ranks, ranks[1:], strict=False):
            assert (one[1:] >= other[: len(one) - 1]).all()
        assert max(map(len, step)) - min(map(len, step)) <= 1
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    pooled = LengthPooledBatchSampler(durations, 16, pool_batches=64, num_replicas=world).batches(1)
    assert spread > 5 * np.mean([np.ptp(lengths[batch]) for batch in pooled])


def test_speech_share_is_what_numpy_says(durations):
    batches = LengthPooledBatchSampler(durations).batches(4)
    assert speech_share(durations, batches) == pytest.approx(
        padding_written_out(durations, batches), rel=1e-9
    )
    with pytest.raises(ValueError, match="at least one batch"):
        speech_share(durations, [])


def test_larger_pools_carry_more_speech(durations):
    shares = [
        padding_written_out(durations, LengthPooledBatchSampler(durations, 32, pool).batches(1))
        for pool in (1, 4, 16, 64)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.92


def test_iemocap_batches_carry_at_least_92_percent_speech(iemocap_durations):
    sampler = LengthPooledBatchSampler(iemocap_durations, batch_size=32)
    for epoch in range(1, 81):
        batches = sampler.batches(epoch)
        assert sorted(len(batch) for batch in batches) == [27] + [32] * 172
        assert padding_written_out(iemocap_durations, batches) >= 0.92


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"durations": []}, "at least one utterance"),
        ({"durations": [[1.0]]}, "one number per utterance"),
        ({"durations": [1.0, float("nan")]}, "index 1"),
        ({"durations": [1.0, 2.0, 0.0]}, "index 2"),
        ({"durations": [1.0], "batch_size": 0}, "batch_size"),
        ({"durations": [1.0], "pool_batches": 0}, "pool_batches"),
        ({"durations": [1.0], "seed": -1}, "seed"),
        ({"durations": [1.0], "num_replicas": 0}, "num_replicas"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthPooledBatchSampler(**arguments)


def test_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="epoch"):
        LengthPooledBatchSampler([1.0]).set_epoch(-1)


def test_forgotten_set_epoch_is_reported(caplog):
    sampler = LengthPooledBatchSampler([1.0, 2.0], 1)
    with caplog.at_level(logging.WARNING):
        sampler.set_epoch(1)
        list(sampler)
        sampler.set_epoch(2)
        list(sampler)
        assert not caplog.records
        list(sampler)
    assert "set_epoch" in caplog.text


# ------------------------------------------------------------------ several processes


def simulated_ranks(sampler, num_replicas, shuffle, epoch):
    ranks = []
    for rank in range(num_replicas):
        wrapper = DistributedSamplerWrapper(
            sampler, num_replicas=num_replicas, rank=rank, shuffle=shuffle
        )
        wrapper.set_epoch(epoch)
        assert sampler.epoch == epoch, "the wrapper must hand the epoch on"
        ranks.append(list(wrapper))
    return ranks


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 300),
    batch_size=st.integers(1, 33),
    num_replicas=st.integers(2, 5),
    shuffle=st.booleans(),
    epoch=st.integers(0, 20),
)
def test_ranks_share_the_epoch_without_overlap(count, batch_size, num_replicas, shuffle, epoch):
    lengths = np.random.default_rng(count).uniform(1, 9, size=count)
    # Batches of one cannot be split further.
    if count < 2 * num_replicas or (batch_size == 1 and count % num_replicas):
        with pytest.raises(ValueError, match="utterances"):
            LengthPooledBatchSampler(lengths, batch_size, 3, num_replicas=num_replicas)
        return
    sampler = LengthPooledBatchSampler(lengths, batch_size, 3, num_replicas=num_replicas)
    ranks = simulated_ranks(sampler, num_replicas, shuffle, epoch)
    assert len({len(rank) for rank in ranks}) == 1
    assert indices_of(batch for rank in ranks for batch in rank) == list(range(count))
    sizes = [len(batch) for rank in ranks for batch in rank]
    assert min(sizes) >= 1 and max(sizes) <= batch_size
    # At most two steps of the processes are short.
    assert sum(size < batch_size for size in sizes) <= 2 * num_replicas


def test_steps_are_alike_in_length_across_ranks(durations):
    sampler = LengthPooledBatchSampler(durations, 32, num_replicas=4)
    ranks = simulated_ranks(sampler, 4, shuffle=False, epoch=1)
    shuffled = simulated_ranks(sampler, 4, shuffle=True, epoch=1)

    def longest(parts):
        return np.array([[durations[batch].max() for batch in part] for part in parts])

    def waiting(parts):
        """Share of its time that a rank waits: a step lasts as long as its longest batch."""
        return 1 - longest(parts).mean(axis=0).sum() / longest(parts).max(axis=0).sum()

    assert waiting(ranks) < 0.5 * waiting(shuffled)
    # And no rank always has the longest: 44 steps, 11 each on average.
    slowest = Counter(longest(ranks).argmax(axis=0).tolist())
    assert max(slowest.values()) < 25


# ------------------------------------------------------------------ evaluation, inference


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.floats(0.1, 40.0), min_size=1, max_size=120),
    batch_size=st.none() | st.integers(1, 40),
    max_batch_seconds=st.none() | st.floats(0.5, 200.0),
)
def test_length_sorted_batches(lengths, batch_size, max_batch_seconds):
    if batch_size is None and max_batch_seconds is None:
        with pytest.raises(ValueError, match="both are None"):
            length_sorted_batches(lengths, batch_size, max_batch_seconds)
        return
    batches = length_sorted_batches(lengths, batch_size, max_batch_seconds)
    assert indices_of(batches) == list(range(len(lengths)))
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)
    for position, batch in enumerate(batches):
        longest = lengths[batch[0]]
        assert batch_size is None or len(batch) <= batch_size
        within = max_batch_seconds is None or len(batch) * longest <= max_batch_seconds * (1 + 1e-6)
        assert within or len(batch) == 1
        if position + 1 < len(batches):
            # As large as the limits allow: one more utterance would break one of them.
            too_many = len(batch) == batch_size
            too_long = max_batch_seconds is not None and (
                len(batch) + 1
            ) * longest > max_batch_seconds * (1 - 1e-6)
            assert too_many or too_long


def test_cap_on_seconds_by_hand():
    lengths = [0.1, 12.0, 4.0, 5.0, 0.1, 0.1]
    # 12 s alone exceeds the cap; 2 x 5 fits exactly; 3 x 0.1 must not fail by a rounding.
    assert length_sorted_batches(lengths, None, 10.0) == [[1], [3, 2], [0, 4, 5]]
    assert length_sorted_batches([0.1] * 3, None, max_batch_seconds=0.3) == [[0, 1, 2]]


def test_length_sorted_batches_drive_a_data_loader(durations):
    data = torch.tensor(durations[:100])
    batches = length_sorted_batches(data, batch_size=16)
    loader = torch.utils.data.DataLoader(data, batch_sampler=batches)
    assert torch.equal(torch.cat(list(loader)), data.sort(descending=True).values)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"max_batch_seconds": 0.0}, "max_batch_seconds"),
        ({"max_batch_seconds": float("nan")}, "max_batch_seconds"),
    ],
)
def test_wrong_limits_are_named(limits, message):
    with pytest.raises(ValueError, match=message):
        length_sorted_batches([1.0], **limits)


@hypothesis_settings(deadline=None)
@given(st.integers(2, 400), st.integers(3, 40), st.integers(0, 5))
def test_no_batch_of_a_single_utterance(count, batch_size, epoch):
    # BatchNorm refuses it, and a contrastive loss has nothing to compare.
    sampler = LengthPooledBatchSampler(np.linspace(1, 9, count), batch_size)
    sizes = [len(batch) for batch in sampler.batches(epoch)]
    assert min(sizes) >= 2
    assert max(sizes) <= batch_size
    assert sum(sizes) == count


@pytest.mark.parametrize("count", range(2, 20))
@pytest.mark.parametrize("batch_size", [2, 3, 5, 32])
def test_no_utterance_is_alone(count, batch_size):
    """Alone it has a contrastive loss of 0, and BatchNorm refuses it."""
    sampler = LengthPooledBatchSampler([1.0] * count, batch_size)
    batches = sampler.batches(epoch=1)
    assert min(map(len, batches)) >= 2
    assert sorted(sum(batches, [])) == list(range(count))
    assert len(batches) == len(sampler)
