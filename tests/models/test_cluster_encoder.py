"""The model that learns from clusters: what it gives, and what its speakers' layer teaches."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.lobes import MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models import ClusterEncoder
from gemoclap_sb.objectives import ClusterContrastiveObjective


def model(speaker_task: str | None = None) -> ClusterEncoder:
    torch.manual_seed(1)
    lobe = ResNetEncoder(n_mels=16, channels=[4], strides=[2], output_size=8, time_masks=0)
    made = ClusterEncoder(lobe, embedding_size=6, speaker_task=speaker_task)
    made.add_speakers(3)
    return made


def test_embeddings_do_not_depend_on_the_batch():
    made = model("plain").eval()
    wavs = torch.randn(3, 8000)
    together = made(wavs, torch.tensor([1.0, 0.5, 0.75]))["cluster"].embeddings
    alone = made(wavs[1:2, :4000], torch.ones(1))["cluster"].embeddings
    assert torch.allclose(together.norm(dim=1), torch.ones(3))
    assert torch.allclose(together[1], alone[0], atol=1e-5)


def test_an_adversarial_task_teaches_the_layer_the_same_and_the_encoder_the_contrary():
    wavs, lens = torch.randn(4, 6000), torch.ones(4)
    labels = torch.tensor([0, 1, 2, 0])
    found = {}
    for task in ("plain", "adversarial"):
        made = model(task).eval()
        logits = made(wavs, lens)["spk_id"].logits
        torch.nn.functional.cross_entropy(logits, labels).backward()
        first = next(p for p in made.audio_encoder.parameters() if p.grad is not None)
        found[task] = made.speakers.weight.grad, first.grad
    assert torch.equal(found["plain"][0], found["adversarial"][0])
    assert torch.equal(found["plain"][1], -found["adversarial"][1])
    assert found["plain"][1].abs().sum() > 0


def test_without_a_task_there_is_no_layer_and_every_parameter_learns():
    made = model()
    wavs, lens = torch.randn(4, 6000), torch.ones(4)
    outputs = made(wavs, lens)
    assert set(outputs) == {"cluster"} and made.speakers is None
    labels = {"cluster": torch.tensor([0, 0, 1, 1]), "spk_id": torch.zeros(4, dtype=torch.long)}
    ClusterContrastiveObjective()(outputs, labels).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_what_it_is_made_of_is_checked():
    lobe = ResNetEncoder(channels=[4], strides=[2])
    with pytest.raises(ValueError, match="speaker_task: expected one of"):
        ClusterEncoder(lobe, speaker_task="both")
    pooling = MaskedMeanPooling(lobe.output_size)
    assert ClusterEncoder(lobe, pooling).pooled_size == lobe.output_size
