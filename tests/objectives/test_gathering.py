"""Two real processes together give the loss and the gradients of one big batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.objectives.contrastive import SoftLabelObjective
from gemoclap_sb.objectives.cross_entropy import ClassifierOutput
from gemoclap_sb.objectives.divergences import ContrastiveOutput
from gemoclap_sb.objectives.gathering import gather_batch

# Shares of unequal size, as in the last batch of an epoch.
SHARES = [slice(0, 5), slice(5, 8)]


class TwoTowers(nn.Module):
    """The smallest model with something to learn on both sides and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.audio, self.text = nn.Linear(4, 3), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, audio: torch.Tensor, text: torch.Tensor) -> dict[str, ContrastiveOutput]:
        embeddings = (
            F.normalize(f(x), dim=-1) for f, x in ((self.audio, audio), (self.text, text))
        )
        return {"emotion": ContrastiveOutput(*embeddings, self.scale, 2 * self.scale)}


def data() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    audio, text = (torch.randn(8, 4, generator=generator) for _ in range(2))
    labels = {"emotion": torch.tensor([0, 1, 2, 0, 1, 2, 2, 1]), "gender": torch.arange(8) % 2}
    return audio, text, labels


def loss_of(model: nn.Module, share: slice) -> torch.Tensor:
    audio, text, labels = data()
    outputs = model(audio[share], text[share])
    mine = {name: index[share] for name, index in labels.items()}
    return SoftLabelObjective({"emotion": 0.8, "gender": 0.2})(*gather_batch(outputs, mine))


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = DistributedDataParallel(TwoTowers())
    loss = loss_of(model, SHARES[rank])
    loss.backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save({"loss": loss.detach(), **gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one_big_batch(tmp_path: Path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    model = TwoTowers()
    loss = loss_of(model, slice(0, 8))
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found.pop("loss"), loss.detach())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_one_process_changes_nothing():
    outputs = {"emotion": ContrastiveOutput(*torch.randn(2, 3, 4), torch.ones(()), torch.ones(()))}
    labels = {"emotion": torch.tensor([0, 1, 2])}
    gathered, gathered_labels = gather_batch(outputs, labels)
    assert gathered["emotion"].audio is outputs["emotion"].audio
    assert gathered_labels["emotion"] is labels["emotion"]


def classifier_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    outputs = {"emotion": ClassifierOutput(torch.zeros(3, 4))}
    gathered, labels = gather_batch(outputs, {"emotion": torch.tensor([0, 1, 2])})
    torch.save(
        torch.tensor([len(gathered["emotion"].logits), len(labels["emotion"])]),
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def test_outputs_that_are_no_pairs_stay_where_they_are(tmp_path: Path):
    torch.multiprocessing.spawn(classifier_process, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist() == [3, 3]
