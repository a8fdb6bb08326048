"""Speeds against torchaudio's resampling of each utterance alone."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes import RandomSpeed
from gemoclap_sb.lobes.speeds import at_speed


def test_each_utterance_is_resampled_by_a_speed_of_its_own():
    torch.manual_seed(0)
    samples = [4000, 8000, 1000, 6000] * 4
    wavs = [torch.randn(n) for n in samples]
    padded = pad_sequence(wavs, batch_first=True, padding_value=9.0)
    speeds = [80, 100, 125]
    played, wav_lens = RandomSpeed(speeds)(padded, torch.tensor(samples) / max(samples))
    lengths = torch.round(wav_lens * played.shape[1]).long().tolist()
    seen = set()
    for wav, of_batch, length in zip(wavs, played, lengths, strict=True):
        (speed,) = (s for s in speeds if -(-len(wav) * 100 // s) == length)
        seen.add(speed)
        expected = wav
        if speed != 100:
            expected = torchaudio.functional.resample(wav, speed, 100)
        torch.testing.assert_close(of_batch[:length], expected)
        assert not of_batch[length:].any()
    assert seen == set(speeds)


@pytest.mark.parametrize("speed", [83, 100, 120])
def test_all_at_one_speed_are_resampled_as_each_alone(speed):
    torch.manual_seed(0)
    samples = [4001, 8000, 1000]
    wavs = [torch.randn(n) for n in samples]
    padded = pad_sequence(wavs, batch_first=True, padding_value=9.0)
    played, wav_lens = at_speed(padded, torch.tensor(samples) / max(samples), speed)
    lengths = torch.round(wav_lens * played.shape[1]).long().tolist()
    for wav, of_batch, length in zip(wavs, played, lengths, strict=True):
        expected = torchaudio.functional.resample(wav, speed, 100)
        torch.testing.assert_close(of_batch[:length], expected)


def test_the_seed_decides():
    wavs, wav_lens = torch.randn(8, 3000), torch.linspace(0.5, 1, 8)
    played = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        played.append(RandomSpeed([90, 100, 110])(wavs, wav_lens)[1])
    assert torch.equal(played[0], played[1]) and not torch.equal(played[0], played[2])


@pytest.mark.parametrize("speeds", [[], [0], [90.5], [400], 100, None, "fast"])
def test_impossible_speeds_are_named(speeds):
    with pytest.raises(ValueError, match="speeds: expected one or more whole numbers"):
        RandomSpeed(speeds)
