"""WavLM's fused attention against transformers' eager one."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from gemoclap_sb.lobes.attention import FusedWavLMAttention, fuse_wavlm_attention
from gemoclap_sb.lobes.chunked_attention import chunked_gated_attention

pytestmark = pytest.mark.filterwarnings(
    "ignore:Support for mismatched key_padding_mask", "ignore:flex_attention called without"
)
LENGTHS = [120, 47, 90]


def make_stock(seed: int = 0, dropout: float = 0.0, **options: object) -> WavLMAttention:
    torch.manual_seed(seed)
    stock = WavLMAttention(32, 4, dropout=dropout, num_buckets=32, max_distance=80, **options)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return stock


def make_batch(lengths: list[int] = LENGTHS, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), max(lengths), size), valid


def run(attention: torch.nn.Module, frames: torch.Tensor, valid: torch.Tensor | None) -> dict:
    """Outputs at valid frames, and gradients (of order one) of a random projection of them."""
    attention.zero_grad()
    frames = frames.clone().requires_grad_()
    weights = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2))
    output = attention(frames, attention_mask=valid)[0]
    if valid is not None:
        output = output * valid.unsqueeze(-1)
    (output * weights / 100).sum().backward()
    gradients = {name: p.grad.clone() for name, p in attention.named_parameters()}
    return {"output": output.detach(), "frames": frames.grad, **gradients}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("path", ["chunked", "whole"])
def test_outputs_and_every_gradient_equal_eager(path, padded, monkeypatch):
    frames, valid = make_batch()
    valid = valid if padded else None
    stock = make_stock()
    expected = run(stock, frames, valid)
    if path == "whole":
        # What a GPU and a compiled graph run; it works on the CPU too.
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = run(FusedWavLMAttention(stock, "sdpa"), frames, valid)
    assert found.keys() == expected.keys()
    assert {"rel_attn_embed.weight", "gru_rel_pos_const", "gru_rel_pos_linear.weight"} <= set(found)
    for name, value in expected.items():
        # The softmax ignores a constant, so the keys' bias has no gradient.
        assert value.abs().max() > 0.01 or name == "k_proj.bias"
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("most", [1, 4 * 30**2, 1_800_000])
def test_neighbours_of_one_length_are_computed_as_each_alone(most, monkeypatch):
    # One head at a time, one utterance at a time, all of a length at once.
    monkeypatch.setattr("gemoclap_sb.lobes.chunked_attention._CHUNK_ELEMENTS", most)
    lengths = [30, 30, 30, 30, 47, 47, 30, 50]
    frames, valid = make_batch(lengths)
    fused, stock = FusedWavLMAttention(make_stock(), "sdpa"), make_stock()
    with torch.no_grad():
        found = fused(frames, attention_mask=valid)[0]
        for row, n in zip(range(len(lengths)), lengths, strict=True):
            expected = stock(frames[row : row + 1, :n])[0]
            torch.testing.assert_close(found[row : row + 1, :n], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("padded", [True, False])
def test_flex_outputs_equal_eager_on_the_cpu(padded):
    frames, valid = make_batch([200, 47, 128])
    valid = valid if padded else None
    stock = make_stock()
    with torch.no_grad():
        expected = stock(frames, attention_mask=valid)[0]
        found, _, bias = FusedWavLMAttention(stock, "flex")(frames, attention_mask=valid)
    keep = torch.ones(frames.shape[:2]) if valid is None else valid
    torch.testing.assert_close(
        found * keep.unsqueeze(-1), expected * keep.unsqueeze(-1), atol=1e-4, rtol=0
    )
    assert bias.values.shape == (4, 399)  # one value per distance: no 200 x 200 bias


@pytest.mark.slow
def test_flex_on_the_cpu_survives_compilation():
    frames, _ = make_batch()
    attention = FusedWavLMAttention(make_stock(), "flex").eval()
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(attention, backend="aot_eager")(frames)[0]
        torch.testing.assert_close(found, attention(frames)[0], atol=1e-6, rtol=0)


def test_flex_says_what_it_cannot_do():
    frames, valid = make_batch()
    with pytest.raises(ValueError, match="no backward pass on the CPU.*sdpa"):
        FusedWavLMAttention(make_stock(), "flex")(frames, attention_mask=valid)
    attention = FusedWavLMAttention(make_stock(dropout=0.1), "flex")
    with pytest.raises(ValueError, match="attention_dropout=0.0"), torch.no_grad():
        attention(frames, attention_mask=valid)
    with torch.no_grad():
        attention.eval()(frames, attention_mask=valid)


def test_auto_is_sdpa_on_the_cpu_and_another_name_is_refused():
    frames, _ = make_batch()
    assert FusedWavLMAttention(make_stock(), "auto")(frames)[2].implementation == "sdpa"
    with pytest.raises(ValueError, match="found 'flash'"):
        FusedWavLMAttention(make_stock(), "flash")


@pytest.mark.parametrize("length", [1, 2, 30, 300])
def test_bias_equals_the_stock_matrix(length):
    stock = make_stock()
    bias = FusedWavLMAttention(stock, "sdpa")(torch.randn(1, length, 32))[2]
    torch.testing.assert_close(bias.values, stock.compute_bias(length, length), atol=0, rtol=0)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_whole_model_equals_eager_and_keeps_its_keys(small_ssl, norm):
    folder = small_ssl("wavlm", norm, layers=3, hidden_dropout=0.0, attention_dropout=0.0)
    stock, fused = (AutoModel.from_pretrained(folder).eval() for _ in range(2))
    fuse_wavlm_attention(fused, "sdpa")
    assert list(fused.state_dict()) == list(stock.state_dict())
    fused.load_state_dict(stock.state_dict())
    torch.manual_seed(0)
    wavs, mask = torch.randn(2, 20000), torch.ones(2, 20000, dtype=torch.long)
    mask[1, 9000:] = 0
    outputs = [model(wavs, attention_mask=mask).last_hidden_state for model in (stock, fused)]
    valid = torch.arange(62) < torch.tensor([62, 27]).unsqueeze(1)
    outputs = [output * valid.unsqueeze(-1) for output in outputs]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=0)
    for output in outputs:
        (output * torch.linspace(-1, 1, 32)).sum().backward()
    expected = dict(stock.named_parameters())
    for name, parameter in fused.named_parameters():
        if name != "masked_spec_embed":
            scale = expected[name].grad.abs().max().clamp(min=1.0)
            difference = (parameter.grad - expected[name].grad).abs().max()
            assert difference <= 1e-4 * scale, name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_chunked_gradients_pass_gradcheck(dropout, monkeypatch):
    # Two heads per chunk, so that the last chunk of three heads is a short one.
    monkeypatch.setattr("gemoclap_sb.lobes.chunked_attention._CHUNK_ELEMENTS", 2 * 16)
    torch.manual_seed(0)
    qkv = [torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    gate = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)

    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return chunked_gated_attention(*inputs, lengths=[4, 3], dropout=dropout)

    assert torch.autograd.gradcheck(attend, (*qkv, gate, bias))


def test_chunked_dropout_drops_probabilities_and_follows_the_seed():
    length, dropout = 400, 0.25
    value = torch.eye(length).view(1, 1, length, length)
    # Uniform attention over one-hot values shows the probabilities themselves.
    query = torch.zeros(1, 1, length, length)
    arguments = (query, query, value, torch.ones(1, 1, length), torch.zeros(1, length, length))
    torch.manual_seed(0)
    first = chunked_gated_attention(*arguments, [length], dropout)
    again = chunked_gated_attention(*arguments, [length], dropout)
    torch.manual_seed(0)
    same = chunked_gated_attention(*arguments, [length], dropout)
    assert torch.equal(first, same) and not torch.equal(first, again)
    kept = 1 / length / (1 - dropout)
    is_kept = torch.isclose(first, torch.tensor(kept))
    assert bool((is_kept | (first == 0)).all())
    assert abs(is_kept.float().mean().item() - (1 - dropout)) < 0.01


def test_bfloat16_is_close_to_float32():
    frames, valid = make_batch()
    attention = FusedWavLMAttention(make_stock(), "sdpa")
    expected = run(attention, frames, valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(attention, frames, valid)
    for name, value in expected.items():
        if name != "k_proj.bias":  # its gradient is zero
            error = (found[name] - value).norm() / value.norm()
            assert error < 0.05, (name, error)


def test_nothing_of_size_t_by_t_is_kept_per_utterance():
    frames, _ = make_batch([256, 256, 256, 256])
    stock = make_stock()

    def kept(attention: torch.nn.Module) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            output = attention(frames)[0]
            del output
        return sum(sizes.values())

    square = 4 * 256 * 256 * 4  # one [H, T, T] in float32
    assert kept(stock) > 2 * 4 * square
    assert kept(FusedWavLMAttention(stock, "sdpa")) < 2 * square
