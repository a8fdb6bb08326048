"""Features normalised by what they were on the training set, sentences by their neighbours.

SpeechBrain's ``InputNormalization(norm_type="global")`` does that too, with statistics that are
neither in a module's ``state_dict`` nor moved by DDP, and that exist only after a first batch.
Here they are buffers, so that they travel with the weights, and its function counts.
"""

from __future__ import annotations

import torch
from speechbrain.processing.features import mean_std_update
from torch import Tensor, nn
from torch._compile import _disable_dynamo


class TrainingSetNormalization(nn.Module):
    """Subtract each band's mean over the training set, and divide by its deviation.

    The statistics are those of all valid frames seen in training so far, over all processes; an
    evaluation reads them only. Loudness therefore counts, which an utterance's own mean would
    take away. Before any training, features pass as they are.

    Parameters
    ----------
    bands : int
        Size of a frame.

    Examples
    --------
    >>> normalization = TrainingSetNormalization(1)
    >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[[True], [True], [False]]])
    >>> normalization(features, mask).squeeze()
    tensor([-1.,  1.,  7.])
    >>> normalization.eval()(features + 1, mask).squeeze()
    tensor([0., 2., 8.])
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(bands))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Normalise features [B, F, bands]; ``mask`` [B, F, 1] says which frames are valid."""
        if self.training:
            self._count(features.detach(), mask)
        return (features - self.mean) / self.deviation.clamp(min=1e-5)

    # As torch.compiler.disable, but that it imports the compiler only when it is called.
    @_disable_dynamo  # SpeechBrain's assertions fail when traced for any length
    @torch.no_grad()
    def _count(self, features: Tensor, mask: Tensor) -> None:
        now = int(self.count), self.mean, self.deviation
        count, mean, deviation = mean_std_update(features, mask, (0, 1), *now)
        self.count.fill_(count)
        # New tensors: the graph of an earlier pass may still need the old ones.
        self.mean, self.deviation = mean, deviation


class SentenceNormalization(nn.Module):
    """Give each dimension of a step's sentence vectors mean 0 and deviation 1.

    Batch normalisation without a gain (Ioffe and Szegedy, arXiv 1502.03167), but for two things
    that torch's has not. A sentence that is alone in a step is normalised as in evaluation, by the
    running statistics. Processes do not wait for each other: each has prompts of all classes.

    Parameters
    ----------
    size : int
        Of a vector.
    momentum : float
        Share of a step in the running statistics, after the first ones.

    Examples
    --------
    >>> normalization = SentenceNormalization(1)
    >>> normalization(torch.tensor([[4.0], [6.0]])).round().squeeze()
    tensor([-1.,  1.])
    """

    def __init__(self, size: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise vectors [N, size]."""
        mean, variance = self.mean, self.variance
        if self.training and len(vectors) > 1:
            variance, mean = torch.var_mean(vectors, dim=0, correction=0)
            self.steps += 1
            # The first steps count alike; what the statistics began with counts for nothing.
            share = (1 / self.steps).clamp(min=self.momentum)
            # New tensors: the graph of an earlier pass may still need the old ones.
            self.mean = self.mean.lerp(mean.detach(), share)
            self.variance = self.variance.lerp(variance.detach(), share)
        return (vectors - mean) * (variance + 1e-5).rsqrt()
