"""Batches for the encoder benchmark: a corpus's durations, three ways of batching, noise.

The samplers see the whole corpus with its true durations, since a small pool pads more.
A few full batches are then picked that stand for the epoch, and their waveforms are
shortened by one factor, which leaves the share of padding as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from padding import random_batches, read_column
from torch import Tensor

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.data.samplers import LengthPooledBatchSampler, length_sorted_batches

SAMPLE_RATE = 16000
SHORTEST_SECONDS = 0.05
"""Shortened utterances are no shorter; the encoders' first frame takes 0.025 s."""
DEFAULT_DURATIONS = Path(__file__).resolve().parents[2] / "shared/data/iemocap_durations.csv"
PROMPTS = Prompts(
    words={
        "emotion": {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"},
        "gender": {"F": "female", "M": "male"},
    },
    templates={"emotion": ["this person sounds {}"], "gender": ["a {} speaker"]},
)


@dataclass(frozen=True)
class Corpus:
    """Durations of a corpus, and how they are used.

    Attributes
    ----------
    durations : tuple of float
        Seconds.
    scale : float
        Factor by which waveforms are shortened.
    seed : int
        Of the samplers, the waveforms and the labels.
    """

    durations: tuple[float, ...]
    scale: float
    seed: int


@dataclass
class Batch:
    """A padded batch.

    Attributes
    ----------
    wavs : Tensor
        float32 [B, T], 16 kHz.
    wav_lens : Tensor
        [B], relative to T.
    names : dict of list of str
        Labels as words, per attribute.
    labels : dict of Tensor
        LongTensor [B] per attribute.
    """

    wavs: Tensor
    wav_lens: Tensor
    names: dict[str, list[str]]
    labels: dict[str, Tensor]

    def to(self, device: str) -> Batch:
        """Move the tensors."""
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return Batch(self.wavs.to(device), self.wav_lens.to(device), self.names, labels)


def read_durations(path: Path | None, column: str, seed: int) -> tuple[tuple[float, ...], str]:
    """Read the durations of a corpus, or draw some like IEMOCAP's.

    Parameters
    ----------
    path : Path or None
        A CSV file; None for IEMOCAP's durations where the shared data is at hand, else for
        a log-normal sample.
    column : str
        Its column of seconds.
    seed : int
        Of the sample.

    Returns
    -------
    durations : tuple of float
        Seconds.
    origin : str
        Where they come from, for the report.
    """
    if path is None and DEFAULT_DURATIONS.exists():
        path = DEFAULT_DURATIONS
    if path is not None:
        return tuple(float(value) for value in read_column(path, column)), path.name
    # Median, spread and extremes of IEMOCAP's four classes.
    drawn = np.random.default_rng(seed).lognormal(np.log(3.58), 0.64, 5531).clip(0.58, 34.1)
    return tuple(drawn.tolist()), "a log-normal sample (median 3.58 s, sigma 0.64)"


def epoch_batches(corpus: Corpus, batching: str, batch_size: int) -> list[list[int]]:
    """Cut a whole epoch into batches and keep the full ones.

    Parameters
    ----------
    corpus : Corpus
        The utterances.
    batching : str
        `random`, `pooled` (`LengthPooledBatchSampler`) or `sorted` (for inference).
    batch_size : int
        Utterances in a batch.

    Returns
    -------
    list of list of int
        Indices of utterances.

    Raises
    ------
    ValueError
        If no batch is full, or the batching is unknown.
    """
    durations = np.array(corpus.durations)
    if batching == "random":
        batches = random_batches(durations, batch_size, corpus.seed, epoch=1)
    elif batching == "pooled":
        batches = LengthPooledBatchSampler(durations, batch_size, seed=corpus.seed).batches(1)
    elif batching == "sorted":
        batches = length_sorted_batches(durations, batch_size).batches
    else:
        raise ValueError(f"expected batching random, pooled or sorted, found {batching!r}")
    full = [batch for batch in batches if len(batch) == batch_size]
    if not full:
        raise ValueError(
            f"expected {batch_size} utterances or more, found {len(durations)}; "
            "give more durations or a smaller --batch-size"
        )
    return full


def typical_batches(
    durations: Sequence[float], batches: list[list[int]], count: int
) -> list[list[int]]:
    """Pick batches that stand for the epoch.

    The batches are ranked by padded length and divided into `count` equal strata. From
    each comes the batch whose padded length is nearest to the stratum's mean, so that the
    time per utterance is the epoch's.

    Parameters
    ----------
    durations : sequence of float
        Of the utterances.
    batches : list of list of int
        Of the epoch, of one size.
    count : int
        How many to pick; all of them where there are fewer.

    Returns
    -------
    list of list of int

    Examples
    --------
    >>> typical_batches([1.0, 2.0, 3.5, 9.0], [[3], [0], [2], [1]], 1)
    [[2]]
    """
    lengths = np.array([max(durations[index] for index in batch) for batch in batches])
    picked = []
    for stratum in np.array_split(np.argsort(lengths, kind="stable"), min(count, len(batches))):
        distance = np.abs(lengths[stratum] - lengths[stratum].mean())
        picked.append(batches[stratum[distance.argmin()]])
    return picked


def padded_seconds(durations: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """Mean over batches of the length to which they are padded."""
    return float(np.mean([max(durations[index] for index in batch) for batch in batches]))


def make_batch(corpus: Corpus, indices: Sequence[int]) -> Batch:
    """Make the waveforms and labels of a batch; an utterance is the same in every batch.

    Parameters
    ----------
    corpus : Corpus
        The utterances.
    indices : sequence of int
        Which of them.

    Returns
    -------
    Batch
        Noise whose loudness rises and falls, padded with zeros.
    """
    wavs, names = [], {"emotion": [], "gender": []}
    for index in indices:
        generator = np.random.default_rng((corpus.seed, index))
        seconds = max(corpus.durations[index] * corpus.scale, SHORTEST_SECONDS)
        count = round(seconds * SAMPLE_RATE)
        envelope = 0.1 * (1.1 + np.sin(np.arange(count) / SAMPLE_RATE * 2 * np.pi * 4))
        wavs.append(torch.from_numpy(generator.standard_normal(count) * envelope).float())
        for name, of in names.items():
            labels = PROMPTS.labels(name)
            of.append(labels[generator.integers(len(labels))])
    lengths = torch.tensor([len(wav) for wav in wavs])
    return Batch(
        wavs=torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True),
        wav_lens=lengths / lengths.max(),
        names=names,
        labels={name: PROMPTS.encode(name, of) for name, of in names.items()},
    )
