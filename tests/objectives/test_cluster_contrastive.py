"""The loss between clusters of a speaker: against NumPy written out, and by what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemoclap_sb.objectives import (
    ClassifierOutput,
    ClusterContrastiveObjective,
    EmbeddingOutput,
    cluster_contrastive_loss,
)

# Three speakers; the second has one cluster, the third an utterance alone in its cluster.
SPEAKERS = [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
CLUSTERS = [0, 0, 1, 1, 1, 2, 2, 3, 3, 4]


def batch(seed: int = 1, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(SPEAKERS), size, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


def written_out(vectors, clusters, speakers, temperature, form, own):
    """Each anchor, each positive, one by one."""
    anchors = []
    count = range(len(vectors))
    score = {(i, j): np.exp(vectors[i] @ vectors[j] / temperature) for i in count for j in count}
    for i in count:
        positives = [j for j in count if j != i and clusters[j] == clusters[i]]
        negatives = [j for j in count if clusters[j] != clusters[i]]
        if own:
            negatives = [j for j in negatives if speakers[j] == speakers[i]]
        if not positives or not negatives:
            continue
        losses = []
        for p in positives:
            others = positives if form == "supcon" else [p]
            whole = sum(score[i, j] for j in [*others, *negatives])
            losses.append(-np.log(score[i, p] / whole))
        anchors.append(np.mean(losses))
    return np.mean(anchors)


@pytest.mark.parametrize("form", ["supcon", "infonce"])
@pytest.mark.parametrize("negatives", ["speaker", "all"])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_loss_is_what_the_equations_say(form, negatives, temperature):
    vectors = batch()
    labels = {"cluster": torch.tensor(CLUSTERS), "spk_id": torch.tensor(SPEAKERS)}
    objective = ClusterContrastiveObjective(form, negatives, temperature)
    found = objective({"cluster": EmbeddingOutput(vectors)}, labels)
    own = negatives == "speaker"
    expected = written_out(vectors.numpy(), CLUSTERS, SPEAKERS, temperature, form, own)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_other_speakers_do_not_matter_unless_they_are_negatives():
    labels = torch.tensor(CLUSTERS), torch.tensor(SPEAKERS)
    vectors = batch()
    moved = vectors.clone()
    # The second speaker has no anchor of its own: one cluster alone.
    moved[5:7] = batch(seed=2)[5:7]
    own = [cluster_contrastive_loss(of, *labels).item() for of in (vectors, moved)]
    everyone = [
        cluster_contrastive_loss(of, labels[0], torch.zeros_like(labels[1])).item()
        for of in (vectors, moved)
    ]
    assert own[0] == own[1] and everyone[0] != everyone[1]


def test_the_order_of_a_batch_does_not_matter():
    order = torch.randperm(len(CLUSTERS), generator=torch.Generator().manual_seed(3))
    labels = torch.tensor(CLUSTERS), torch.tensor(SPEAKERS)
    one = cluster_contrastive_loss(batch(), *labels)
    other = cluster_contrastive_loss(batch()[order], *(of[order] for of in labels))
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_gradients_are_finite_and_draw_a_cluster_together():
    vectors = batch().requires_grad_()
    labels = torch.tensor(CLUSTERS), torch.tensor(SPEAKERS)
    before = cluster_contrastive_loss(vectors, *labels)
    before.backward()
    assert torch.isfinite(vectors.grad).all()
    stepped = torch.nn.functional.normalize(vectors.detach() - 0.01 * vectors.grad, dim=1)
    assert cluster_contrastive_loss(stepped, *labels) < before
    # What is no anchor of its own and nobody's negative has no gradient.
    assert torch.equal(vectors.grad[5:7], torch.zeros(2, 6, dtype=torch.float64))


def test_half_precision_is_computed_wide():
    labels = torch.tensor(CLUSTERS), torch.tensor(SPEAKERS)
    found = cluster_contrastive_loss(batch().bfloat16(), *labels)
    assert found.dtype == torch.float32
    exact = cluster_contrastive_loss(batch().bfloat16().double(), *labels)
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


def test_speakers_are_learnt_where_a_model_tells_them():
    labels = {"cluster": torch.tensor(CLUSTERS), "spk_id": torch.tensor(SPEAKERS)}
    outputs = {"cluster": EmbeddingOutput(batch())}
    objective = ClusterContrastiveObjective(speaker_weight=0.25)
    alone = objective(outputs, labels)
    logits = torch.randn(len(SPEAKERS), 3, generator=torch.Generator().manual_seed(5))
    both = objective({**outputs, "spk_id": ClassifierOutput(logits)}, labels)
    chances = torch.softmax(logits.double(), 1)[torch.arange(len(SPEAKERS)), SPEAKERS]
    assert (both - alone).item() == pytest.approx(-0.25 * chances.log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("clusters", [[0, 1, 2], [0, 0, 0]])
def test_a_batch_without_an_anchor_is_refused(clusters):
    with pytest.raises(ValueError, match="expected an utterance that shares its cluster"):
        cluster_contrastive_loss(batch()[:3], torch.tensor(clusters), torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"form": "triplet"}, "form: expected one of"),
        ({"negatives": "none"}, "negatives: expected one of"),
        ({"temperature": 0.0}, "temperature: expected more than 0"),
        ({"speaker_weight": -1.0}, "speaker_weight: expected 0 or more"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        ClusterContrastiveObjective(**options)
