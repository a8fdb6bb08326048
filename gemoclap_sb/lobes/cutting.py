"""Parts of waveforms: silence at both ends left out, random crops for training.

Acted corpora begin and end with pauses, which say nothing of the emotion and cost as much as
speech. What counts as silence is relative to an utterance's own loudest stretch, so that a
recording's gain does not matter, and depends on no other utterance of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gemoclap_sb.lobes.lengths import mask_from_lengths, sample_lengths

STRETCH_MS, MARGIN_MS = 25, 50


def trim_silence(
    wavs: Tensor, wav_lens: Tensor, top_db: float, sample_rate: int = 16000
) -> tuple[Tensor, Tensor]:
    """Leave out what lies before the first and after the last stretch that is loud enough.

    The level is that of stretches of 25 ms; 50 ms on either side are kept. Trimming twice trims
    no more than once. An utterance of digital silence stays whole.

    Parameters
    ----------
    wavs : Tensor
        ``[B, T]``.
    wav_lens : Tensor
        ``[B]``, relative to the longest.
    top_db : float
        A stretch is loud enough if it lies at most so many decibels below the loudest.
    sample_rate : int
        Of the waveforms, in Hz.

    Returns
    -------
    wavs : Tensor
        ``[B, T']``, zero past an utterance's end.
    wav_lens : Tensor
        ``[B]``, relative to the longest of what is left.

    Raises
    ------
    ValueError
        If ``top_db`` is not more than 0.

    Examples
    --------
    >>> wavs = torch.cat([torch.zeros(1, 8000), torch.ones(1, 4000), torch.zeros(1, 8000)], dim=1)
    >>> trimmed, wav_lens = trim_silence(wavs, torch.ones(1), top_db=40.0)
    >>> trimmed.shape, wav_lens
    (torch.Size([1, 5600]), tensor([1.]))
    """
    if not top_db > 0:
        raise ValueError(f"top_db: expected more than 0 decibels, found {top_db!r}.")
    stretch, margin = (sample_rate * ms // 1000 for ms in (STRETCH_MS, MARGIN_MS))
    samples = sample_lengths(wavs, wav_lens)
    wavs = wavs.masked_fill(~mask_from_lengths(samples, wavs.shape[1]), 0.0)
    count = -(-wavs.shape[1] // stretch)
    padded = torch.nn.functional.pad(wavs.detach(), (0, count * stretch - wavs.shape[1]))
    power = padded.float().view(len(wavs), count, stretch).square().mean(dim=2)
    loud = power >= power.amax(dim=1, keepdim=True) * 10 ** (-top_db / 10)
    first = loud.int().argmax(dim=1)
    last = count - 1 - loud.flip(1).int().argmax(dim=1)
    starts = (first * stretch - margin).clamp(min=0)
    stops = torch.minimum((last + 1) * stretch + margin, samples)
    return cut(wavs, starts, stops)


def random_crop(wavs: Tensor, wav_lens: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Cut from each utterance of [B, T] a part of ``most`` samples anywhere in it.

    What is no longer than that stays whole. Returns as `trim_silence` does.

    >>> random_crop(torch.ones(2, 8), torch.tensor([1.0, 0.25]), most=4)
    (tensor([[1., 1., 1., 1.],
            [1., 1., 0., 0.]]), tensor([1.0000, 0.5000]))
    """
    samples = sample_lengths(wavs, wav_lens)
    lengths = samples.clamp(max=most)
    chances = torch.rand(len(wavs), device=wavs.device)
    starts = (chances * (samples - lengths + 1)).long()
    return cut(wavs, starts, starts + lengths)


def cut(wavs: Tensor, starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """Cut from each waveform of [B, T] its own part, int64 [B]: as `trim_silence` returns them.

    >>> cut(torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.tensor([1, 0]), torch.tensor([2, 2]))
    (tensor([[2., 0.],
            [1., 2.]]), tensor([0.5000, 1.0000]))
    """
    lengths = stops - starts
    # Not one `gather`: slices copy stretches of memory, and it looks up each sample.
    parts = wavs.new_zeros(len(wavs), int(lengths.max()))
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        parts[row, : stop - start] = wavs[row, start:stop]
    return parts, lengths.float() / parts.shape[1]


def equal_pieces(num_samples: int, longest: int) -> list[tuple[int, int]]:
    """Cut a length into the fewest equal pieces of at most ``longest``: starts and stops.

    >>> equal_pieces(10, 4)
    [(0, 3), (3, 7), (7, 10)]
    """
    count = -(-num_samples // longest)
    edges = [round(i * num_samples / count) for i in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))
