"""Frames of an utterance to one vector.

`MaskedMeanPooling` is the paper's (Pan et al., arXiv 2306.07848, section 2.1).
`AttentiveStatisticsPooling` is ECAPA-TDNN's (Desplanques et al., arXiv
2005.07143, section 3.1), after Okabe et al., arXiv 1803.10963.

Both take exact frame counts, read nothing past them, and compute in float32.
SpeechBrain's ``StatisticsPooling`` is not used: it loops over the batch and adds
random noise to the mean, in evaluation too.
"""

from __future__ import annotations

import torch
from speechbrain.lobes.models import ECAPA_TDNN
from torch import Tensor, nn

from gemoclap_sb.lobes.lengths import mask_from_lengths


class MaskedMeanPooling(nn.Module):
    """Mean over the valid frames.

    Arguments
    ---------
    input_size : int
        D, the size of a frame. ``output_size`` is the same.

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    >>> MaskedMeanPooling(1)(frames, torch.tensor([2]))
    tensor([[2.]])
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool a batch.

        Arguments
        ---------
        frames : Tensor
            ``[B, F, D]``.
        lengths : Tensor
            int64 ``[B]``, valid frames of each utterance, 1 or more.

        Returns
        -------
        Tensor
            float32 ``[B, D]`` (float64 for float64 frames).
        """
        frames = _at_least_float32(frames)
        mask = mask_from_lengths(lengths, frames.shape[1]).unsqueeze(2)
        # masked_fill and not a product: zero times NaN is NaN.
        total = frames.masked_fill(~mask, 0.0).sum(dim=1)
        return total / mask.sum(dim=1).clamp(min=1)


class AttentiveStatisticsPooling(nn.Module):
    """Attention-weighted mean and standard deviation of each channel, then BatchNorm.

    It is SpeechBrain's module with the batch normalisation that ECAPA-TDNN puts
    after it. In training the batch normalisation inside the attention also sees
    padded frames, as in SpeechBrain; evaluation is exact.

    Arguments
    ---------
    input_size : int
        D, the size of a frame. ``output_size`` is twice that.
    attention_channels : int
        Width of the attention's hidden layer.

    Example
    -------
    >>> pooling = AttentiveStatisticsPooling(8)
    >>> pooling(torch.randn(2, 50, 8), torch.tensor([50, 20])).shape
    torch.Size([2, 16])
    """

    def __init__(self, input_size: int, attention_channels: int = 128) -> None:
        super().__init__()
        self.attention = ECAPA_TDNN.AttentiveStatisticsPooling(input_size, attention_channels)
        self.norm = nn.BatchNorm1d(2 * input_size)
        self.output_size = 2 * input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool a batch.

        Arguments
        ---------
        frames : Tensor
            ``[B, F, D]``.
        lengths : Tensor
            int64 ``[B]``, valid frames of each utterance, 1 or more.

        Returns
        -------
        Tensor
            ``[B, 2 * D]``.
        """
        frames = _at_least_float32(frames)
        size = frames.shape[1]
        mask = mask_from_lengths(lengths, size).unsqueeze(2)
        with torch.autocast(frames.device.type, enabled=False):
            pooled = self.attention(
                frames.masked_fill(~mask, 0.0).transpose(1, 2), relative_lengths(lengths, size)
            )
            return self.norm(pooled.squeeze(2))


def relative_lengths(lengths: Tensor, size: int) -> Tensor:
    """Relative lengths from which SpeechBrain's masks recover exact frame counts.

    Its modules keep frame t where ``t < relative * size``. A count divided and
    multiplied back may come out just above itself, which keeps a frame too many;
    half a frame less cannot.

    Arguments
    ---------
    lengths : Tensor
        Integer ``[B]``.
    size : int
        Frames of the padded batch.

    Returns
    -------
    Tensor
        float32 ``[B]``.

    Example
    -------
    >>> relative_lengths(torch.tensor([2, 4]), 4)
    tensor([0.3750, 0.8750])
    """
    return (lengths.float() - 0.5) / size


def _at_least_float32(frames: Tensor) -> Tensor:
    return frames if frames.dtype == torch.float64 else frames.float()
