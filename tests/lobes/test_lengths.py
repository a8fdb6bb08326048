"""Sample and frame counts of a padded batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.batch import PaddedBatch
from torch import nn

from gemoclap_sb.lobes import frame_lengths, mask_from_lengths, sample_lengths


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


def test_a_lobe_that_knows_its_strides_is_asked():
    wavs, wav_lens = torch.zeros(2, 16000), torch.tensor([1.0, 0.5])
    frames = torch.zeros(2, 49, 3)
    assert frame_lengths(Strided(), frames, wavs, wav_lens).tolist() == [49, 24]


def test_any_other_lobe_gets_speechbrains_convention():
    wavs, wav_lens = torch.zeros(2, 16000), torch.tensor([1.0, 0.001])
    frames = torch.zeros(2, 49, 3)
    assert frame_lengths(nn.Identity(), frames, wavs, wav_lens).tolist() == [49, 1]


def test_mask():
    mask = mask_from_lengths(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
