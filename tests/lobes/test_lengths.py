"""Sample and frame counts of a padded batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.batch import PaddedBatch
from torch import nn

from gemoclap_sb.lobes import frame_lengths, mask_from_lengths, sample_lengths
from gemoclap_sb.lobes.lengths import (
    length_groups,
    normalize_valid,
    relative_lengths,
    valid_positions,
)


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=8))
def test_sample_counts_survive_relative_lengths(samples):
    longest = max(samples)
    # No memory: an expanded scalar has the batch's shape.
    wavs = torch.zeros(1).expand(len(samples), longest)
    wav_lens = torch.tensor([n / longest for n in samples], dtype=torch.float32)
    assert sample_lengths(wavs, wav_lens).tolist() == samples


def test_sample_counts_of_speechbrains_own_batches():
    samples = [16000, 1, 7777]
    batch = PaddedBatch([{"wav": torch.ones(n)} for n in samples])
    wavs, wav_lens = batch.wav
    assert sample_lengths(wavs, wav_lens).tolist() == samples


def test_lengths_stay_within_the_batch():
    wavs = torch.zeros(3, 100)
    assert sample_lengths(wavs, torch.tensor([0.0, 1.2, 0.5])).tolist() == [1, 100, 50]


@pytest.mark.parametrize(
    ("wavs", "wav_lens", "expected"),
    [
        (torch.zeros(2, 100, 2), torch.ones(2), "Mix stereo down"),
        (torch.zeros(2, 0), torch.ones(2), "empty files"),
        (torch.zeros(2, 100), torch.ones(3), "one relative length per utterance"),
    ],
)
def test_wrong_shapes_are_named(wavs, wav_lens, expected):
    with pytest.raises(ValueError, match=expected):
        sample_lengths(wavs, wav_lens)


class Strided(nn.Module):
    """A lobe whose frame count is not proportional to the samples."""

    def frame_lengths(self, samples):
        return (samples - 400) // 320 + 1


@pytest.mark.parametrize("lobe", [Strided(), nn.Identity()])
@pytest.mark.parametrize(("share", "expected"), [(0.5, 24), (0.001, 1)])
def test_a_lobe_is_asked_for_its_strides_or_gets_speechbrains_convention(lobe, share, expected):
    wavs, wav_lens = torch.zeros(2, 16000), torch.tensor([1.0, share])
    assert frame_lengths(lobe, torch.zeros(2, 49, 3), wavs, wav_lens).tolist() == [49, expected]


def test_mask():
    mask = mask_from_lengths(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_relative_lengths_recover_every_count():
    for size in range(1, 400):
        lengths = torch.arange(1, size + 1)
        bound = relative_lengths(lengths, size) * size
        kept = (torch.arange(size) < bound.unsqueeze(1)).sum(1)
        assert torch.equal(kept, lengths)


def test_normalisation_of_valid_frames():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5)
    mask = mask_from_lengths(torch.tensor([5, 2]), 5)
    norm = nn.BatchNorm1d(3)
    normed = normalize_valid(norm, x, valid_positions(mask)).detach().numpy()
    first, second = x.numpy()[0], x.numpy()[1, :, :2]
    valid = np.concatenate([first, second], axis=1)
    mean, deviation = valid.mean(1, keepdims=True), np.sqrt(valid.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed[0], (first - mean) / deviation, atol=1e-5)
    np.testing.assert_allclose(normed[1, :, :2], (second - mean) / deviation, atol=1e-5)
    assert not normed[1, :, 2:].any()
    np.testing.assert_allclose(norm.running_mean, 0.1 * mean[:, 0], atol=1e-6)


def test_without_padding_there_is_nothing_to_pick():
    assert valid_positions(torch.ones(2, 5, dtype=torch.bool)) is None
    x = torch.randn(2, 3, 5)
    assert torch.equal(normalize_valid(nn.BatchNorm1d(3), x, None), nn.BatchNorm1d(3)(x))


def test_gradient_of_valid_frames():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    norm, positions = nn.BatchNorm1d(3).double(), torch.tensor([0, 1, 2, 4, 5])
    assert torch.autograd.gradcheck(lambda x: normalize_valid(norm, x, positions).square(), x)


@pytest.mark.slow
def test_valid_frames_are_the_same_compiled():
    torch.manual_seed(0)
    x, positions = torch.randn(2, 4, 5, requires_grad=True), torch.tensor([0, 1, 2, 5, 6, 7, 8, 9])

    def step(function):
        found = function(nn.BatchNorm1d(4), x, positions)
        (gradient,) = torch.autograd.grad(found.pow(3).sum(), x)
        return found, gradient

    # With inductor, whose passes refuse what other backends take.
    for compiled, eager in zip(
        step(torch.compile(normalize_valid)), step(normalize_valid), strict=True
    ):
        torch.testing.assert_close(compiled, eager)


def every_cut(places: list[int]):
    if not places:
        yield []
    for size in range(1, len(places) + 1):
        for rest in every_cut(places[size:]):
            yield [places[:size], *rest]


@pytest.mark.parametrize("overhead", [0, 32, 1000])
@pytest.mark.parametrize("counts", [[7], [50, 700, 60, 690, 64], [30] * 6, [1, 2, 4, 8, 400, 16]])
def test_groups_are_the_cheapest_cut_of_the_sorted_batch(counts, overhead):
    def cost(groups: list[list[int]]) -> int:
        return sum(len(of) * max(counts[i] for i in of) + overhead for of in groups)

    groups = length_groups(counts, overhead)
    assert sorted(i for of in groups for i in of) == list(range(len(counts)))
    places = sorted(range(len(counts)), key=counts.__getitem__)
    assert cost(groups) == min(map(cost, every_cut(places)))
