"""How many samples and how many frames of a padded batch are speech.

SpeechBrain passes relative lengths: ``wav_lens[i]`` is utterance i's share of the longest.
Multiplying and rounding gives the samples back exactly. The share of *frames* is another number,
since a front end's strides round: a lobe that knows its strides says so by a method
``frame_lengths(samples)``. Any other gets SpeechBrain's own convention, the relative length
applied to the frames, which may be a frame off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sample_lengths(wavs: Tensor, wav_lens: Tensor) -> Tensor:
    """Count the valid samples of each utterance, int64 [B], within 1 and T.

    Parameters
    ----------
    wavs : Tensor
        [B, T], padded to the longest.
    wav_lens : Tensor
        [B], relative to the longest.

    Raises
    ------
    ValueError
        If the shapes are not [B, T] and [B], or T is zero.

    Examples
    --------
    >>> sample_lengths(torch.zeros(2, 16000), torch.tensor([1.0, 0.25]))
    tensor([16000,  4000])
    """
    if wavs.dim() != 2 or wavs.shape[1] == 0:
        raise ValueError(
            f"wavs: expected [batch, samples] with one sample or more, found {list(wavs.shape)}. "
            "Mix stereo down and leave out empty files before batching."
        )
    if wav_lens.shape != wavs.shape[:1]:
        raise ValueError(
            f"wav_lens: expected one relative length per utterance, [{wavs.shape[0]}], found "
            f"{list(wav_lens.shape)}."
        )
    # float32 whatever the precision of training: half precision cannot count samples.
    samples = torch.round(wav_lens.to(wavs.device, torch.float32) * wavs.shape[1])
    return samples.long().clamp(1, wavs.shape[1])


def frame_lengths(lobe: nn.Module, frames: Tensor, wavs: Tensor, wav_lens: Tensor) -> Tensor:
    """Count the valid frames of each utterance, int64 [B], within 1 and F.

    Parameters
    ----------
    lobe : nn.Module
        The audio lobe that made the frames; asked for its ``frame_lengths`` if it has any.
    frames : Tensor
        [B, F, D].
    wavs, wav_lens : Tensor
        As for `sample_lengths`.

    Examples
    --------
    >>> frames, wavs = torch.zeros(2, 10, 3), torch.zeros(2, 1600)
    >>> frame_lengths(nn.Identity(), frames, wavs, torch.tensor([1.0, 0.5]))
    tensor([10,  5])
    """
    if hasattr(lobe, "frame_lengths"):
        lengths = lobe.frame_lengths(sample_lengths(wavs, wav_lens))
    else:
        lengths = torch.round(wav_lens.to(frames.device, torch.float32) * frames.shape[1]).long()
    return lengths.to(frames.device).clamp(1, frames.shape[1])


def mask_from_lengths(lengths: Tensor, size: int) -> Tensor:
    """Mask, bool [B, size], that is true where an utterance is and false where padding is.

    Parameters
    ----------
    lengths : Tensor
        Integer [B].
    size : int
        Length of the padded axis.

    Examples
    --------
    >>> mask_from_lengths(torch.tensor([1, 3]), 3).int()
    tensor([[1, 0, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Count the samples that the first frame of stacked convolutions sees.

    >>> receptive_field([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])  # wav2vec 2.0's: 25 ms
    400
    """
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def relative_lengths(lengths: Tensor, size: int) -> Tensor:
    """Turn counts [B] into relative lengths that SpeechBrain's masks turn back exactly.

    >>> relative_lengths(torch.tensor([2, 4]), 4)
    tensor([0.3750, 0.8750])
    """
    # Those keep frame t where t < relative * size. A count divided and multiplied back may come
    # out just above itself, which keeps a frame too many; half a frame less cannot.
    return (lengths.float() - 0.5) / size


def valid_positions(mask: Tensor) -> Tensor | None:
    """List where a mask of any shape is true, int64 flat positions; None if it is everywhere.

    >>> valid_positions(torch.tensor([[True, True], [True, False]]))
    tensor([0, 1, 2])
    """
    positions = mask.flatten().nonzero().squeeze(1)
    return None if len(positions) == mask.numel() else positions


def normalize_valid(norm: nn.Module, x: Tensor, positions: Tensor | None) -> Tensor:
    """Apply a BatchNorm to x [B, C, ...] as if there were the `valid_positions` of [B, ...] only.

    What lies elsewhere comes out zero; None normalises the whole.

    >>> norm, x = nn.BatchNorm1d(1), torch.tensor([[[1.0, 3.0, 9.0]]])
    >>> normalize_valid(norm, x, torch.tensor([0, 1])).round().detach()
    tensor([[[-1.,  1.,  0.]]])
    """
    if positions is None:
        return norm(x)
    channels, last = x.shape[1], x.movedim(1, -1)
    flat = _Taken.apply(last.reshape(-1, channels), positions)
    normal = norm(flat.view(-1, channels, *[1] * (x.dim() - 2))).view(-1, channels)
    padded = _Placed.apply(normal, positions, last.shape[:-1].numel())
    return padded.view(last.shape).movedim(-1, 1)


class _Taken(torch.autograd.Function):
    """Some rows of a matrix, each once: its gradient is copied, where ``index_select``'s adds."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.rows = len(matrix)
        return matrix.index_select(0, positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _placed(gradient, ctx.saved_tensors[0], ctx.rows), None


class _Placed(torch.autograd.Function):
    """Rows put back at their positions in a matrix of so many, zeros elsewhere."""

    @staticmethod
    def forward(ctx: Any, some: Tensor, positions: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(positions)
        return _placed(some, positions, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


def _placed(some: Tensor, positions: Tensor, rows: int) -> Tensor:
    matrix = some.new_zeros(rows, some.shape[1])
    if torch.compiler.is_compiling():
        # In place, or of floats seen as integers, it would lose the gradient or not compile.
        return matrix.index_copy(0, positions, some)
    if some.shape[1] * some.element_size() % 8:
        return matrix.index_copy_(0, positions, some)
    # Element by element on a CPU, so that fewer and wider ones are faster.
    wide = some.contiguous().view(torch.int64)
    matrix.view(torch.int64).index_copy_(0, positions, wide)
    return matrix


def length_groups(counts: Sequence[int], overhead: int = 32) -> list[list[int]]:
    """Split a batch into groups of similar length, so that as little as possible is computed.

    Parameters
    ----------
    counts : Sequence[int]
        Frames of each utterance.
    overhead : int
        What one more group costs, in frames. At the size of a base model, reading all weights
        once more takes as long as computing some twenty frames.

    Returns
    -------
    list of list of int
        Places in ``counts``: the cheapest cut of the batch sorted by length, where a group costs
        as many frames as its utterances times its longest, and the overhead.

    Examples
    --------
    >>> length_groups([50, 700, 60, 690])
    [[0, 2], [3, 1]]
    """
    order = sorted(range(len(counts)), key=counts.__getitem__)
    # best[n]: the least cost of the n shortest, and where their last group begins.
    best = [(0, 0)]
    for end, place in enumerate(order, start=1):
        costs = ((best[at][0] + (end - at) * counts[place] + overhead, at) for at in range(end))
        best.append(min(costs))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
