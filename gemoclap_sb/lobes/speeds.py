"""Speed perturbation with a speed for each utterance, and all utterances at one speed.

SpeechBrain's ``SpeedPerturb`` draws one speed for a batch. A contrastive loss then never compares
two speeds, and a batch is of one speed as much as of its emotions. The resampling is SpeechBrain's,
which is torchaudio's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio.functional
from speechbrain.augment.time_domain import Resample
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes.lengths import mask_from_lengths, sample_lengths

SLOWEST, FASTEST = 50, 200


def check_speeds(name: str, speeds: Sequence[int]) -> list[int]:
    """Return speeds as a list; ValueError without one, or for one that is not 50 to 200 percent.

    >>> check_speeds("speeds", (92, 108))
    [92, 108]
    """
    several = isinstance(speeds, Sequence) and len(speeds)
    if not several or not all(isinstance(s, int) and SLOWEST <= s <= FASTEST for s in speeds):
        raise ValueError(
            f"{name}: expected one or more whole numbers from {SLOWEST} to {FASTEST}, found "
            f"{speeds!r}."
        )
    return list(speeds)


def at_speed(wavs: Tensor, wav_lens: Tensor, speed: int) -> tuple[Tensor, Tensor]:
    """Play utterances ``[B, T]``, relative lengths ``[B]``, at a speed in percent, as if alone.

    >>> wavs, wav_lens = at_speed(torch.ones(2, 900), torch.tensor([1.0, 0.5]), 90)
    >>> wavs.shape, wav_lens
    (torch.Size([2, 1000]), tensor([1.0000, 0.5000]))
    """
    if speed == 100:
        return wavs, wav_lens
    samples = sample_lengths(wavs, wav_lens)
    wavs = wavs.float().masked_fill(~mask_from_lengths(samples, wavs.shape[1]), 0.0)
    # Half precision would round the waveforms.
    with torch.autocast(wavs.device.type, enabled=False):
        played = torchaudio.functional.resample(wavs, speed, 100)
    lengths = -(-samples * 100 // speed)
    return played, lengths.clamp(max=played.shape[1]) / played.shape[1]


class RandomSpeed(nn.Module):
    """Play each utterance at a speed drawn for it; the pitch goes with the speed.

    Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.

    Parameters
    ----------
    speeds : Sequence[int]
        What to draw from, in percent; 100 leaves an utterance as it is.

    Raises
    ------
    ValueError
        If there is none, or one is not a whole number from 50 to 200.

    Examples
    --------
    >>> wavs, wav_lens = RandomSpeed([50, 100])(torch.randn(3, 8000), torch.ones(3))
    >>> sorted(set(torch.round(wav_lens * wavs.shape[1]).tolist())) in (
    ...     [8000.0], [16000.0], [8000.0, 16000.0]
    ... )
    True
    """

    def __init__(self, speeds: Sequence[int]) -> None:
        super().__init__()
        self.speeds = check_speeds("speeds", speeds)
        self.resamplers = nn.ModuleList(
            Resample(orig_freq=speed, new_freq=100) for speed in self.speeds
        )

    def forward(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Change the speeds of [B, T], relative lengths [B]; both come back with new lengths."""
        drawn = torch.randint(len(self.speeds), (len(wavs),)).tolist()
        samples = sample_lengths(wavs, wav_lens).tolist()
        played = []
        for wav, count, of in zip(wavs, samples, drawn, strict=True):
            wav = wav[:count]
            played.append(
                wav if self.speeds[of] == 100 else self.resamplers[of](wav.unsqueeze(0))[0]
            )
        lengths = torch.tensor([len(wav) for wav in played], device=wavs.device)
        return pad_sequence(played, batch_first=True), lengths / lengths.max()
