"""The formulas against NumPy written out here, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.objectives import (
    ContrastiveOutput,
    EmoCLAPObjective,
    MultiTaskObjective,
    SoftLabelObjective,
    audio_contrastive_loss,
    kl_contrastive_loss,
    label_matrix,
    similarity_logits,
    soft_label_matrix,
    target_distribution,
)

N, D, C = 7, 5, 4
INTRA_WEIGHT = 0.3


def make_output(seed: int, dtype: torch.dtype = torch.float64) -> ContrastiveOutput:
    generator = torch.Generator().manual_seed(seed)
    audio, text = (torch.randn(N, D, generator=generator, dtype=dtype) for _ in range(2))
    normalize = torch.nn.functional.normalize
    scales = (torch.tensor(value, dtype=dtype) for value in (9.0, 4.0))
    logits = torch.randn(N, C, generator=generator, dtype=dtype)
    return ContrastiveOutput(normalize(audio, dim=-1), normalize(text, dim=-1), *scales, logits)


LABELS = {
    "emotion": torch.tensor([0, 1, 2, 0, 3, 1, 0]),
    "gender": torch.tensor([0, 1, 0, 1, 0, 1, 1]),
}


# The paper's formulas, in NumPy.


def np_matrix(labels: torch.Tensor) -> np.ndarray:
    values = labels.numpy()
    return np.array([[1.0 if a == b else 0.0 for b in values] for a in values])


def np_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def np_kl(logits: np.ndarray, q: np.ndarray, reduction: str) -> float:
    p = np_softmax(logits)
    total = 0.0
    for i in range(len(q)):
        for j in range(q.shape[1]):
            if q[i, j] > 0:
                total += q[i, j] * (np.log(q[i, j]) - np.log(p[i, j]))
    return total / len(q) if reduction == "batchmean" else total


def np_target(matrix: np.ndarray, target: str) -> np.ndarray:
    return np_softmax(matrix) if target == "softmax" else matrix / matrix.sum(axis=1, keepdims=True)


def np_loss(
    output: ContrastiveOutput, matrix: np.ndarray, similarity: str, reduction: str, target: str
) -> float:
    audio, text = output.audio.numpy(), output.text.numpy()
    scale_a, scale_t = float(output.audio_scale), float(output.text_scale)
    if similarity == "intra":
        c_a, c_t = scale_a * audio @ audio.T, scale_t * text @ text.T
    else:
        c_a, c_t = scale_a * audio @ text.T, scale_t * text @ audio.T
    q = np_target(matrix, target)
    loss = 0.5 * (np_kl(c_a, q, reduction) + np_kl(c_t, q, reduction))
    if similarity == "both":
        loss += INTRA_WEIGHT * np_audio_loss(output, matrix, reduction, target)
    return loss


def np_audio_loss(
    output: ContrastiveOutput, matrix: np.ndarray, reduction: str, target: str
) -> float:
    """Row by row: the others' similarities against the others' labels."""
    audio, total, rows = output.audio.numpy(), 0.0, 0
    for i in range(len(audio)):
        others = [j for j in range(len(audio)) if j != i]
        if target == "normalized" and matrix[i, others].sum() == 0:
            continue
        logits = float(output.audio_scale) * audio[others] @ audio[i]
        q = np_target(matrix[i : i + 1, others], target)
        total, rows = total + np_kl(logits[None], q, "sum"), rows + 1
    return total / rows if reduction == "batchmean" else total


OPTIONS = [
    (similarity, reduction, target)
    for similarity in ("cross", "intra", "both")
    for reduction in ("batchmean", "sum")
    for target in ("softmax", "normalized")
]


def test_label_matrix_by_hand():
    expected = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert label_matrix(torch.tensor([4, 2, 4])).tolist() == expected


def test_label_matrix_refuses_one_hot():
    with pytest.raises(ValueError, match=r"shape \[N\], found \[2, 2\]"):
        label_matrix(torch.eye(2))


def test_soft_label_matrix_by_hand():
    labels = {"emotion": torch.tensor([0, 0, 1]), "gender": torch.tensor([0, 1, 1])}
    matrix = soft_label_matrix(labels, {"emotion": 0.8, "gender": 0.2})
    expected = [[1.0, 0.8, 0.0], [0.8, 1.0, 0.2], [0.0, 0.2, 1.0]]
    torch.testing.assert_close(matrix, torch.tensor(expected))


@pytest.mark.parametrize(("similarity", "reduction", "target"), OPTIONS)
def test_emo_clap_is_the_paper_formula(similarity, reduction, target):
    output = make_output(1)
    objective = EmoCLAPObjective("emotion", similarity, reduction, target, INTRA_WEIGHT)
    loss = objective({"emotion": output}, LABELS)
    expected = np_loss(output, np_matrix(LABELS["emotion"]), similarity, reduction, target)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("similarity", "reduction", "target"), OPTIONS)
def test_sl_gemo_clap_is_the_paper_formula(similarity, reduction, target):
    output = make_output(2)
    weights = {"emotion": 0.8, "gender": 0.2}
    objective = SoftLabelObjective(
        weights,
        similarity=similarity,
        reduction=reduction,
        target=target,
        intra_weight=INTRA_WEIGHT,
    )
    matrix = 0.8 * np_matrix(LABELS["emotion"]) + 0.2 * np_matrix(LABELS["gender"])
    expected = np_loss(output, matrix, similarity, reduction, target)
    assert objective({"emotion": output}, LABELS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("similarity", "reduction", "target"), OPTIONS)
def test_ml_gemo_clap_is_the_paper_formula(similarity, reduction, target):
    outputs = {"emotion": make_output(3), "gender": make_output(4)}
    weights = {"emotion": 0.9, "gender": 0.1}
    objective = MultiTaskObjective(weights, similarity, reduction, target, INTRA_WEIGHT)
    expected = sum(
        weight
        * np_loss(outputs[attribute], np_matrix(LABELS[attribute]), similarity, reduction, target)
        for attribute, weight in weights.items()
    )
    assert objective(outputs, LABELS).item() == pytest.approx(expected, rel=1e-6)


def np_cross_entropy(output: ContrastiveOutput, labels: torch.Tensor) -> float:
    p = np_softmax(output.logits.numpy())
    return -sum(np.log(p[i, label]) for i, label in enumerate(labels.tolist())) / len(labels)


def test_joint_loss_adds_the_cross_entropy_of_the_attributes_scores():
    outputs = {"emotion": make_output(9), "gender": make_output(10)}
    weights = {"emotion": 0.8, "gender": 0.2}
    entropy = {name: np_cross_entropy(outputs[name], LABELS[name]) for name in weights}
    soft = [SoftLabelObjective(weights, cross_entropy_weight=w)(outputs, LABELS) for w in (0, 0.7)]
    assert (soft[1] - soft[0]).item() == pytest.approx(0.7 * entropy["emotion"])
    # Here the cross-entropy is part of each attribute's loss, and weighs as that does.
    multi = [MultiTaskObjective(weights, cross_entropy_weight=w)(outputs, LABELS) for w in (0, 0.7)]
    weighted = sum(weights[name] * entropy[name] for name in weights)
    assert (multi[1] - multi[0]).item() == pytest.approx(0.7 * weighted)


def test_joint_loss_without_class_scores_is_explained():
    outputs = {"emotion": make_output(1)._replace(logits=None)}
    with pytest.raises(ValueError, match="add_classifiers"):
        EmoCLAPObjective(cross_entropy_weight=0.5)(outputs, LABELS)


def test_audio_term_is_the_supervised_contrastive_loss_up_to_a_constant():
    # Khosla et al., equation 2, whose temperature is one over the scale. The divergence lacks
    # only the targets' own entropy, log of the number of positives.
    output, labels = make_output(11), LABELS["emotion"].numpy()
    audio, total, entropy, anchors = output.audio.numpy(), 0.0, 0.0, 0
    for i in range(N):
        positives = [p for p in range(N) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        all_but_i = sum(np.exp(9.0 * audio[i] @ audio[a]) for a in range(N) if a != i)
        terms = [np.log(np.exp(9.0 * audio[i] @ audio[p]) / all_but_i) for p in positives]
        total -= sum(terms) / len(positives)
        entropy += np.log(len(positives))
        anchors += 1
    assert anchors == 5
    matrix = label_matrix(LABELS["emotion"])
    loss = audio_contrastive_loss(output.audio, output.audio_scale, matrix, "sum", "normalized")
    assert loss.item() == pytest.approx(total - entropy)


def test_audio_term_without_any_positive_is_zero_and_has_a_gradient():
    audio = torch.eye(3).requires_grad_()
    loss = audio_contrastive_loss(audio, torch.tensor(1.0), torch.eye(3), target="normalized")
    loss.backward()
    assert loss.item() == 0.0 and not audio.grad.any()


def test_emo_clap_is_sl_with_all_weight_on_emotion():
    outputs = {"emotion": make_output(5)}
    one = EmoCLAPObjective()(outputs, LABELS)
    two = SoftLabelObjective({"gender": 0.0, "emotion": 1.0}, head="emotion")
    assert one.item() == two(outputs, LABELS).item()
    # What weighs nothing need not be known.
    assert two.attributes == ("emotion",)
    assert one.item() == two(outputs, {"emotion": LABELS["emotion"]}).item()


def test_more_than_two_attributes():
    labels = {**LABELS, "age": torch.tensor([0, 0, 1, 1, 2, 2, 0])}
    weights = {"emotion": 0.5, "gender": 0.3, "age": 0.2}
    output = make_output(6)
    matrix = sum(weight * np_matrix(labels[name]) for name, weight in weights.items())
    loss = SoftLabelObjective(weights)({"emotion": output}, labels)
    expected = np_loss(output, matrix, "cross", "batchmean", "softmax")
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_an_attribute_that_weighs_nothing_needs_neither_labels_nor_a_head(weight):
    both, one = {"emotion": 1.0, "gender": 0.0}, {"emotion": 1.0}
    audio = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    output = ContrastiveOutput(audio, audio.flip(0), torch.ones(()), torch.ones(()))
    outputs = {"emotion": output._replace(logits=torch.randn(4, 2))}
    labels = {"emotion": torch.tensor([0, 1, 1, 0])}
    losses = [
        MultiTaskObjective(weights, cross_entropy_weight=weight)(outputs, labels)
        for weights in (both, one)
    ]
    assert torch.equal(*losses)
    assert MultiTaskObjective(both).heads == MultiTaskObjective(both).attributes == ("emotion",)


@pytest.mark.parametrize("objective_class", [SoftLabelObjective, MultiTaskObjective])
@pytest.mark.parametrize(("similarity", "reduction", "target"), OPTIONS)
def test_gradients_by_finite_differences(objective_class, similarity, reduction, target):
    objective = objective_class(
        {"emotion": 0.8, "gender": 0.2},
        similarity=similarity,
        reduction=reduction,
        target=target,
        cross_entropy_weight=0.5,
    )
    base = make_output(7)

    def loss(*tensors):
        output = ContrastiveOutput(*tensors)
        return objective({"emotion": output, "gender": output}, LABELS)

    inputs = tuple(tensor.clone().requires_grad_() for tensor in base)
    assert torch.autograd.gradcheck(loss, inputs)


def test_loss_is_zero_where_logits_follow_the_target():
    matrix = label_matrix(LABELS["emotion"])
    assert kl_contrastive_loss(matrix, matrix + 3.0, matrix).item() == pytest.approx(0.0, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.sampled_from(["softmax", "normalized"]))
def test_loss_is_never_negative_and_order_does_not_matter(seed, count, target):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(count, count, generator=generator, dtype=torch.float64) for _ in "at"]
    matrix = label_matrix(torch.randint(3, (count,), generator=generator)).double()
    order = torch.randperm(count, generator=generator)
    loss = kl_contrastive_loss(*logits, matrix, target=target)
    moved = [x[order][:, order] for x in (*logits, matrix)]
    assert loss.item() >= -1e-12
    torch.testing.assert_close(kl_contrastive_loss(*moved, target=target), loss)


@pytest.mark.parametrize("target", ["softmax", "normalized"])
def test_target_rows_are_distributions(target):
    matrix = soft_label_matrix(LABELS, {"emotion": 0.9, "gender": 0.1})
    rows = target_distribution(matrix, target)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(N))
    assert (rows >= 0).all()


def test_half_precision_logits_are_compared_in_float32():
    output = make_output(8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        audio_logits, text_logits = similarity_logits(output)
    np.testing.assert_allclose(audio_logits, 9.0 * output.audio @ output.text.T, rtol=1e-6)
    matrix = label_matrix(LABELS["emotion"])
    exact = kl_contrastive_loss(audio_logits, text_logits, matrix)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = kl_contrastive_loss(audio_logits, text_logits, matrix)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {}}, "or more with a sum of 1, found 0"),
        ({"weights": {"emotion": 0.8, "gender": 0.1}}, "sum of 1, found 0.9"),
        ({"weights": {"emotion": 1.2, "gender": -0.2}}, r"weights\['emotion'\]: expected a number"),
        ({"weights": {"emotion": 1.0}, "similarity": "dot"}, "similarity: expected one of"),
        ({"weights": {"emotion": 1.0}, "reduction": "mean"}, "reduction: expected one of"),
        ({"weights": {"emotion": 1.0}, "target": "hard"}, "target: expected one of"),
        ({"weights": {"emotion": 1.0}, "intra_weight": -1.0}, "intra_weight: expected 0 or more"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftLabelObjective(**arguments)


def test_missing_head_and_missing_labels_are_named():
    objective = MultiTaskObjective({"emotion": 0.8, "gender": 0.2})
    with pytest.raises(KeyError, match="head 'gender'; found"):
        objective({"emotion": make_output(1)}, LABELS)
    with pytest.raises(KeyError, match="labels for attribute 'gender'"):
        objective(
            {"emotion": make_output(1), "gender": make_output(2)}, {"emotion": LABELS["emotion"]}
        )


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"share one shape \[N, N\]; found \[3, 3\], \[3, 3\], \[2, 2\]"
    ):
        kl_contrastive_loss(torch.eye(3), torch.eye(3), torch.eye(2))
