"""The learning rate against torch's own schedules."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.training.schedules import WarmupCosine

STEPS, WARMUP = 50, 10


def test_follows_torch_linear_then_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    torch_schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / WARMUP),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP, eta_min=1e-5),
        ],
        milestones=[WARMUP],
    )
    schedule = WarmupCosine(peak=2e-3, warmup=WARMUP / STEPS, final=1e-5)
    for step in range(1, STEPS):
        optimizer.step()
        torch_schedule.step()
        expected = optimizer.param_groups[0]["lr"]
        assert schedule(step / STEPS) == pytest.approx(expected, rel=1e-6), step


def test_without_warmup_starts_at_the_peak():
    assert WarmupCosine(1.0, warmup=0.0)(0.0) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak": 1.0, "warmup": 1.0}, r"warmup: expected a share in \[0, 1\)"),
        ({"peak": 1.0, "final": 2.0}, "final: expected 0 <= final <= peak = 1"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**arguments)
