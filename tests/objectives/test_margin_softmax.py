"""Softmax with a margin against NumPy, finite differences and plain cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from gemoclap_sb.objectives import ClassifierOutput, MarginSoftmaxObjective

LABELS = torch.tensor([0, 3, 1, 2, 0, 1])


def cosines(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    given = (torch.randn(n, 5, generator=generator, dtype=dtype) for n in (len(LABELS), 4))
    vectors, classes = (F.normalize(of, dim=-1) for of in given)
    return vectors @ classes.T


def loss(logits, **options):
    outputs = {"emotion": ClassifierOutput(logits)}
    return MarginSoftmaxObjective(**options)(outputs, {"emotion": LABELS})


def np_loss(cosine, margin, scale, kind):
    moved = cosine.copy()
    for i, label in enumerate(LABELS.tolist()):
        own = cosine[i, label]
        if kind == "additive":
            moved[i, label] = own - margin
        elif np.arccos(own) + margin < np.pi:
            moved[i, label] = np.cos(np.arccos(own) + margin)
        else:  # ArcFace goes on where the angle would pass pi, or the loss would fall again.
            moved[i, label] = own - margin * np.sin(margin)
    return -log_softmax(scale * moved, axis=1)[np.arange(len(LABELS)), LABELS].mean()


@pytest.mark.parametrize("kind", ["additive", "angular"])
@pytest.mark.parametrize(("margin", "scale"), [(0.2, 30.0), (0.5, 4.0), (1.5, 10.0)])
def test_formula(kind, margin, scale):
    expected = np_loss(cosines().numpy(), margin, scale, kind)
    found = loss(scale * cosines(), margin=margin, scale=scale, kind=kind)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_gradient():
    logits = (30.0 * cosines()).requires_grad_()
    assert torch.autograd.gradcheck(lambda of: loss(of, margin=0.2, scale=30.0), [logits])


@pytest.mark.parametrize("kind", ["additive", "angular"])
def test_without_a_margin_it_is_cross_entropy_of_the_logits(kind):
    logits = 30.0 * cosines(dtype=torch.float32)
    expected = F.cross_entropy(logits, LABELS)
    assert loss(logits, margin=0.0, kind=kind).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(loss(logits, scale=None, kind=kind), expected)


@pytest.mark.parametrize("kind", ["additive", "angular"])
@given(seed=st.integers(0, 1000), first=st.floats(0, 1), second=st.floats(0, 1))
def test_it_rises_with_the_margin(kind, seed, first, second):
    low, high = sorted([first, second])
    logits = 30.0 * cosines(seed)
    losses = [loss(logits, margin=margin, kind=kind).item() for margin in (low, high)]
    assert losses[0] <= losses[1] + 1e-4


def test_half_precision_is_widened():
    logits = (30.0 * cosines()).bfloat16()
    for options in ({}, {"kind": "angular"}, {"scale": None}):
        assert torch.equal(loss(logits, **options), loss(logits.float(), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin: expected 0 or more, found -0.1"),
        ({"margin": float("nan")}, "margin"),
        ({"scale": 0.0}, "scale: expected more than 0, or null, found 0.0"),
        ({"kind": "cosface"}, "kind: expected one of .*additive.*, found 'cosface'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MarginSoftmaxObjective(**options)


def test_it_reads_its_attribute():
    objective = MarginSoftmaxObjective("gender")
    assert objective.heads == objective.attributes == ("gender",)
    with pytest.raises(KeyError, match="labels for attribute 'gender'"):
        objective({"gender": ClassifierOutput(cosines())}, {"emotion": LABELS})
