"""The projection against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemoclap_sb.lobes import Projection


def test_formula():
    projection = Projection(6, 4, hidden_size=5).double()
    first, second = projection.layers[0], projection.layers[-1]
    vectors = torch.randn(3, 6, dtype=torch.float64)
    w1, b1, w2, b2 = (p.detach().numpy() for p in (*first.parameters(), *second.parameters()))
    hidden = np.maximum(vectors.numpy() @ w1.T + b1, 0.0)
    np.testing.assert_allclose(projection(vectors).detach().numpy(), hidden @ w2.T + b2)


def test_hidden_layer_is_as_wide_as_the_output_by_default():
    assert Projection(6, 4).layers[0].out_features == 4


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    projection = Projection(6, 4, hidden_size=64, dropout=0.5)
    vectors = torch.randn(3, 6)
    assert not torch.equal(projection(vectors), projection(vectors))
    projection.eval()
    assert torch.equal(projection(vectors), projection(vectors))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"input_size": 0, "output_size": 4}, "input_size"),
        ({"input_size": 6, "output_size": -1}, "output_size"),
        ({"input_size": 6, "output_size": 4, "hidden_size": 0}, "hidden_size"),
        ({"input_size": 6, "output_size": 4, "dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_sizes_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        Projection(**settings)
