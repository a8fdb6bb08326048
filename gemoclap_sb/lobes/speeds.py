"""Speed perturbation with a speed for each utterance.

SpeechBrain's ``SpeedPerturb`` draws one speed for a batch. A contrastive loss then never compares
two speeds, and a batch is of one speed as much as of its emotions. The resampling is SpeechBrain's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from speechbrain.augment.time_domain import Resample
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes.lengths import sample_lengths


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
        if not speeds or not all(isinstance(s, int) and 50 <= s <= 200 for s in speeds):
            raise ValueError(
                f"speeds: expected one or more whole numbers from 50 to 200, found {speeds!r}."
            )
        self.speeds = list(speeds)
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
