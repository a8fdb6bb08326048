"""FrameBrain: every frame counts alike, in any number of processes; what is right is counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
import torch.distributed as dist
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from gemoclap_sb.lobes import ResNetEncoder
from gemoclap_sb.models import FrameClassifier
from gemoclap_sb.objectives import FrameCrossEntropyObjective, FrameOutput
from gemoclap_sb.training.checkpoints import History
from gemoclap_sb.training.frame_brain import FrameBrain, check_lengths, frames_right
from gemoclap_sb.training.settings import ExperimentError
from tests.process_groups import CONTEXT, free_port

SCALES = [5, 3]
# Of nine utterances, by the number of processes.
SHARES = {1: [9], 2: [2, 7]}


def make_model() -> FrameClassifier:
    torch.manual_seed(0)
    encoder = ResNetEncoder(
        n_mels=16, channels=[4], strides=[2], output_size=8, time_masks=0, frequency_masks=0
    )
    model = FrameClassifier(encoder)
    model.add_scales(SCALES)
    return model


def make_brain(model: FrameClassifier, world: int = 1) -> FrameBrain:
    hparams = {
        "seed": 1, "epoch_counter": EpochCounter(1), "history": History(), "batch_size": 4,
        "pool_batches": 1, "valid_batch_size": 4, "num_workers": 0, "train_logger": None,
        "objective": FrameCrossEntropyObjective(),
    }  # fmt: skip
    options = {"device": "cpu", "noprogressbar": True}
    brain = FrameBrain({"clap": model}, lambda of: torch.optim.SGD(of, lr=0.1), hparams, options)
    brain.distributed_launch = world > 1
    brain.max_grad_norm = 1e9
    return brain


def items(model: FrameClassifier, share: slice) -> list[dict]:
    draw = torch.Generator().manual_seed(3)
    counts = torch.randint(3000, 20000, (9,), generator=draw)
    found = []
    for name, count in enumerate(counts.tolist()):
        frames = int(model.audio_encoder.frame_lengths(torch.tensor([count])))
        labels = [torch.randint(n, (frames,), generator=draw) for n in SCALES]
        sig = torch.randn(count, generator=draw)
        found.append({"id": str(name), "sig": sig, "frame_labels": torch.stack(labels, dim=1)})
    return found[share]


def stepped(rank: int, world: int) -> dict[str, torch.Tensor]:
    """The model's parameters after a step, BatchNorm with its running statistics."""
    model = make_model()
    brain = make_brain(model, world)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.zero_grad()
    brain.modules.eval()
    brain.step = 1
    first = sum(SHARES[world][:rank])
    brain.fit_batch(PaddedBatch(items(model, slice(first, first + SHARES[world][rank]))))
    return dict(brain.model.named_parameters())


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save({k: v.detach() for k, v in stepped(rank, 2).items()}, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_unequal_shares_of_two_processes_step_as_one(tmp_path):
    port = free_port()
    processes = [CONTEXT.Process(target=work, args=(r, port, str(tmp_path))) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    alone, before = stepped(0, 1), dict(make_model().named_parameters())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, parameter in alone.items():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-4, atol=1e-6)
    moved = [float((alone[name] - before[name]).detach().abs().max()) for name in alone]
    assert max(moved) > 1e-3


def test_frames_that_are_right_are_counted_without_padding():
    draw = np.random.default_rng(0)
    lengths, frames = [4, 1, 6], 7
    scores = [draw.normal(size=(3, frames, n)).astype(np.float32) for n in SCALES]
    labels = np.stack([draw.integers(n, size=(3, 6)) for n in SCALES], axis=2)
    expected = [
        sum(
            of[row, frame].argmax() == labels[row, frame, scale]
            for row, length in enumerate(lengths)
            for frame in range(length)
        )
        for scale, of in enumerate(scores)
    ]
    output = FrameOutput(tuple(map(torch.from_numpy, scores)), torch.tensor(lengths))
    assert frames_right(output, torch.from_numpy(labels)) == (*expected, sum(lengths))


def test_the_figure_is_the_share_of_frames_over_all_batches():
    brain = make_brain(make_model())
    brain.right = [(2, 4, 8), (1, 0, 2)]
    # Of ten frames, three are right at one scale and four at the other.
    assert brain.figures() == {"frame_accuracy": pytest.approx((0.3 + 0.4) / 2)}


@pytest.mark.parametrize("more", [-1, 1])
def test_labels_that_are_not_as_many_as_the_frames_are_refused(more):
    """Of an utterance that is not the longest, which padding would hide."""
    model = make_model()
    found = items(model, slice(0, 9))
    lengths = torch.tensor([len(item["frame_labels"]) for item in found])
    check_lengths(PaddedBatch(found), lengths)
    shorter = int(lengths.argmin())
    labels = found[shorter]["frame_labels"]
    found[shorter]["frame_labels"] = torch.cat([labels, labels])[: len(labels) + more]
    with pytest.raises(ExperimentError, match=f"'{shorter}': expected a label for each of its"):
        check_lengths(PaddedBatch(found), lengths)
