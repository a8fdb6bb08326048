"""The brain's own steps in several processes: as one of the whole batch, and no process drifts."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import speechbrain as sb
import torch
import torch.distributed as dist
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.objectives import MultiTaskObjective
from gemoclap_sb.training.checkpoints import History
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain
from tests.run_folders import make_prompts, scratch_model

# Of eleven utterances, by the number of processes.
SHARES = {1: [11], 2: [5, 6]}
STEPS = (1, 2, 3, 4)
CASES = [
    (mode, micro_batch_size, unfinite)
    for mode in ("eval", "train")
    for micro_batch_size in (None, 2)
    for unfinite in (None, 1, 2)
]


def items(step: int, share: slice, encoders: dict) -> list[dict]:
    generator = torch.Generator().manual_seed(step)
    counts = torch.randint(3000, 12000, (11,), generator=generator).tolist()
    found = []
    for i, count in enumerate(counts):
        wav = torch.randn(count, generator=generator)
        emotion, gender = ("ang", "sad", "hap")[i % 3], "FM"[i % 2]
        item = {"id": str(i), "sig": wav, "emotion": emotion, "gender": gender}
        for name in ("emotion", "gender"):
            item[f"{name}_encoded"] = encoders[name].encode_label(item[name])
        found.append(item)
    return found[share]


class Failing(MultiTaskObjective):
    """NaN in one step, of every process: what is compared is gathered."""

    brain, step = None, None

    def forward(self, outputs, labels):
        loss = super().forward(outputs, labels)
        return loss * torch.nan if self.brain.step == self.step else loss


def trained(rank: int, world: int, mode: str, micro: int | None, unfinite: int | None) -> dict:
    """The model's state after two steps, of two batches each."""
    clap, prompts = scratch_model(heads=("emotion", "gender")), make_prompts()
    encoders = label_encoders(["emotion", "gender"], prompts.words, [])
    objective = Failing({"emotion": 0.7, "gender": 0.3})
    hparams = {
        "seed": 1, "epoch_counter": EpochCounter(1), "history": History(), "batch_size": 4,
        "pool_batches": 1, "valid_batch_size": 4, "num_workers": 0, "train_logger": None,
        "objective": objective, "prompts": prompts, "label_encoders": encoders,
        "micro_batch_size": micro,
    }  # fmt: skip
    options = {"device": "cpu", "noprogressbar": True, "grad_accumulation_factor": 2}
    brain = GEmoCLAPBrain({"clap": clap}, lambda of: torch.optim.SGD(of, lr=0.1), hparams, options)
    objective.brain, objective.step = brain, unfinite
    brain.distributed_launch = world > 1
    brain.max_grad_norm = 1e9
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.zero_grad()
    # What is drawn differs between the processes: here nothing is.
    brain.modules.train(mode == "train")
    brain.model.hears_once = True
    prompts.sentences = lambda head, texts, draw: [f"a {of}" for of in texts[head]]
    first = sum(SHARES[world][:rank])
    for brain.step in STEPS:
        share = slice(first, first + SHARES[world][rank])
        brain.fit_batch(PaddedBatch(items(brain.step, share, encoders)))
    return {name: of.clone() for name, of in clap.state_dict().items()}


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([trained(rank, 2, *case) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_step_together(tmp_path: Path):
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(
        one_process, (str(tmp_path),), nprocs=2, start_method="forkserver"
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    start = scratch_model(heads=("emotion", "gender")).state_dict()
    learnt = {name for name, _ in scratch_model(heads=("emotion", "gender")).named_parameters()}
    for case, one, other in zip(CASES, *ranks, strict=True):
        for name in learnt:
            # To the bit: nothing would bring the processes together again.
            assert torch.equal(one[name], other[name]), (case, name)
        assert max((one[name] - start[name]).abs().max() for name in learnt) > 1e-3
        if case[0] == "eval":
            expected = trained(0, 1, *case)
            for name in learnt:
                torch.testing.assert_close(
                    one[name], expected[name], rtol=1e-5, atol=1e-5, msg=f"{case} {name}"
                )


@pytest.mark.parametrize("micro", [None, 2])
def test_a_batch_that_is_left_out_is_in_no_running_statistics(micro, monkeypatch):
    monkeypatch.setattr(f"{__name__}.STEPS", (1, 2))
    two = trained(0, 1, "train", micro, None)
    monkeypatch.setattr(f"{__name__}.STEPS", (1, 2, 3))
    found = trained(0, 1, "train", micro, 3)
    # The third batch was heard, and left out; the second has stepped in both.
    assert two.keys() == found.keys()
    for name, of in two.items():
        assert torch.equal(found[name], of), name
    assert not torch.equal(trained(0, 1, "train", micro, None)["pooling.norm.running_mean"],
                           two["pooling.norm.running_mean"])  # fmt: skip
