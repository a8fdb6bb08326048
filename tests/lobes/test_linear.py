"""Fused linear layers against torch's own, and where they may not be used."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel
from transformers.activations import ACT2FN

from gemoclap_sb.lobes.adapters import insert_lora
from gemoclap_sb.lobes.linear import FusedLinear, fuse_linear_layers, linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)
ACTIVATIONS = [None, "gelu", "gelu_new", "relu"]


def layouts() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    whole = torch.randn(6, 40)
    return {
        "rows": torch.randn(5, 20),
        "a batch": torch.randn(2, 3, 20),
        "transposed": torch.randn(2, 20, 3).transpose(1, 2),
        "columns": whole[:, 7:27],
        "every other row": whole[::2, 20:],
        "overlapping windows": torch.randn(100).unfold(0, 20, 7),
        "one vector": torch.randn(20),
        "nothing": torch.randn(0, 20),
    }


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("layout", layouts())
def test_any_layout_gives_what_torch_gives(layout, has_bias, name):
    x, weight = layouts()[layout], torch.randn(20, 30).T
    bias = torch.randn(30) if has_bias else None
    activation = ACT2FN[name] if name else None
    expected = F.linear(x.double(), weight.double(), bias.double() if has_bias else None)
    expected = activation(expected) if name else expected
    with torch.no_grad():
        found = linear(x, weight, bias, activation)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_finite_stays_so():
    x = torch.tensor([[float("nan")], [float("inf")], [1e38]]).repeat(1, 4)
    with torch.no_grad():
        assert not linear(x, torch.ones(2, 4), None, ACT2FN["gelu"]).isfinite().any()


@pytest.mark.filterwarnings("ignore:TF32")  # torch's, whenever its flags are set
@pytest.mark.parametrize("reason", ["graph", "float64", "autocast", "switched off"])
def test_elsewhere_torch_computes(reason, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("the fused operator was called")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    torch.manual_seed(0)
    dtype = torch.float64 if reason == "float64" else torch.float32
    x, weight = torch.randn(3, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    weight.requires_grad_(reason == "graph")
    with (
        torch.set_grad_enabled(reason == "graph"),
        torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"),
        torch.backends.mkldnn.flags(enabled=reason != "switched off"),
    ):
        found = linear(x, weight, None, ACT2FN["gelu"])
    assert found.dtype == (torch.bfloat16 if reason == "autocast" else dtype)
    assert found.requires_grad == (reason == "graph")
    expected = F.gelu(x @ weight.detach().T)
    torch.testing.assert_close(found.detach().to(dtype), expected, atol=0.05, rtol=0.02)
    with torch.no_grad(), pytest.raises(AssertionError, match="was called"):
        linear(x.float(), weight.float())


@pytest.mark.parametrize("family", ["wavlm", "hubert", "wav2vec2", "data2vec"])
def test_a_fused_model_computes_the_same_with_the_same_keys(small_ssl, family):
    stock = AutoModel.from_pretrained(small_ssl(family)).eval()
    fused = copy.deepcopy(stock)
    fuse_linear_layers(fused)
    assert list(fused.state_dict()) == list(stock.state_dict())
    kinds = {type(module) for module in fused.modules() if isinstance(module, nn.Linear)}
    assert kinds == {FusedLinear}
    wavs = torch.randn(2, 8000)
    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            found, expected = (model(wavs).last_hidden_state for model in (fused, stock))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    before = fused(wavs).last_hidden_state.detach()
    with torch.no_grad():
        fused.encoder.layers[0].feed_forward.intermediate_dense.weight.mul_(2.0)
        # Nothing is kept of the weights from before.
        assert (fused(wavs).last_hidden_state - before).abs().max() > 1e-3


def test_an_adapter_keeps_its_place_before_the_activation(small_ssl):
    stock = AutoModel.from_pretrained(small_ssl()).eval()
    insert_lora(stock, rank=2, target_layers=["encoder.layers.*.intermediate_dense"])
    for name, parameter in stock.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.3)
    fused = copy.deepcopy(stock)
    fuse_linear_layers(fused)
    wavs = torch.randn(1, 8000)
    with torch.no_grad():
        found, expected = (model(wavs).last_hidden_state for model in (fused, stock))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
