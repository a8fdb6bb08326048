"""SpecAugment's masks of time and of frequency (Park et al., arXiv 1904.08779)."""

from __future__ import annotations

from speechbrain.augment.freq_domain import SpectrogramDrop
from torch import nn


class SpecAugment(nn.Sequential):
    """Mask stretches of time and of frequency in features [B, F, bands] with zeros.

    Of each kind between one and ``time_masks`` or ``frequency_masks`` are drawn for a batch, none
    where that is 0; lengths and places are drawn for each utterance. Zero should be what the
    features are on average. ValueError for a mask that is empty.

    Examples
    --------
    >>> import torch
    >>> SpecAugment(time_masks=0, frequency_masks=0)(torch.ones(1, 2, 2)).min()
    tensor(1.)
    """

    def __init__(
        self,
        time_masks: int = 2,
        time_mask_frames: int = 25,
        frequency_masks: int = 2,
        frequency_mask_bands: int = 8,
    ) -> None:
        drops = (
            ("time", time_masks, time_mask_frames, 1),
            ("frequency", frequency_masks, frequency_mask_bands, 2),
        )
        for axis, count, size, _ in drops:
            if count < 0 or (count and size < 2):
                raise ValueError(
                    f"{axis} masks: expected a count of 0 or more and a size of 2 or more, found "
                    f"{count} and {size}."
                )
        # The longest is exclusive.
        super().__init__(
            *(
                SpectrogramDrop(1, size + 1, drop_count_high=count, replace="zeros", dim=dim)
                for _, count, size, dim in drops
                if count
            )
        )
