"""Silence is left out by an utterance's own level, and a crop is a part of its utterance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes.cutting import random_crop, trim_silence

STRETCH, MARGIN = 400, 800


def np_trim(wav: np.ndarray, top_db: float) -> np.ndarray:
    """The rule, stretch by stretch."""
    starts = range(0, len(wav), STRETCH)
    # The last stretch is filled up with silence.
    powers = [(wav[start : start + STRETCH] ** 2).sum() / STRETCH for start in starts]
    loud = [i for i, power in enumerate(powers) if power >= max(powers) * 10 ** (-top_db / 10)]
    first, last = min(loud) * STRETCH, (max(loud) + 1) * STRETCH
    return wav[max(first - MARGIN, 0) : min(last + MARGIN, len(wav))]


def utterance(generator: torch.Generator, samples: int, quiet: float) -> torch.Tensor:
    """Noise that is loud for a while in the middle."""
    level = torch.full((samples,), quiet)
    start, stop = sorted(torch.randint(samples, (2,), generator=generator).tolist())
    level[start : stop + 1] = 1.0
    return level * torch.randn(samples, generator=generator)


@given(
    samples=st.lists(st.integers(1, 9000), min_size=1, max_size=4),
    quiet=st.sampled_from([0.0, 1e-4, 0.5]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_trimming_is_the_rule_and_does_not_depend_on_the_batch(samples, quiet, seed):
    generator = torch.Generator().manual_seed(seed)
    wavs = [utterance(generator, n, quiet) for n in samples]
    padded = pad_sequence(wavs, batch_first=True, padding_value=99.0)
    trimmed, wav_lens = trim_silence(padded, torch.tensor(samples) / max(samples), 40.0)
    lengths = torch.round(wav_lens * trimmed.shape[1]).long()
    assert lengths.max() == trimmed.shape[1]
    for wav, of_batch, length in zip(wavs, trimmed, lengths, strict=True):
        np.testing.assert_array_equal(of_batch[:length], np_trim(wav.numpy(), 40.0))
        assert not of_batch[length:].any()


@given(samples=st.integers(1, 9000), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_trimming_twice_is_trimming_once_and_gain_does_not_matter(samples, seed):
    wav = utterance(torch.Generator().manual_seed(seed), samples, 1e-4).unsqueeze(0)
    once, _ = trim_silence(wav, torch.ones(1), 40.0)
    twice, _ = trim_silence(once, torch.ones(1), 40.0)
    torch.testing.assert_close(twice, once, rtol=0, atol=0)
    # A power of two, so that nothing is rounded.
    louder, _ = trim_silence(8 * wav, torch.ones(1), 40.0)
    torch.testing.assert_close(louder, 8 * once, rtol=0, atol=0)


def test_digital_silence_stays_whole():
    trimmed, wav_lens = trim_silence(torch.zeros(2, 5000), torch.tensor([1.0, 0.5]), 40.0)
    assert trimmed.shape == (2, 5000) and wav_lens.tolist() == [1.0, 0.5]


def test_impossible_level_is_named():
    with pytest.raises(ValueError, match="top_db: expected more than 0"):
        trim_silence(torch.zeros(1, 8), torch.ones(1), 0.0)


@given(
    samples=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    most=st.integers(1, 60),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_crop_is_a_part_of_its_utterance(samples, most, seed):
    # Every sample says where it was.
    wavs = [100.0 * i + torch.arange(1.0, n + 1) for i, n in enumerate(samples)]
    padded = pad_sequence(wavs, batch_first=True)
    torch.manual_seed(seed)
    crops, wav_lens = random_crop(padded, torch.tensor(samples) / max(samples), most)
    lengths = torch.round(wav_lens * crops.shape[1]).long().tolist()
    assert lengths == [min(n, most) for n in samples]
    for wav, crop, length in zip(wavs, crops, lengths, strict=True):
        start = int(crop[0] - wav[0])
        torch.testing.assert_close(crop[:length], wav[start : start + length])
        assert not crop[length:].any()


def test_crops_begin_anywhere_and_alike_often():
    torch.manual_seed(0)
    crops, _ = random_crop(torch.arange(6.0).expand(6000, -1), torch.ones(6000), most=4)
    counts = torch.bincount(crops[:, 0].long())
    # Three places, 2,000 each; 200 are five deviations.
    assert len(counts) == 3 and (counts - 2000).abs().max() < 200


def test_gradients_reach_the_samples_that_are_kept():
    wavs = torch.zeros(2, 8000)
    wavs[:, 3000:4000] = 1.0
    wavs.requires_grad_()
    trimmed, _ = trim_silence(wavs, torch.tensor([1.0, 0.75]), 40.0)
    trimmed.sum().backward()
    # Whole stretches of 400 samples, and 800 samples on either side.
    expected = torch.zeros(2, 8000)
    expected[:, 2800 - MARGIN : 4000 + MARGIN] = 1.0
    torch.testing.assert_close(wavs.grad, expected, rtol=0, atol=0)
