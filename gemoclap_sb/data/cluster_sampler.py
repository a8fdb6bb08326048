"""Batches in which every utterance has others of its cluster, and others of its speaker's clusters.

A batch costs what is in it and a number for each speaker: nothing is done for every utterance of
the corpus, neither at a batch nor at an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import BatchSampler

from gemoclap_sb.data.speaker_clusters import SpeakerClusters

TRAIN, VALID = "train", "valid"
# Two of a cluster: one is the other's positive.
_LEAST = 2


@dataclass(frozen=True)
class ClusterParts:
    """Which utterances of each cluster are in a split.

    Attributes
    ----------
    first, sizes : np.ndarray
        int64 ``[C]``: a cluster's utterances here are ``first[c]`` to before ``first[c] +
        sizes[c]``.
    speaker_starts : np.ndarray
        int64 ``[S + 1]``, as of `gemoclap_sb.data.speaker_clusters.SpeakerClusters`.
    """

    first: np.ndarray
    sizes: np.ndarray
    speaker_starts: np.ndarray


def split_clusters(
    clusters: SpeakerClusters, valid_share: float, seed: int
) -> dict[str, ClusterParts]:
    """Hold out a share of each cluster for validation, two utterances or more or none at all.

    Of a cluster whose share is less than two, two are held out for so many speakers, drawn at
    random, that it is kept in the mean. What is left for training is two or more too. Utterances of
    a cluster lie in random order, so that the first are as good as any.
    """
    sizes, first = clusters.sizes, clusters.cluster_starts[:-1]
    speakers = len(clusters.speakers)
    lot = np.repeat(np.random.default_rng(seed).random(speakers), np.diff(clusters.speaker_starts))
    held = np.floor(sizes * valid_share).astype(np.int64)
    held = np.where(held < _LEAST, np.where(_LEAST * lot < sizes * valid_share, _LEAST, 0), held)
    held[sizes - held < _LEAST] = 0
    return {
        TRAIN: ClusterParts(first + held, sizes - held, clusters.speaker_starts),
        VALID: ClusterParts(first, held, clusters.speaker_starts),
    }


class ClusterBatchSampler(BatchSampler):
    """Batches of so many speakers, of each so many clusters, of each so many utterances.

    Every utterance of a batch has in it at least one other of its cluster, its positive, and two
    of another cluster, its negatives, of its own speaker unless ``own_negatives`` is False; no
    utterance is there twice. A cluster that
    has fewer utterances than asked for gives all it has, a speaker with fewer clusters likewise.
    Speakers are drawn in proportion to their utterances, a speaker's clusters evenly.

    Use it as `gemoclap_sb.data.samplers.LengthPooledBatchSampler`: call `set_epoch` before every
    epoch, and let SpeechBrain's ``DistributedSamplerWrapper`` hand the batches out.

    Parameters
    ----------
    parts : ClusterParts
        What there is to draw from. Clusters of one utterance are not drawn from, nor speakers
        who have fewer than two others (one, without ``own_negatives``).
    speakers, clusters, utterances : int
        Speakers of a batch, clusters of each of them, utterances of each of these.
    batches : int, optional
        In an epoch, for each process; by default as many as it takes to draw as many utterances as
        there are. With several processes two at least.
    seed : int
        With the epoch and the number of the batch the only source of randomness.
    num_replicas : int, optional
        Processes; by default those of ``torch.distributed``, or one.
    own_negatives : bool
        Whether a speaker must have two clusters: negatives are its own. Else one will do, if there
        are two speakers or more in a batch.

    Attributes
    ----------
    drawn_speakers, drawn_utterances : int
        How many there are to draw from.

    Raises
    ------
    ValueError
        If a number is out of its range, or there are fewer such speakers than a batch has.

    Examples
    --------
    >>> parts = ClusterParts(np.array([0, 3, 9, 12]), np.array([3, 6, 3, 4]), np.array([0, 2, 4]))
    >>> sampler = ClusterBatchSampler(parts, speakers=2, clusters=2, utterances=2, seed=1)
    >>> [len(batch) for batch in sampler]
    [8, 8]
    """

    def __init__(
        self,
        parts: ClusterParts,
        speakers: int = 8,
        clusters: int = 2,
        utterances: int = 2,
        batches: int | None = None,
        seed: int = 1,
        num_replicas: int | None = None,
        own_negatives: bool = True,
    ) -> None:
        least_clusters = _least_clusters(own_negatives)
        for name, value, least in (
            ("speakers", speakers, 1 if own_negatives else 2),
            ("clusters", clusters, least_clusters),
            ("utterances", utterances, _LEAST),
            ("seed", seed, 0),
            ("batches", 1 if batches is None else batches, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: expected {least} or more, found {value}.")
        if num_replicas is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            num_replicas = torch.distributed.get_world_size() if distributed else 1
        self.parts, self.shape = parts, (speakers, clusters, utterances)
        self.seed, self.num_replicas = seed, num_replicas
        usable = parts.sizes >= _LEAST
        # Of each speaker the usable clusters follow each other, and where they begin.
        self._clusters = np.flatnonzero(usable)
        self._begins = np.concatenate([[0], np.cumsum(usable)])[parts.speaker_starts]
        enough = _enough(parts, own_negatives)
        weights = np.concatenate([[0], np.cumsum(np.where(usable, parts.sizes, 0))])
        weights = np.where(enough, np.diff(weights[parts.speaker_starts]), 0)
        self.drawn_speakers = drawn_speakers(parts, own_negatives)
        self.drawn_utterances = int(weights.sum())
        if self.drawn_speakers < speakers:
            kind = "clusters" if least_clusters > 1 else "cluster"
            raise ValueError(
                f"expected {speakers} speakers or more with {least_clusters} {kind} of {_LEAST} "
                f"utterances, found {self.drawn_speakers}"
            )
        self._chances = weights / weights.sum()
        size = speakers * clusters * utterances * num_replicas
        self._batches = num_replicas * (
            batches if batches is not None else max(1, round(self.drawn_utterances / size))
        )
        if num_replicas > 1:
            # SpeechBrain's wrapper yields indices in place of batches where a process has one.
            self._batches = max(self._batches, 2 * num_replicas)
        self.set_epoch(0)
        super().__init__(range(self.drawn_utterances), speakers * clusters * utterances, False)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 or more, whose batches the next iteration yields."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, found {epoch}.")
        self.epoch = epoch

    def draw(self, epoch: int, number: int) -> list[int]:
        """Draw a batch of an epoch by its number: utterances by their places."""
        generator = np.random.default_rng((self.seed, epoch, number))
        speakers, clusters, utterances = self.shape
        batch: list[int] = []
        chosen = generator.choice(len(self._chances), speakers, replace=False, p=self._chances)
        for speaker in chosen:
            begin, end = self._begins[speaker], self._begins[speaker + 1]
            count = min(clusters, end - begin)
            for place in generator.choice(end - begin, count, replace=False):
                cluster = self._clusters[begin + place]
                size = self.parts.sizes[cluster]
                of = generator.choice(size, min(utterances, size), replace=False)
                batch += (self.parts.first[cluster] + of).tolist()
        return batch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch that was set last, for all processes."""
        return (self.draw(self.epoch, number) for number in range(self._batches))

    def __len__(self) -> int:
        """Batches in an epoch, of all processes together."""
        return self._batches


def drawn_speakers(parts: ClusterParts, own_negatives: bool = True) -> int:
    """Count the speakers that can be drawn from; see `ClusterBatchSampler`."""
    return int(_enough(parts, own_negatives).sum())


def _least_clusters(own_negatives: bool) -> int:
    return 2 if own_negatives else 1


def _enough(parts: ClusterParts, own_negatives: bool) -> np.ndarray:
    """Tell of each speaker whether it has clusters enough, ``[S]``."""
    before = np.concatenate([[0], np.cumsum(parts.sizes >= _LEAST)])
    return np.diff(before[parts.speaker_starts]) >= _least_clusters(own_negatives)
