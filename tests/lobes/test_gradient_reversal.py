"""What a reversed gradient does to those before and after it."""

from __future__ import annotations

import torch

from gemoclap_sb.lobes.gradient_reversal import reverse_gradient


def test_only_what_comes_before_is_turned_round():
    torch.manual_seed(1)
    before, after = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    values = torch.randn(5, 3)

    def gradients(turn):
        for module in (before, after):
            module.zero_grad()
        loss = after(turn(before(values))).square().mean()
        loss.backward()
        return loss.item(), before.weight.grad.clone(), after.weight.grad.clone()

    plain, reversed_ = gradients(lambda of: of), gradients(reverse_gradient)
    assert plain[0] == reversed_[0]
    assert torch.equal(plain[1], -reversed_[1])
    assert torch.equal(plain[2], reversed_[2])
