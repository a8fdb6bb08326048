"""Batching by length: little padding in training, evaluation and inference.

A batch is padded to its longest utterance, so batches drawn at random are mostly
padding where durations vary much. `LengthPooledBatchSampler` draws training
batches of similar length that still differ in every epoch; `length_sorted_batches`
cuts an evaluation or inference set into batches of similar length and tells how
to put the results back into the caller's order.

Batches of similar length as a means to faster training: Khomenko et al.,
"Accelerating recurrent neural network training using sequence bucketing and
multi-GPU data parallelization" (https://arxiv.org/abs/1708.05604). Sorting within
shuffled pools follows torchtext's `BucketIterator`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger
from torch.utils.data import BatchSampler

__all__ = [
    "LengthPooledBatchSampler",
    "LengthSortedBatches",
    "length_sorted_batches",
    "speech_share",
]

logger = get_logger(__name__)


@register_checkpoint_hooks
class LengthPooledBatchSampler(BatchSampler):
    """Batches of similar length, drawn anew in every epoch.

    In every epoch the utterances are shuffled and divided into pools. Each pool is
    sorted by length and cut into batches, then the batches of all pools are
    shuffled. Equal lengths stay in shuffled order. Every batch is full except the
    last of the epoch, whose place on the length scale is drawn too, so that no
    length is favoured by sitting in the short batch. A single utterance left over
    shares with the batch before it: alone it has nothing to be compared with.

    Pass it as `batch_sampler` in SpeechBrain's `train_loader_kwargs`, without
    `batch_size`, `shuffle`, `sampler` and `drop_last`. **Call `set_epoch` before
    every epoch.** SpeechBrain's `Brain` does so only for `Brain.train_sampler`,
    which it sets itself under a distributed launch; with one process set
    `brain.train_sampler` to this sampler.

    Parameters
    ----------
    durations : sequence of float, [N]
        Length of every utterance, in the dataset's index order, in any unit
        (seconds or samples).
    batch_size : int
        Utterances per batch, and per process under a distributed launch.
    pool_batches : int
        Batches in a pool, rounded up to a multiple of `num_replicas`. More means less
        padding, 1 means random batches. The pools are made equally large, as near to
        this as their whole number allows, so that no small pool with much padding is
        left over; there are at least two, so that the batches change with the epoch.
        Where length tells the class, batches of similar length are less mixed than
        the corpus. Smaller pools barely help: four batches in a pool already
        give nearly the mix of a full sort. `benchmarks/padding.py` measures both.
    shuffle : bool
        False keeps the given order, and so the same batches in every epoch.
    seed : int
        Not negative. With the epoch, the only source of randomness.
    drop_last : bool
        Leave out the utterances that fill no batch. Which ones changes with the epoch.
    num_replicas : int, optional
        Processes that share the batches. Default: the world size of
        `torch.distributed` if it is initialised, else 1. Each process receives the
        same number of batches, none repeated; the utterances left over at the end
        are spread evenly over the last batch of each process (of the last two,
        where one would leave a process without any). All batches are yielded here:
        SpeechBrain's `DistributedSamplerWrapper` hands out each process's part.
        Consecutive runs of `num_replicas` batches are close in length, so that no
        process waits long for another, if the wrapper has `shuffle=False`.

    Raises
    ------
    ValueError
        If durations are empty, not finite or not positive, if a number is out of
        its range, or if the utterances are too few to make a batch for everyone.

    Notes
    -----
    Resuming in mid-epoch needs no state of this sampler beyond seed and epoch:
    SpeechBrain's `SaveableDataLoader` skips the batches already seen. Adding the
    sampler to the `Checkpointer` as well makes sure that they are the same
    batches: it restores the epoch, and refuses a checkpoint that was written in
    mid-epoch with other durations or settings.

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
        shuffle: bool = True,
        seed: int = 1,
        drop_last: bool = False,
        num_replicas: int | None = None,
    ) -> None:
        self.durations = _checked_durations(durations)
        super().__init__(range(len(self.durations)), batch_size, drop_last)
        if num_replicas is None:
            num_replicas = _world_size()
        for name, value, smallest in (
            ("pool_batches", pool_batches, 1),
            ("num_replicas", num_replicas, 1),
            ("seed", seed, 0),
        ):
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, found {value}.")
        self.pool_batches = int(pool_batches)
        self.shuffle = shuffle
        self.seed = int(seed)
        self.num_replicas = int(num_replicas)
        self.epoch = 0
        self._epoch_used = False

        step_sizes = _step_sizes(len(self.durations), batch_size, num_replicas, drop_last)
        self._num_batches = len(step_sizes) * num_replicas
        steps_per_pool = -(-pool_batches // num_replicas)
        # A single pool would be cut into the same batches in every epoch.
        fewest_pools = min(2, len(step_sizes)) if shuffle else 1
        num_pools = max(fewest_pools, round(len(step_sizes) / steps_per_pool))
        self._pools = [
            [step_sizes[step] for step in steps]
            for steps in np.array_split(np.arange(len(step_sizes)), num_pools)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields.

        Parameters
        ----------
        epoch : int
            Number of the epoch, not negative.

        Raises
        ------
        ValueError
            If `epoch` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, found {epoch}.")
        self.epoch = epoch
        self._epoch_used = False

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of one epoch, for all processes.

        Parameters
        ----------
        epoch : int
            Number of the epoch, not negative.

        Returns
        -------
        batches : list of list of int
            Indices into the dataset. Within a batch they rise in length.

        Examples
        --------
        >>> sampler = LengthPooledBatchSampler(list(range(1, 8)), batch_size=2)
        >>> [len(batch) for batch in sampler.batches(epoch=3)]
        [2, 2, 2, 1]
        """
        # The pair, not the sum: seed 1 in epoch 2 must differ from seed 2 in epoch 1.
        generator = np.random.default_rng((self.seed, epoch))

        def permuted(items: list) -> list:
            if not self.shuffle:
                return items
            return [items[index] for index in generator.permutation(len(items))]

        count = len(self.durations)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        full_steps, short_steps = [], []
        start = 0
        for pool in self._pools:
            stop = start + sum(sum(sizes) for sizes in pool)
            utterances = order[start:stop]
            start = stop
            # A stable sort, so that ties keep their shuffled order.
            by_length = np.argsort(self.durations[utterances], kind="stable")
            remaining = iter(utterances[by_length].tolist())
            for sizes in permuted(pool):
                step = [[next(remaining) for _ in range(size)] for size in sizes]
                # Else the same process would have the longest batch in every step.
                step = permuted(step)
                is_full = min(sizes) == self.batch_size
                (full_steps if is_full else short_steps).append(step)
        steps = permuted(full_steps) + short_steps
        return [batch for step in steps for batch in step]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch that was set last, for all processes."""
        if self.shuffle and self._epoch_used:
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

    def _settings(self) -> dict[str, int | bool]:
        """Everything that the batches of an epoch depend on, except the epoch."""
        return {
            "utterances": len(self.durations),
            "durations_crc32": zlib.crc32(self.durations.tobytes()),
            "batch_size": self.batch_size,
            "pool_batches": self.pool_batches,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "num_replicas": self.num_replicas,
        }

    @mark_as_saver
    def _save(self, path: Path) -> None:
        state = {"epoch": self.epoch, "settings": self._settings()}
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def _load(self, path: Path, end_of_epoch: bool) -> None:
        # The next epoch starts from its first batch: other settings do no harm then.
        if end_of_epoch:
            return
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        current = self._settings()
        changed = [
            f"{key} was {value}, is {current.get(key)}"
            for key, value in state["settings"].items()
            if current.get(key) != value
        ]
        if changed:
            raise ValueError(
                f"{path} was saved in mid-epoch with other batches: {'; '.join(changed)}. "
                "Resume with the settings it was saved with, or delete that checkpoint "
                "to resume from the end of an earlier epoch."
            )
        self.set_epoch(state["epoch"])


class LengthSortedBatches(NamedTuple):
    """What `length_sorted_batches` returns.

    Attributes
    ----------
    batches : list of list of int
        Indices into the durations, the longest utterance first. A `DataLoader`
        takes it as `batch_sampler`.
    restore : LongTensor, [N]
        For results concatenated in the order of `batches`, `results[restore]` is in
        the caller's order.
    """

    batches: list[list[int]]
    restore: torch.Tensor


def length_sorted_batches(
    durations: Sequence[float] | np.ndarray | torch.Tensor,
    batch_size: int | None = 32,
    max_batch_seconds: float | None = None,
) -> LengthSortedBatches:
    """Cut a set for evaluation or inference into batches by falling length.

    The longest utterances come first, so that a lack of memory shows at once.
    Equal lengths stay in the caller's order.

    Parameters
    ----------
    durations : sequence of float, [N]
        Length of every utterance, in seconds. With `max_batch_seconds=None` any
        unit will do.
    batch_size : int, optional
        Largest number of utterances in a batch. None: limited by
        `max_batch_seconds` only.
    max_batch_seconds : float, optional
        Largest padded length of a batch, in seconds: its number of utterances times
        its longest. An utterance longer than this forms a batch of its own, as it
        must be scored all the same. None: limited by `batch_size` only.

    Returns
    -------
    batches : LengthSortedBatches
        The batches, and the permutation that restores the caller's order.

    Raises
    ------
    ValueError
        If both limits are None or one is not positive, or if durations are empty,
        not finite or not positive.

    Examples
    --------
    >>> durations = torch.tensor([1.0, 4.0, 2.0, 3.0])
    >>> batches, restore = length_sorted_batches(durations, batch_size=2)
    >>> batches
    [[1, 3], [2, 0]]
    >>> results = torch.cat([durations[batch] * 10 for batch in batches])
    >>> results[restore]
    tensor([10., 40., 20., 30.])
    >>> length_sorted_batches(durations, max_batch_seconds=6.0).batches
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
    return LengthSortedBatches(batches, torch.from_numpy(np.argsort(order)))


def speech_share(
    durations: Sequence[float] | np.ndarray | torch.Tensor, batches: Sequence[Sequence[int]]
) -> float:
    """Share of speech in padded batches; the rest is padding.

    Parameters
    ----------
    durations : sequence of float, [N]
        Length of every utterance, in any unit.
    batches : sequence of sequence of int
        Indices into `durations`; each batch is padded to its longest utterance.

    Returns
    -------
    share : float
        Valid length over padded length, in (0, 1].

    Raises
    ------
    ValueError
        If there is no batch, or durations are empty, not finite or not positive.

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


def _world_size() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def _step_sizes(count: int, batch_size: int, num_replicas: int, drop_last: bool) -> list[list[int]]:
    """Sizes of the batches, `num_replicas` of them for each step of the processes."""
    step_size = batch_size * num_replicas
    # SpeechBrain's DistributedSamplerWrapper yields indices in place of batches to a
    # process that has one batch only (operator.itemgetter with one argument).
    fewest_steps = 1 if num_replicas == 1 else 2
    if drop_last:
        num_steps = count // step_size
        if num_steps < fewest_steps:
            raise ValueError(
                f"drop_last=True with batch_size {batch_size} and {num_replicas} process(es) needs "
                f"at least {fewest_steps * step_size} utterances, found {count}. Use a smaller "
                "batch_size, or drop_last=False."
            )
        return [[batch_size] * num_replicas] * num_steps
    num_steps = max(-(-count // step_size), fewest_steps)
    rest = count - (num_steps - 1) * step_size
    # One step takes the rest unless that left a process with an empty batch, or with a
    # single utterance: it has nothing to be compared with, and BatchNorm refuses it.
    num_short = 1 if rest >= 2 * num_replicas or num_steps == 1 else 2
    num_full = num_steps - num_short
    smaller, larger_batches = divmod(count - num_full * step_size, num_short * num_replicas)
    if smaller == 0:
        raise ValueError(
            f"{count} utterances in batches of {batch_size} cannot be shared among {num_replicas} "
            "processes without an empty or a repeated batch. Use fewer processes, or "
            "drop_last=True."
        )
    sizes = [smaller + 1] * larger_batches
    sizes += [smaller] * (num_short * num_replicas - larger_batches)
    short = [sizes[i * num_replicas : (i + 1) * num_replicas] for i in range(num_short)]
    return [[batch_size] * num_replicas] * num_full + short
