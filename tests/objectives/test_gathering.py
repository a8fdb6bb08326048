"""Real processes together give the loss and the gradients of one big batch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.objectives.contrastive import (
    EmoCLAPObjective,
    MultiTaskObjective,
    SoftLabelObjective,
)
from gemoclap_sb.objectives.cross_entropy import (
    CrossEntropyObjective,
    MultiTaskCrossEntropyObjective,
)
from gemoclap_sb.objectives.divergences import ContrastiveOutput
from gemoclap_sb.objectives.gathering import gather_batch
from tests.process_groups import CONTEXT
from tests.run_folders import scratch_model

# Shares of unequal size, as in the last batch of an epoch, by the number of processes.
UNEQUAL = {2: [slice(0, 6), slice(6, 8)], 3: [slice(0, 1), slice(1, 5), slice(5, 8)]}


LABELS = {"emotion": torch.tensor([0, 1, 2, 0, 1, 2, 2, 1]), "gender": torch.arange(8) % 2}


def test_one_process_changes_nothing():
    outputs = {"emotion": ContrastiveOutput(*torch.randn(2, 3, 4), torch.ones(()), torch.ones(()))}
    labels = {"emotion": torch.tensor([0, 1, 2])}
    gathered, gathered_labels = gather_batch(outputs, labels)
    assert gathered["emotion"].audio is outputs["emotion"].audio
    assert gathered_labels["emotion"] is labels["emotion"]


def objectives() -> dict[str, nn.Module]:
    two = {"emotion": 0.8, "gender": 0.2}
    return {
        "Emo": EmoCLAPObjective(),
        "ML": MultiTaskObjective(two),
        "SL": SoftLabelObjective(two, reduction="sum"),
        "SL both": SoftLabelObjective(two, similarity="both"),
        "ML joint": MultiTaskObjective(two, cross_entropy_weight=0.5),
        "baseline": CrossEntropyObjective(),
        "baseline of two": MultiTaskCrossEntropyObjective(two),
    }


def real_model(objective: nn.Module) -> nn.Module:
    """A small model of the real classes, its batch normalisation as in evaluation."""
    model = scratch_model(heads=objective.heads)
    if isinstance(objective, CrossEntropyObjective | MultiTaskCrossEntropyObjective):
        torch.manual_seed(0)
        model = AudioClassifier(model.audio_encoder, model.pooling, num_classes=3).eval()
        model.add_classifiers(dict.fromkeys(objective.heads[1:], 2))
        return model
    if objective.cross_entropy_weight:
        torch.manual_seed(0)
        model.add_classifiers({"emotion": 3, "gender": 2})
    return model


def step(objective: nn.Module, model: nn.Module, share: slice) -> torch.Tensor:
    """Loss of a share of eight utterances, after its backward pass."""
    wavs = torch.randn(8, 4000, generator=torch.Generator().manual_seed(2))
    lengths = torch.linspace(0.5, 1.0, 8)
    sentences = {
        head: [f"{head} {index}" for index in LABELS[head][share].tolist()]
        for head in objective.heads
    }
    mine = {name: index[share] for name, index in LABELS.items()}
    outputs = model(wavs[share], lengths[share], sentences)
    loss = objective(*gather_batch(outputs, mine))
    loss.backward()
    return loss.detach()


def share_process(rank: int, folder: str, count: int) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet{count}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
    found = {}
    for name, objective in objectives().items():
        model = real_model(objective)
        loss = step(objective, DistributedDataParallel(model), UNEQUAL[count][rank])
        found[name] = loss, {key: p.grad for key, p in model.named_parameters()}
    torch.save(found, f"{folder}/{count}.{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_gradient_of_a_real_model_is_that_of_one_big_batch(tmp_path: Path):
    groups = [
        CONTEXT.Process(target=share_process, args=(rank, str(tmp_path), count))
        for count in UNEQUAL
        for rank in range(count)
    ]
    for process in groups:
        process.start()
    for process in groups:
        process.join(120)
        assert process.exitcode == 0
    for name, objective in objectives().items():
        model = real_model(objective)
        loss = step(objective, model, slice(0, 8))
        expected = dict(model.named_parameters())
        assert all(p.grad is not None and p.grad.any() for p in expected.values())
        for path in sorted(tmp_path.glob("*.pt")):
            found_loss, found = torch.load(path, weights_only=True)[name]
            torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=1e-5)
            assert found.keys() == expected.keys()
            for key, gradient in found.items():
                torch.testing.assert_close(
                    gradient, expected[key].grad, rtol=1e-5, atol=1e-5, msg=f"{path} {name} {key}"
                )


class Own(NamedTuple):
    frames: torch.Tensor
    scale: torch.Tensor
    none: None = None


def own_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/own", rank=rank, world_size=2)
    scale = torch.tensor(float(rank))
    outputs = {"own": Own(torch.full((1 + rank, 2, 3), float(rank)), scale)}
    gathered, _ = gather_batch(outputs, {"emotion": torch.zeros(1 + rank, dtype=torch.long)})
    assert gathered["own"].frames[:, 0, 0].tolist() == [0.0, 1.0, 1.0]
    assert gathered["own"].scale is scale and gathered["own"].none is None
    dist.destroy_process_group()


@pytest.mark.slow
def test_rows_of_any_named_tuple_are_gathered_and_scalars_stay(tmp_path: Path):
    group = [CONTEXT.Process(target=own_process, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in group:
        process.start()
    for process in group:
        process.join(60)
        assert process.exitcode == 0
