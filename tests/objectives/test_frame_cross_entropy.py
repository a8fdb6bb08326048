"""Cross-entropy of frames against NumPy, an utterance and a frame at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from gemoclap_sb.objectives import FrameCrossEntropyObjective, FrameOutput

LENGTHS = torch.tensor([7, 3, 5])
SIZES = (4, 9)
LOSS = FrameCrossEntropyObjective()


def make(frames=8, label_frames=8, seed=0, dtype=torch.float64):
    """Logits of two scales with labels; both are random in the padding too."""
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(torch.randn(3, 8, size, generator=generator, dtype=dtype) for size in SIZES)
    labels = [torch.randint(size, (3, 8), generator=generator) for size in SIZES]
    logits = tuple(of[:, :frames] for of in logits)
    return FrameOutput(logits, LENGTHS), torch.stack(labels, dim=-1)[:, :label_frames]


def np_loss(output, labels):
    of_scales = []
    for scale, logits in enumerate(output.logits):
        losses = [
            -log_softmax(logits[i, frame].numpy())[labels[i, frame, scale]]
            for i, length in enumerate(output.lengths.tolist())
            for frame in range(length)
        ]
        of_scales.append(np.mean(losses))
    return np.mean(of_scales)


@pytest.mark.parametrize(("frames", "label_frames"), [(8, 8), (7, 8), (8, 7), (7, 7)])
def test_mean_over_scales_of_the_mean_over_valid_frames(frames, label_frames):
    output, labels = make(frames, label_frames)
    assert LOSS(output, labels).item() == pytest.approx(np_loss(output, labels))


def test_gradient():
    output, labels = make()
    inputs = [of.requires_grad_() for of in output.logits]
    assert torch.autograd.gradcheck(lambda *of: LOSS(FrameOutput(of, LENGTHS), labels), inputs)


def test_padding_does_not_matter():
    output, labels = make()
    expected = LOSS(output, labels)
    for i, length in enumerate(LENGTHS.tolist()):
        labels[i, length:] = -100
        for logits in output.logits:
            logits[i, length:] = float("nan")
    assert torch.equal(LOSS(output, labels), expected)
    logits = [of.clone().requires_grad_() for of in output.logits]
    LOSS(FrameOutput(tuple(logits), LENGTHS), labels).backward()
    assert all(of.grad.isfinite().all() for of in logits)
    assert not logits[0].grad[1, 3:].any()


def test_half_precision_is_widened():
    output, labels = make(dtype=torch.bfloat16)
    wide = FrameOutput(tuple(of.float() for of in output.logits), LENGTHS)
    assert torch.equal(LOSS(output, labels), LOSS(wide, labels))


@pytest.mark.parametrize("label", [-100, -1, 4])
def test_a_label_that_is_no_class_is_an_error(label):
    output, labels = make()
    labels[1, 2, 0] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        LOSS(output, labels)


@pytest.mark.parametrize(
    ("frames", "label_frames", "change"),
    [
        (6, 8, lambda labels: labels),
        (8, 6, lambda labels: labels),
        (8, 8, lambda labels: labels[..., :1]),
        (8, 8, lambda labels: labels[..., 0]),
        (8, 8, lambda labels: labels[:2]),
    ],
    ids=["few frames", "few labels", "one scale", "no scales", "two utterances"],
)
def test_shapes_that_do_not_fit_are_named(frames, label_frames, change):
    output, labels = make(frames, label_frames)
    with pytest.raises(ValueError, match=r"of 3 utterances, with 7 frames or more; found logits"):
        LOSS(output, change(labels))
