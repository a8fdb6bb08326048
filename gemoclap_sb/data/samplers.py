"""Batching by length: little padding in training, evaluation and inference.

A batch is padded to its longest utterance, so batches drawn at random are mostly padding
where durations vary much. `LengthPooledBatchSampler` draws training batches of similar
length that still differ in every epoch; `length_sorted_batches` cuts an evaluation or
inference set into batches of similar length.

Batches of similar length as a means to faster training: Khomenko et al., "Accelerating
recurrent neural network training using sequence bucketing and multi-GPU data
parallelization" (https://arxiv.org/abs/1708.05604). Sorting within shuffled pools follows
torchtext's `BucketIterator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from torch.utils.data import BatchSampler

logger = get_logger(__name__)


class LengthPooledBatchSampler(BatchSampler):
    """Batches of similar length, drawn anew in every epoch.

    In every epoch the utterances are shuffled and divided into pools. Each pool is sorted
    by length and cut into batches, then the batches of all pools are shuffled. Equal
    lengths stay in shuffled order. Every batch is full except the last of the epoch, whose
    place on the length scale is drawn too, so that no length is favoured by sitting in the
    short batch. A single utterance left over shares with the batch before it, or makes a third of
    a batch of two: alone it has nothing to be compared with.

    Pass it as ``batch_sampler`` in SpeechBrain's ``train_loader_kwargs``, without
    ``batch_size``, ``shuffle``, ``sampler`` and ``drop_last``. **Call `set_epoch` before
    every epoch.** SpeechBrain's ``Brain`` does so for ``Brain.train_sampler`` only, which it
    sets itself under torchrun; with one process set it to this sampler, as the brains here
    do. Resuming in mid-epoch needs nothing more: SpeechBrain's ``SaveableDataLoader`` skips
    the batches already seen.

    Parameters
    ----------
    durations : sequence of float, [N]
        Length of every utterance, in the dataset's index order, in any unit (seconds or
        samples).
    batch_size : int
        Utterances per batch, and per process under torchrun.
    pool_batches : int
        Batches in a pool. More means less padding, 1 means random batches; those of one step then
        go round the processes by length, so that all have as much to do. The pools are
        made equally large, as near to this as their whole number allows; there are at least
        two, so that the batches change with the epoch. Where length tells the class, batches
        of similar length are less mixed than the corpus, in small pools too.
        `benchmarks/padding.py` measures both.
    seed : int
        Not negative. With the epoch, the only source of randomness.
    num_replicas : int, optional
        Processes that share the batches; by default the world size of ``torch.distributed``
        if it is initialised, else 1. Each receives the same number of batches, none
        repeated; the utterances left over at the end are spread evenly over the last batch
        of each process (of the last two, where one would leave a process without any). All
        batches are yielded here, and SpeechBrain's ``DistributedSamplerWrapper`` hands out
        each process's part. Consecutive runs of ``num_replicas`` batches are close in length,
        so that no process waits long for another, if the wrapper has ``shuffle=False``.

    Raises
    ------
    ValueError
        If durations are empty, not finite or not positive, if a number is out of its
        range, or if the utterances are too few to make a batch for everyone.

    Examples
    --------
    >>> durations = [1.0, 9.0] * 50
    >>> sampler = LengthPooledBatchSampler(durations, batch_size=8)
    >>> for epoch in (1, 2):
    ...     sampler.set_epoch(epoch)
    ...     print([len(batch) for batch in sampler])
    [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4]
    [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4]
    >>> speech_share(durations, sampler.batches(epoch=2)) > 0.8
    True
    """

    def __init__(
        self,
        durations: Sequence[float] | np.ndarray | torch.Tensor,
        batch_size: int = 32,
        pool_batches: int = 64,
        seed: int = 1,
        num_replicas: int | None = None,
    ) -> None:
        self.durations = _checked_durations(durations)
        super().__init__(range(len(self.durations)), batch_size, drop_last=False)
        if num_replicas is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            num_replicas = torch.distributed.get_world_size() if distributed else 1
        for name, value, smallest in (
            ("pool_batches", pool_batches, 1),
            ("num_replicas", num_replicas, 1),
            ("seed", seed, 0),
        ):
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, found {value}.")
        self.seed = int(seed)
        self.pool_batches = pool_batches
        self.num_replicas = int(num_replicas)
        self.set_epoch(0)

        steps = _step_sizes(len(self.durations), batch_size, num_replicas)
        self._num_batches = len(steps) * num_replicas
        # A single pool would be cut into the same batches in every epoch.
        num_pools = max(min(2, len(steps)), round(len(steps) / -(-pool_batches // num_replicas)))
        self._pools = [
            [steps[step] for step in of] for of in np.array_split(np.arange(len(steps)), num_pools)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 or more, whose batches the next iteration yields."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, found {epoch}.")
        self.epoch = epoch
        self._epoch_used = False

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, for all processes, as indices that rise in length.

        Examples
        --------
        >>> sampler = LengthPooledBatchSampler(list(range(1, 8)), batch_size=2)
        >>> [len(batch) for batch in sampler.batches(epoch=3)]
        [2, 2, 3]
        """
        # The pair, not the sum: seed 1 in epoch 2 must differ from seed 2 in epoch 1.
        generator = np.random.default_rng((self.seed, epoch))

        def permuted(items: list) -> list:
            return [items[index] for index in generator.permutation(len(items))]

        order = generator.permutation(len(self.durations))
        full_steps, short_steps = [], []
        start = 0
        for pool in self._pools:
            stop = start + sum(map(sum, pool))
            utterances = order[start:stop]
            start = stop
            # A stable sort, so that ties keep their shuffled order.
            by_length = np.argsort(self.durations[utterances], kind="stable")
            remaining = iter(utterances[by_length].tolist())
            for sizes in permuted(pool):
                if self.pool_batches == 1:
                    of_step = list(islice(remaining, sum(sizes)))
                    step = [of_step[place :: len(sizes)] for place in range(len(sizes))]
                else:
                    step = [[next(remaining) for _ in range(size)] for size in sizes]
                is_full = min(sizes) == self.batch_size
                # Permuted, else the same process would have the longest batch in every step.
                (full_steps if is_full else short_steps).append(permuted(step))
        return [batch for step in permuted(full_steps) + short_steps for batch in step]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch that was set last, for all processes."""
        if self._epoch_used:
            logger.warning(
                "LengthPooledBatchSampler: epoch %d is iterated again, with the same batches. "
                "Call set_epoch before every epoch; with SpeechBrain's Brain and one process, "
                "set brain.train_sampler to this sampler.",
                self.epoch,
            )
        self._epoch_used = True
        return iter(self.batches(self.epoch))

    def __len__(self) -> int:
        """Batches in an epoch, of all processes together."""
        return self._num_batches


def length_sorted_batches(
    durations: Sequence[float] | np.ndarray | torch.Tensor,
    batch_size: int | None = 32,
    max_batch_seconds: float | None = None,
) -> list[list[int]]:
    """Cut a set for evaluation or inference into batches of indices, by falling length.

    The longest utterances come first, so that a lack of memory shows at once. Equal
    lengths stay in the caller's order. At most ``batch_size`` utterances are in a batch, and
    at most ``max_batch_seconds`` of padded length, the number of utterances times the
    longest; one that is longer by itself forms a batch of its own, as it must be scored all
    the same. None is no limit. ValueError without a positive limit, or for durations that
    are empty, not finite or not positive.

    Examples
    --------
    >>> length_sorted_batches([1.0, 4.0, 2.0, 3.0], batch_size=2)
    [[1, 3], [2, 0]]
    >>> length_sorted_batches([1.0, 4.0, 2.0, 3.0], max_batch_seconds=6.0)
    [[1], [3, 2], [0]]
    """
    if batch_size is None and max_batch_seconds is None:
        raise ValueError("Give batch_size, max_batch_seconds or both: both are None.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 or None, found {batch_size}.")
    # Written this way round so that NaN is refused too.
    if max_batch_seconds is not None and not max_batch_seconds > 0:
        raise ValueError(f"max_batch_seconds must be positive or None, found {max_batch_seconds}.")
    lengths = _checked_durations(durations)
    order = np.argsort(-lengths, kind="stable")
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        size = len(order) if batch_size is None else batch_size
        if max_batch_seconds is not None:
            # The margin keeps 3 x 0.1 s within 0.3 s, whatever binary fractions say.
            fitting = max_batch_seconds * (1 + 1e-9) / lengths[order[start]]
            size = int(max(1, min(size, fitting)))
        batches.append(order[start : start + size].tolist())
        start += size
    return batches


def speech_share(
    durations: Sequence[float] | np.ndarray | torch.Tensor, batches: Sequence[Sequence[int]]
) -> float:
    """Share of speech in padded batches of indices, in (0, 1]; the rest is padding.

    Examples
    --------
    >>> speech_share([1.0, 3.0, 2.0, 2.0], [[0, 1], [2, 3]])
    0.8
    """
    if not batches:
        raise ValueError("Expected at least one batch, found none.")
    lengths = _checked_durations(durations)
    valid = sum(lengths[list(batch)].sum() for batch in batches)
    padded = sum(len(batch) * lengths[list(batch)].max() for batch in batches)
    return float(valid / padded)


def _checked_durations(durations: Sequence[float] | np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(durations, torch.Tensor):
        durations = durations.detach().cpu().numpy()
    lengths = np.array(durations, dtype=np.float64)
    if lengths.ndim != 1 or len(lengths) == 0:
        raise ValueError(
            "durations must hold one number per utterance and at least one utterance, "
            f"found shape {list(lengths.shape)}."
        )
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ValueError(
            f"durations must be finite and positive: found {lengths[wrong[0]]} at index "
            f"{wrong[0]} ({len(wrong)} such in all). Remove those utterances or correct the "
            "manifest."
        )
    return lengths


def _step_sizes(count: int, batch_size: int, num_replicas: int) -> list[list[int]]:
    """Sizes of the batches, `num_replicas` of them for each step of the processes."""
    step_size = batch_size * num_replicas
    # SpeechBrain's DistributedSamplerWrapper yields indices in place of batches to a
    # process that has one batch only (operator.itemgetter with one argument).
    num_steps = max(-(-count // step_size), 1 if num_replicas == 1 else 2)
    rest = count - (num_steps - 1) * step_size
    # One step takes the rest unless that left a process with an empty batch, or with a
    # single utterance: it has nothing to be compared with, and BatchNorm refuses it.
    num_short = 1 if rest >= 2 * num_replicas or num_steps == 1 else 2
    num_full = num_steps - num_short
    if batch_size == 2 and rest == 1 and num_replicas == 1 and num_steps > 1:
        # Two batches of three would leave one utterance alone all the same.
        return [[2]] * (num_steps - 2) + [[3]]
    smaller, larger_batches = divmod(count - num_full * step_size, num_short * num_replicas)
    if smaller == 0:
        raise ValueError(
            f"{count} utterances in batches of {batch_size} cannot be shared among {num_replicas} "
            "processes without an empty or a repeated batch. Use fewer processes."
        )
    sizes = [smaller + 1] * larger_batches
    sizes += [smaller] * (num_short * num_replicas - larger_batches)
    short = [sizes[i * num_replicas : (i + 1) * num_replicas] for i in range(num_short)]
    return [[batch_size] * num_replicas] * num_full + short
