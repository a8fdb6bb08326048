"""Linear layers without a graph on a CPU: the activation in the same pass, by oneDNN.

`torch.nn.functional.linear` followed by a GELU writes the widest tensor of a layer, reads it and
writes it again. Where nothing is trained, oneDNN multiplies, adds the bias and activates at once;
its product of float32 matrices also is the faster one at the sizes of these models. The operator
is the one that torch's own compiler puts in this place, and the weights stay where they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: nn.Module | None = None
) -> Tensor:
    """Compute activation(x W^T + b) of x [..., C] and W [D, C]: [..., D].

    >>> x, weight = torch.randn(3, 4), torch.randn(2, 4)
    >>> with torch.no_grad():
    ...     fused = linear(x, weight, activation=GELUActivation())
    >>> torch.allclose(fused, F.gelu(x @ weight.T), atol=1e-6)
    True
    """
    is_fused = _is_fused(x, weight)
    if is_fused and isinstance(activation, GELUActivation):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    if is_fused:
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    else:
        y = F.linear(x, weight, bias)
    return y if activation is None else activation(y)


class FusedLinear(nn.Linear):
    """A drop-in for `nn.Linear` and the activation behind it: same parameters, same numbers.

    The parameters are the stock layer's, shared and not copied.

    >>> stock = nn.Linear(4, 2)
    >>> torch.allclose(FusedLinear(stock)(torch.ones(3, 4)), stock(torch.ones(3, 4)))
    True
    """

    def __init__(self, stock: nn.Linear, activation: nn.Module | None = None) -> None:
        # Not the stock constructor, which would draw random weights.
        nn.Module.__init__(self)
        self.in_features, self.out_features = stock.in_features, stock.out_features
        self.weight, self.bias = stock.weight, stock.bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return linear(x, self.weight, self.bias, self.activation)


def fuse_linear_layers(model: nn.Module) -> None:
    """Make every plain `nn.Linear` of a transformers model a `FusedLinear`, in place.

    In a feed-forward block the activation goes into the layer before it. A layer with an adapter
    is none of them.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear:
                continue
            activation = None
            if name == "intermediate_dense":
                activation, module.intermediate_act_fn = module.intermediate_act_fn, nn.Identity()
            setattr(module, name, FusedLinear(child, activation))


def _is_fused(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operator serves: float32 on a CPU, no graph, no autocast, no compiler."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
