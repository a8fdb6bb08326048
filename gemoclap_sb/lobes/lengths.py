"""How many samples and how many frames of a padded batch are speech.

SpeechBrain passes relative lengths: ``wav_lens[i]`` is utterance i's share of
the longest. Multiplying and rounding gives the samples back exactly. The share
of *frames* is not the same number, since a front end's strides round: a lobe
that knows its strides says so by a method ``frame_lengths(samples)``, and only
for one that does not is the relative length applied to the frames, which is
SpeechBrain's own convention and may be a frame off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def sample_lengths(wavs: Tensor, wav_lens: Tensor) -> Tensor:
    """Count the valid samples of each utterance.

    Parameters
    ----------
    wavs : Tensor
        ``[B, T]``, padded to the longest.
    wav_lens : Tensor
        ``[B]``, relative to the longest.

    Returns
    -------
    Tensor
        int64 ``[B]``, within 1 and T.

    Raises
    ------
    ValueError
        If the shapes are not ``[B, T]`` and ``[B]``, or T is zero.

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
    """Count the valid frames of each utterance.

    Exact where the lobe has ``frame_lengths(samples)``; otherwise relative
    lengths are applied to the frames.

    Parameters
    ----------
    lobe : nn.Module
        The audio lobe that made the frames.
    frames : Tensor
        ``[B, F, D]``.
    wavs : Tensor
        ``[B, T]``.
    wav_lens : Tensor
        ``[B]``, relative to the longest.

    Returns
    -------
    Tensor
        int64 ``[B]``, within 1 and F.

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
    """Mask that is true where an utterance is and false where padding is.

    Parameters
    ----------
    lengths : Tensor
        Integer ``[B]``.
    size : int
        Length of the padded axis.

    Returns
    -------
    Tensor
        bool ``[B, size]``.

    Examples
    --------
    >>> mask_from_lengths(torch.tensor([1, 3]), 3).int()
    tensor([[1, 0, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def relative_lengths(lengths: Tensor, size: int) -> Tensor:
    """Turn counts into relative lengths that SpeechBrain's masks turn back exactly.

    Its modules keep frame t where ``t < relative * size``. A count divided and
    multiplied back may come out just above itself, which keeps a frame too many;
    half a frame less cannot.

    Parameters
    ----------
    lengths : Tensor
        Integer ``[B]``.
    size : int
        Frames of the padded batch.

    Returns
    -------
    Tensor
        float32 ``[B]``.

    Examples
    --------
    >>> relative_lengths(torch.tensor([2, 4]), 4)
    tensor([0.3750, 0.8750])
    """
    return (lengths.float() - 0.5) / size


def valid_positions(mask: Tensor) -> Tensor | None:
    """List the valid frames of a batch, or say that all are valid.

    Parameters
    ----------
    mask : Tensor
        bool ``[B, F]``.

    Returns
    -------
    Tensor or None
        int64 positions in ``[B * F]``; None where there is no padding.

    Examples
    --------
    >>> valid_positions(torch.tensor([[True, True], [True, False]]))
    tensor([0, 1, 2])
    """
    positions = mask.flatten().nonzero().squeeze(1)
    return None if len(positions) == mask.numel() else positions


def normalize_valid(norm: nn.Module, x: Tensor, positions: Tensor | None) -> Tensor:
    """Apply a BatchNorm as if the batch had no padding.

    Parameters
    ----------
    norm : nn.Module
        Batch normalisation that takes ``[N, C]`` and ``[N, C, F]``.
    x : Tensor
        ``[B, C, F]``.
    positions : Tensor or None
        What `valid_positions` gave; None normalises the whole.

    Returns
    -------
    Tensor
        ``[B, C, F]``; where positions are given, the others are zero.

    Examples
    --------
    >>> norm, x = nn.BatchNorm1d(1), torch.tensor([[[1.0, 3.0, 9.0]]])
    >>> normalize_valid(norm, x, torch.tensor([0, 1])).round().detach()
    tensor([[[-1.,  1.,  0.]]])
    """
    if positions is None:
        return norm(x)
    batch, channels, size = x.shape
    frames = norm(_Pack.apply(x.transpose(1, 2).reshape(-1, channels), positions))
    padded = frames.new_zeros(batch * size, channels).index_copy(0, positions, frames)
    return padded.view(batch, size, channels).transpose(1, 2)


class _Pack(torch.autograd.Function):
    """``frames[positions]`` for distinct positions.

    Its gradient is a plain copy. Indexing's own must add up, since it cannot know that
    no position comes twice, and is several times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.size = frames.shape[0]
        return frames.index_select(0, positions)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        zeros = gradient.new_zeros(ctx.size, gradient.shape[1])
        return zeros.index_copy(0, positions, gradient), None
