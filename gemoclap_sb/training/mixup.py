"""Mixup of utterances (Zhang et al., arXiv 1710.09412), for any objective.

Two waveforms are added, and the loss is the same mixture of the losses that each one's labels and
sentences give. The mixture of losses, and not of labels, is what a label matrix can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor

from gemoclap_sb.objectives.divergences import ContrastiveOutput

Labels = Mapping[str, Tensor]
Loss = Callable[[Mapping[str, Any], Labels], Tensor]


class Mixup(NamedTuple):
    """Each utterance of a batch beside one of the same batch.

    >>> mixup = Mixup(share=0.75, partners=torch.tensor([1, 0]))
    >>> wavs, wav_lens = mixup.of_waveforms(torch.tensor([[4.0, 8.0], [4.0, 0]]), torch.ones(2))
    >>> wavs
    tensor([[4., 6.],
            [4., 2.]])
    """

    share: float
    partners: LongTensor

    @classmethod
    def draw(cls, alpha: float, count: int, step: Sequence[int]) -> Mixup:
        """Draw the share from Beta(``alpha``, ``alpha``), and the partners of ``count``.

        The share is drawn by ``step``, numbers that say which step of training it is: a batch
        that is gathered from several processes has one share.
        """
        share = np.random.default_rng(step).beta(alpha, alpha)
        return cls(float(share), torch.randperm(count))

    def of_waveforms(self, wavs: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Mix waveforms [B, T]; a mixture is as long as the longer of the two."""
        mixed = self.share * wavs + (1 - self.share) * wavs[self.partners]
        return mixed, torch.maximum(wav_lens, wav_lens[self.partners])

    def of_loss(self, loss: Loss, outputs: Mapping[str, Any], labels: Labels) -> Tensor:
        """Mix the loss against an utterance's own labels with that against its partner's."""
        of_partners = {
            head: output._replace(text=output.text[self.partners])
            if isinstance(output, ContrastiveOutput)
            else output
            for head, output in outputs.items()
        }
        partners_labels = {name: of[self.partners] for name, of in labels.items()}
        own, other = loss(outputs, labels), loss(of_partners, partners_labels)
        return self.share * own + (1 - self.share) * other
