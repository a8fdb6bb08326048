"""Cross-entropy of labels for frames, several a frame: one for each scale.

The pretext task of GMP-TL, whose labels come from clusterings of different granularity (Pan et
al., arXiv 2405.02151). Padding takes no part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor, nn


class FrameOutput(NamedTuple):
    """Class scores of a batch's frames.

    Attributes
    ----------
    logits : tuple[Tensor, ...]
        ``[B, F, C_s]`` for each scale s.
    lengths : Tensor
        int64 ``[B]``, how many frames of each utterance are its own.
    """

    logits: tuple[Tensor, ...]
    lengths: Tensor


class FrameCrossEntropyObjective(nn.Module):
    """Mean over scales of the mean cross-entropy of a batch's valid frames.

    Each valid frame counts once, whichever utterance it is of.

    Examples
    --------
    >>> output = FrameOutput((torch.zeros(2, 5, 4), torch.zeros(2, 5, 16)), torch.tensor([5, 3]))
    >>> loss = FrameCrossEntropyObjective()(output, torch.zeros(2, 6, 2, dtype=torch.long))
    >>> round(loss.item(), 4)  # (log 4 + log 16) / 2
    2.0794
    """

    def forward(self, output: FrameOutput, labels: LongTensor) -> Tensor:
        """Loss of a batch, a scalar, in float32 at least.

        ``labels`` are ``[B, F', S]``, a class of each scale for every frame; F' may differ from F,
        and what lies beyond an utterance's length may be anything. ValueError if the shapes do not
        fit or do not reach the longest length; an error of torch if a label is no class.
        """
        shapes = [list(logits.shape) for logits in output.logits]
        batch, longest = len(output.lengths), int(output.lengths.max())
        fits = labels.dim() == 3 and labels.shape[2] == len(shapes) > 0
        fits = fits and all(len(shape) == 3 for shape in shapes)
        if not fits or any(
            shape[0] != batch or shape[1] < longest for shape in [*shapes, labels.shape]
        ):
            raise ValueError(
                f"expected logits [B, F, C] for each of S scales and labels [B, F', S] of {batch} "
                f"utterances, with {longest} frames or more; found logits {shapes} and labels "
                f"{list(labels.shape)}."
            )
        frames = torch.arange(longest, device=output.lengths.device)
        valid = (frames < output.lengths[:, None]).to(labels.device)
        index = labels[:, :longest][valid]
        losses = []
        for scale, logits in enumerate(output.logits):
            of_valid = logits[:, :longest][valid.to(logits.device)]
            wide = torch.promote_types(logits.dtype, torch.float32)
            log_posteriors = F.log_softmax(of_valid.to(wide), dim=-1)
            # Unlike torch's cross_entropy, gather lets no label through that is no class.
            losses.append(-log_posteriors.gather(1, index[:, scale, None]).mean())
        return torch.stack(losses).mean()
