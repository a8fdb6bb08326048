"""The loop: resumption with the sampler, rates of their own, selection, two real processes."""

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
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.data_pipeline import DynamicItem
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger

from gemoclap_sb.data.samplers import LengthPooledBatchSampler
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History
from gemoclap_sb.training.schedules import WarmupCosine
from gemoclap_sb.training.settings import ExperimentError

ROOT = Path(__file__).resolve().parents[2]


def saved_loader(folder, durations, num_workers=0):
    sampler = LengthPooledBatchSampler(durations, 8, pool_batches=4)
    loader = SaveableDataLoader(
        torch.arange(len(durations)), batch_sampler=sampler, num_workers=num_workers
    )
    recoverables = {"loader": loader, "counter": EpochCounter(3)}
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
    checkpointer = Checkpointer(folder, {"counter": counter})
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


class LineBrain(ResumableBrain):
    """Pretraining in short: fits a line, has a loss and nothing else."""

    def compute_forward(self, batch, stage):
        return self.modules.line(batch.sig.data[:, :1].to(self.device))

    def compute_objectives(self, predictions, batch, stage):
        if stage == sb.Stage.TRAIN:
            self.drawn.append((self.epoch, self.step, torch.rand(()).item()))
            if len(self.drawn) == self.stop_at:
                raise KeyboardInterrupt
        if stage == sb.Stage.VALID:
            return predictions.sum() * 0 + self.losses[self.epoch]
        return predictions.square().mean()


def line_brain(folder, stop_at=math.inf, **hparams):
    torch.manual_seed(3)
    modules = {"line": torch.nn.Linear(1, 1), "other": torch.nn.Linear(1, 1)}
    counter, history = EpochCounter(4), History()
    hparams = {
        "seed": 5, "epoch_counter": counter, "history": history, "batch_size": 4,
        "pool_batches": 2, "valid_batch_size": 4, "num_workers": 0,
        "train_logger": FileTrainLogger(folder / "log.txt"), **hparams,
    }  # fmt: skip
    brain = LineBrain(
        modules,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        hparams,
        {"device": "cpu", "noprogressbar": True, "ckpt_interval_steps": 2},
        AtomicCheckpointer(
            folder / "save", {"line": modules["line"], "counter": counter, "history": history}
        ),
    )
    brain.drawn, brain.stop_at = [], stop_at
    brain.losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 4.0}
    return brain


ROWS = {str(i): {"duration": 1.0 + i % 5} for i in range(14)}


def fit(brain):
    data = DynamicItemDataset(
        ROWS, [DynamicItem(["duration"], lambda d: torch.full((3,), d), ["sig"])], ["id", "sig"]
    )
    brain.fit(
        brain.hparams.epoch_counter,
        data,
        data,
        train_loader_kwargs=brain.train_loader_options(ROWS),
        valid_loader_kwargs=brain.evaluation_loader_options(ROWS),
    )
    return data


def test_pretraining_is_selected_by_its_loss(tmp_path):
    brain = line_brain(tmp_path)
    data = fit(brain)
    records = brain.hparams.history.records
    assert [record["valid_loss"] for record in records] == [3.0, 1.0, 2.0, 4.0]
    assert set(records[0]) == {"epoch", "lr", "train_loss", "valid_loss"}
    assert brain.best(records)["epoch"] == 2
    kept = sorted(c.meta["epoch"] for c in brain.checkpointer.list_checkpoints())
    assert kept == [2, 3, 4]
    brain.evaluate_best(data, ROWS)
    # The history travels in the checkpoint: the test went back to that of epoch 2.
    assert len(brain.hparams.history.records) == 2


def test_interrupted_run_draws_and_learns_what_an_uninterrupted_one_does(tmp_path):
    whole = line_brain(tmp_path / "whole")
    fit(whole)
    halted = line_brain(tmp_path / "halted", stop_at=7)
    with pytest.raises(KeyboardInterrupt):
        fit(halted)
    resumed = line_brain(tmp_path / "halted")
    fit(resumed)
    # Four batches an epoch: the seventh step is the third of epoch 2, after a checkpoint.
    assert [(epoch, step) for epoch, step, _ in resumed.drawn][0] == (2, 3)
    assert resumed.drawn == whole.drawn[6:]
    assert len(set(whole.drawn)) == 16
    torch.testing.assert_close(resumed.modules.line.weight, whole.modules.line.weight)


@pytest.mark.parametrize(
    ("capability", "precision", "warned"),
    [("AVX2", "bf16", 1), ("AVX2", "fp32", 0), ("AVX512", "bf16", 0)],
)
def test_bf16_without_the_instructions_is_warned_of(
    tmp_path, caplog, monkeypatch, capability, precision, warned
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    brain = line_brain(tmp_path)
    brain.precision = precision
    brain.on_fit_start()
    found = [r.getMessage() for r in caplog.records if "--precision bf16" in r.getMessage()]
    assert len(found) == warned


class TwoRatesBrain(LineBrain):
    def own_rates(self):
        yield self.modules.line, 0.01


def test_modules_can_have_rates_of_their_own(tmp_path):
    schedule = WarmupCosine(peak=0.1, warmup=0.5)
    brain = line_brain(tmp_path, lr_schedule=schedule)
    brain.__class__ = TwoRatesBrain
    brain.init_optimizers()
    rest, own = brain.optimizer.param_groups
    assert [id(p) for p in own["params"]] == [id(p) for p in brain.modules.line.parameters()]
    assert [id(p) for p in rest["params"]] == [id(p) for p in brain.modules.other.parameters()]
    assert (rest["lr"], own["lr"]) == (0.1, 0.01)
    # The schedule moves both, each from its own peak.
    fit(brain)
    for group, peak in zip(brain.optimizer.param_groups, (0.1, 0.01), strict=True):
        assert group["lr"] == pytest.approx(schedule(1.0) * peak / 0.1)
    brain.epoch, brain.step = 2, 4
    brain.on_fit_batch_start(None, True)
    assert [g["lr"] for g in brain.optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_rate_of_zero_cannot_be_scaled(tmp_path):
    brain = line_brain(tmp_path, lr_schedule=WarmupCosine(peak=0.0))
    brain.opt_class = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    with pytest.raises(ExperimentError, match="lr: expected more than 0"):
        brain.init_optimizers()


def test_one_group_where_no_module_has_a_rate(tmp_path):
    brain = line_brain(tmp_path)
    brain.init_optimizers()
    assert len(brain.optimizer.param_groups) == 1


WORKER = """
import json, sys, torch, speechbrain as sb
sys.path.insert(0, {tests!r})
from test_brain import RecordingBrain
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


@pytest.mark.slow
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
