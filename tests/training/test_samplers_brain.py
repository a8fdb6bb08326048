"""The training sampler in SpeechBrain's loop: resumption, and two real processes."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from gemoclap_sb.data.samplers import LengthPooledBatchSampler

ROOT = Path(__file__).resolve().parents[2]


def saved_loader(folder, durations, num_workers=0, **options):
    sampler = LengthPooledBatchSampler(durations, 8, pool_batches=4, **options)
    loader = SaveableDataLoader(
        torch.arange(len(durations)), batch_sampler=sampler, num_workers=num_workers
    )
    recoverables = {"loader": loader, "sampler": sampler, "counter": EpochCounter(3)}
    return sampler, loader, recoverables["counter"], Checkpointer(folder, recoverables)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_in_mid_epoch_with_exactly_the_remaining_batches(tmp_path, num_workers):
    durations = np.random.default_rng(0).uniform(1, 9, size=101)
    expected = LengthPooledBatchSampler(durations, 8, pool_batches=4)

    sampler, loader, counter, checkpointer = saved_loader(tmp_path, durations, num_workers)
    for epoch in counter:
        sampler.set_epoch(epoch)
        seen = []
        for batch in loader:
            seen.append(batch.tolist())
            if epoch == 2 and len(seen) == 5:
                checkpointer.save_checkpoint(end_of_epoch=False)
                break
        if epoch == 2:
            break
    assert seen == expected.batches(2)[:5]

    sampler, loader, counter, checkpointer = saved_loader(tmp_path, durations, num_workers)
    checkpointer.recover_if_possible()
    resumed = {}
    for epoch in counter:
        sampler.set_epoch(epoch)
        resumed[epoch] = [batch.tolist() for batch in loader]
    assert resumed == {2: expected.batches(2)[5:], 3: expected.batches(3)}


def test_recovered_sampler_knows_its_epoch(tmp_path):
    durations = [float(i) for i in range(1, 50)]
    sampler, loader, _, checkpointer = saved_loader(tmp_path, durations)
    sampler.set_epoch(2)
    iterator = iter(loader)
    next(iterator)
    checkpointer.save_checkpoint(end_of_epoch=False)
    sampler, loader, _, checkpointer = saved_loader(tmp_path, durations)
    checkpointer.recover_if_possible()
    assert sampler.epoch == 2


def test_mid_epoch_checkpoint_with_other_batches_is_refused(tmp_path):
    durations = [float(i) for i in range(1, 50)]
    *_, checkpointer = saved_loader(tmp_path, durations)
    checkpointer.save_checkpoint(end_of_epoch=False)
    *_, other_seed = saved_loader(tmp_path, durations, seed=5)
    with pytest.raises(ValueError, match="seed was 1, is 5"):
        other_seed.recover_if_possible()
    *_, other_durations = saved_loader(tmp_path, durations[::-1])
    with pytest.raises(ValueError, match="durations_crc32"):
        other_durations.recover_if_possible()


def test_end_of_epoch_checkpoint_takes_other_settings(tmp_path):
    durations = [float(i) for i in range(1, 50)]
    *_, checkpointer = saved_loader(tmp_path, durations)
    checkpointer.save_checkpoint(end_of_epoch=True)
    *_, counter, other_seed = saved_loader(tmp_path, durations, seed=5)
    assert other_seed.recover_if_possible() is not None


class RecordingBrain(sb.Brain):
    """Stock loop that records the batches; `stop_at` interrupts it."""

    stop_at = math.inf

    def fit_batch(self, batch):
        self.seen.append((self.sampler_epoch(), batch.tolist()))
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        return torch.zeros(())

    def sampler_epoch(self):
        if isinstance(self.train_sampler, DistributedSamplerWrapper):
            return self.train_sampler.sampler.epoch
        return self.train_sampler.epoch

    def on_stage_end(self, stage, stage_loss, epoch=None):
        pass


def recording_brain(folder, durations, stop_at=math.inf):
    """A stock Brain, told about the sampler as one process needs."""
    sampler = LengthPooledBatchSampler(durations, 8, pool_batches=4)
    counter = EpochCounter(3)
    checkpointer = Checkpointer(folder, {"sampler": sampler, "counter": counter})
    brain = RecordingBrain(
        hparams={},
        run_opts={"device": "cpu", "noprogressbar": True, "ckpt_interval_steps": 3},
        checkpointer=checkpointer,
    )
    brain.seen, brain.stop_at, brain.train_sampler = [], stop_at, sampler
    return brain, counter


def test_stock_brain_resumes_between_checkpoints(tmp_path):
    durations = np.random.default_rng(0).uniform(1, 9, size=101)
    sampler = LengthPooledBatchSampler(durations, 8, pool_batches=4)
    expected = [(epoch, batch) for epoch in (1, 2, 3) for batch in sampler.batches(epoch)]

    brain, counter = recording_brain(tmp_path, durations, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        brain.fit(
            counter,
            torch.arange(101),
            train_loader_kwargs={"batch_sampler": brain.train_sampler},
        )
    assert brain.seen == expected[:5]

    # The checkpoint of step 3 is the last before the interruption in step 5.
    brain, counter = recording_brain(tmp_path, durations)
    brain.fit(
        counter,
        torch.arange(101),
        train_loader_kwargs={"batch_sampler": brain.train_sampler},
    )
    assert brain.seen == expected[3:]


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_rank_resumes_from_the_checkpoint_of_the_first(tmp_path, shuffle):
    durations = np.random.default_rng(0).uniform(1, 9, size=101)

    def rank_loader(rank):
        sampler = LengthPooledBatchSampler(durations, 8, pool_batches=4, num_replicas=2)
        wrapper = DistributedSamplerWrapper(sampler, num_replicas=2, rank=rank, shuffle=shuffle)
        wrapper.set_epoch(2)
        return wrapper, SaveableDataLoader(torch.arange(101), batch_sampler=wrapper)

    _, first = rank_loader(0)
    iterator = iter(first)
    for _ in range(3):
        next(iterator)
    Checkpointer(tmp_path, {"loader": first}).save_checkpoint(end_of_epoch=False)
    for rank in (0, 1):
        wrapper, loader = rank_loader(rank)
        Checkpointer(tmp_path, {"loader": loader}).recover_if_possible()
        assert [batch.tolist() for batch in loader] == list(wrapper)[3:]


WORKER = """
import json, sys, torch, speechbrain as sb
sys.path.insert(0, {tests!r})
from test_samplers_brain import RecordingBrain
from gemoclap_sb.data.samplers import LengthPooledBatchSampler
from speechbrain.utils.epoch_loop import EpochCounter
torch.set_num_threads(1)
run_opts = {{"device": "cpu", "distributed_backend": "gloo", "distributed_launch": True,
            "noprogressbar": True}}
sb.utils.distributed.ddp_init_group(run_opts)
sampler = LengthPooledBatchSampler([1.0 + i % 7 for i in range(75)], 8, pool_batches=2)
brain = RecordingBrain(hparams={{}}, run_opts=run_opts)
brain.seen = []
brain.fit(EpochCounter(2), torch.arange(75), train_loader_kwargs={{"batch_sampler": sampler}})
json.dump([sampler.num_replicas, brain.seen], open(sys.argv[1], "w"))
torch.distributed.destroy_process_group()
"""


def test_two_real_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        code = WORKER.format(tests=str(Path(__file__).parent))
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / f"rank{rank}.json")],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    expected = LengthPooledBatchSampler(
        [1.0 + i % 7 for i in range(75)], 8, pool_batches=2, num_replicas=2
    )
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [num_replicas for num_replicas, _ in results] == [2, 2]
    for epoch in (1, 2):
        parts = [[batch for e, batch in seen if e == epoch] for _, seen in results]
        assert len(parts[0]) == len(parts[1]) == 5
        assert sorted(parts[0] + parts[1]) == sorted(expected.batches(epoch))
        assert sorted(sum(parts[0] + parts[1], [])) == list(range(75))
