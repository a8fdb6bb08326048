"""Cross-entropies of one attribute and of several against NumPy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from gemoclap_sb.objectives import (
    ClassifierOutput,
    CrossEntropyObjective,
    MultiTaskCrossEntropyObjective,
    MultiTaskObjective,
)

LABELS = {"emotion": torch.tensor([0, 3, 1, 2, 0]), "gender": torch.tensor([1, 0, 0, 1, 1])}
SIZES = {"emotion": 4, "gender": 2}


def outputs_of(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: ClassifierOutput(torch.randn(5, size, generator=generator, dtype=dtype))
        for name, size in SIZES.items()
    }


def np_cross_entropy(logits, labels, smoothing):
    size = logits.shape[1]
    targets = np.eye(size)[labels] * (1 - smoothing) + smoothing / size
    return -(targets * log_softmax(logits, axis=1)).sum(axis=1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("alpha", [0.9, 0.25])
def test_weighted_sum_of_cross_entropies(alpha, smoothing):
    outputs = outputs_of()
    emotion, gender = (
        np_cross_entropy(outputs[name].logits.numpy(), LABELS[name].numpy(), smoothing)
        for name in SIZES
    )
    objective = MultiTaskCrossEntropyObjective({"emotion": alpha, "gender": 1 - alpha}, smoothing)
    found = objective(outputs, LABELS)
    assert found.item() == pytest.approx(alpha * emotion + (1 - alpha) * gender)


def test_one_attribute():
    logits = outputs_of()["emotion"].logits
    expected = np_cross_entropy(logits.numpy(), LABELS["emotion"].numpy(), 0.1)
    assert CrossEntropyObjective(label_smoothing=0.1)(outputs_of(), LABELS).item() == (
        pytest.approx(expected)
    )


def test_gradient():
    objective = MultiTaskCrossEntropyObjective({"emotion": 0.9, "gender": 0.1}, 0.1)

    def loss(emotion, gender):
        outputs = {"emotion": ClassifierOutput(emotion), "gender": ClassifierOutput(gender)}
        return objective(outputs, LABELS)

    inputs = [output.logits.requires_grad_() for output in outputs_of().values()]
    assert torch.autograd.gradcheck(loss, inputs)


def test_an_attribute_that_weighs_nothing_is_not_read():
    objective = MultiTaskCrossEntropyObjective({"gender": 0.0, "emotion": 1.0})
    assert objective.heads == objective.attributes == ("emotion",)
    given = {"emotion": outputs_of()["emotion"]}, {"emotion": LABELS["emotion"]}
    assert objective(*given) == CrossEntropyObjective()(*given)


def test_heads_are_in_the_order_of_the_weights():
    assert MultiTaskCrossEntropyObjective({"gender": 0.1, "emotion": 0.9}).heads == (
        "gender",
        "emotion",
    )


def test_half_precision_is_widened():
    outputs = outputs_of(dtype=torch.bfloat16)
    wide = {name: ClassifierOutput(of.logits.float()) for name, of in outputs.items()}
    objective = MultiTaskCrossEntropyObjective({"emotion": 0.9, "gender": 0.1})
    assert objective(outputs, LABELS) == objective(wide, LABELS)


@pytest.mark.parametrize(
    "weights", [{}, {"emotion": 0.9}, {"emotion": 1.5, "gender": -0.5}, {"emotion": float("nan")}]
)
def test_weights_are_checked_as_those_of_the_contrastive_objectives(weights):
    for cls in (MultiTaskCrossEntropyObjective, MultiTaskObjective):
        with pytest.raises(ValueError, match="weights"):
            cls(weights)


def test_missing_labels_are_named():
    objective = MultiTaskCrossEntropyObjective({"emotion": 0.9, "gender": 0.1})
    with pytest.raises(KeyError, match="labels for attribute 'gender'"):
        objective(outputs_of(), {"emotion": LABELS["emotion"]})
