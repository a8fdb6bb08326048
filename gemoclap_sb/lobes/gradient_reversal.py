"""Gradient reversal: what follows learns to tell something, what comes before to hide it.

Source: Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", arXiv 1409.7495.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(values: Tensor) -> Tensor:
    """Give values on as they are; their gradient comes back with the other sign.

    >>> values = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(values).sum().backward()
    >>> values.grad
    tensor([-1., -1.])
    """
    return _Reversal.apply(values)
