"""Frames of an utterance to one vector.

`MaskedMeanPooling` is the paper's (Pan et al., arXiv 2306.07848, section 2.1).
`AttentiveStatisticsPooling` is ECAPA-TDNN's (Desplanques et al., arXiv 2005.07143, section 3.1),
after Okabe et al., arXiv 1803.10963.

Both take exact frame counts, read nothing past them, and compute in float32. SpeechBrain's
``StatisticsPooling`` is not used: it loops over the batch and adds random noise to the mean, in
evaluation too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import ECAPA_TDNN
from torch import Tensor, nn

from gemoclap_sb.lobes.configured import Configured
from gemoclap_sb.lobes.lengths import mask_from_lengths, normalize_valid, valid_positions


class MaskedMeanPooling(Configured):
    """Mean over the valid frames.

    Parameters
    ----------
    input_size : int
        D, the size of a frame. ``output_size`` is the same.

    Examples
    --------
    >>> frames = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    >>> MaskedMeanPooling(1)(frames, torch.tensor([2]))
    tensor([[2.]])
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(locals())
        self.output_size = input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool frames [B, F, D] with 1 or more valid ones each, int64 [B], to float32 [B, D]."""
        frames = _at_least_float32(frames)
        mask = mask_from_lengths(lengths, frames.shape[1]).unsqueeze(2)
        # masked_fill and not a product: zero times NaN is NaN.
        total = frames.masked_fill(~mask, 0.0).sum(dim=1)
        return total / mask.sum(dim=1).clamp(min=1)


class AttentiveStatisticsPooling(Configured):
    """Attention-weighted mean and standard deviation of each channel, then BatchNorm.

    The weights are SpeechBrain's module's, with the BatchNorm that ECAPA-TDNN puts after it. The
    attention sees each frame beside the utterance's mean and standard deviation; since those two
    are the same at every frame, their share of the first layer is computed once, which halves
    the time. BatchNorm's statistics in training are those of the valid frames only.

    Parameters
    ----------
    input_size : int
        D, the size of a frame. ``output_size`` is twice that.
    attention_channels : int
        Width of the attention's hidden layer.

    Examples
    --------
    >>> pooling = AttentiveStatisticsPooling(8)
    >>> pooling(torch.randn(2, 50, 8), torch.tensor([50, 20])).shape
    torch.Size([2, 16])
    """

    def __init__(self, input_size: int, attention_channels: int = 128) -> None:
        super().__init__(locals())
        self.attention = ECAPA_TDNN.AttentiveStatisticsPooling(input_size, attention_channels)
        self.norm = nn.BatchNorm1d(2 * input_size)
        self.input_size = input_size
        self.output_size = 2 * input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool frames [B, F, D] with 1 or more valid ones each, int64 [B], to [B, 2 * D]."""
        with torch.autocast(frames.device.type, enabled=False):
            mask = mask_from_lengths(lengths, frames.shape[1])
            positions = valid_positions(mask) if self.training else None
            mask = mask.unsqueeze(1)
            x = _at_least_float32(frames).transpose(1, 2).masked_fill(~mask, 0.0)
            uniform = mask / mask.sum(dim=2, keepdim=True)
            context = self._statistics(x, uniform)

            tdnn = self.attention.tdnn
            weight, bias = tdnn.conv.conv.weight, tdnn.conv.conv.bias
            of_frames = F.conv1d(x, weight[:, : self.input_size])
            of_context = F.linear(context, weight[:, self.input_size :, 0], bias)
            hidden = tdnn.activation(of_frames + of_context.unsqueeze(2))
            hidden = self.attention.tanh(normalize_valid(tdnn.norm, hidden, positions))
            scores = self.attention.conv(hidden).masked_fill(~mask, float("-inf"))
            return self.norm(self._statistics(x, scores.softmax(dim=2)))

    def _statistics(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean and standard deviation over the frames of x [B, D, F], [B, 2 * D]."""
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean.unsqueeze(2)).square()).sum(dim=2)
        # The root has no gradient at zero.
        return torch.cat([mean, variance.clamp(min=self.attention.eps).sqrt()], dim=1)


def _at_least_float32(frames: Tensor) -> Tensor:
    return frames if frames.dtype == torch.float64 else frames.float()
