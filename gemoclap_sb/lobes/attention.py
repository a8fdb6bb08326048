"""WavLM's gated relative position attention, fused.

The logits of head h are q_i . k_j / sqrt(d) + g_i * r_h(j - i): r is a learnt bias per bucketed
distance, shared by all layers, and g a gate computed from frame i. transformers runs this
eagerly: each layer writes the [B*H, T, T] bias, logits and probabilities to memory and keeps
them for backward. Here the weights are the same and the T x T tensors are not kept.

Sources: Chen et al., "WavLM", arXiv 2110.13900, section III; transformers' `WavLMAttention`; Dao
et al., "FlashAttention", arXiv 2205.14135, for recomputing the probabilities in backward; Dong et
al., "Flex Attention", arXiv 2412.05496.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from gemoclap_sb.lobes.chunked_attention import chunked_gated_attention
from gemoclap_sb.lobes.ssl_options import FUSED


class PositionBias(NamedTuple):
    """The relative position bias of one forward pass, made by the first layer for all."""

    implementation: str  # What the first layer chose, and the others follow.
    values: Tensor  # sdpa: [H, T, T]. flex: [H, 2T - 1], for each distance from 1 - T to T - 1.
    block_mask: BlockMask | None = None  # The padding as flex wants it.


class FusedWavLMAttention(WavLMAttention):
    """A drop-in for transformers' `WavLMAttention`: same weights and keys, same numbers.

    It returns no attention weights, since a fused kernel has none to return.

    Parameters
    ----------
    stock : WavLMAttention
        The module whose parameters are taken over (shared, not copied).
    implementation : str
        `"sdpa"`: scaled_dot_product_attention; on the CPU utterance by utterance, without its
        padding, with the probabilities recomputed in backward. `"flex"`: `flex_attention`, which
        never materialises the T x T bias; no attention dropout, on the CPU no backward, on a GPU
        experimental: not measured yet. `"auto"`: `flex` where a CUDA device trains without
        attention dropout, else `sdpa`.

    Raises
    ------
    ValueError
        If the implementation is unknown, or `flex` is asked for what it does not do.

    Examples
    --------
    >>> stock = WavLMAttention(embed_dim=16, num_heads=2).eval()
    >>> fused = FusedWavLMAttention(stock, "sdpa").eval()
    >>> frames = torch.randn(3, 50, 16)
    >>> torch.allclose(fused(frames)[0], stock(frames)[0], atol=1e-5)
    True
    """

    def __init__(self, stock: WavLMAttention, implementation: str = "auto") -> None:
        # Not the stock constructor, which would draw random weights.
        nn.Module.__init__(self)
        if implementation not in FUSED:
            raise ValueError(f"attention: expected one of {FUSED}, found {implementation!r}")
        self.implementation = implementation
        for name in ("embed_dim", "num_heads", "head_dim", "num_buckets", "max_distance"):
            setattr(self, name, getattr(stock, name))
        self.dropout = stock.dropout
        for name, part in (*stock.named_parameters(recurse=False), *stock.named_children()):
            setattr(self, name, part)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: PositionBias | None = None,
        index: int = 0,
        **kwargs: object,
    ) -> tuple[Tensor, None, PositionBias]:
        """Attend over frames [B, T, D]; padding, at the end only, is False in the mask [B, T].

        Returns the frames (padded ones mean nothing), None, and the bias for the next layer.
        """
        batch, length, _ = hidden_states.shape
        heads = (batch, length, self.num_heads, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        gate = self._gate(hidden_states)
        dropout = self.dropout if self.training else 0.0
        if position_bias is None:
            position_bias = self._position_bias(query, attention_mask, dropout)
        values = position_bias.values
        if position_bias.implementation == "flex":
            output = _flex(query, key, value, gate, position_bias, dropout)
        elif query.device.type == "cpu" and not torch.compiler.is_compiling():
            lengths = [length] * batch if attention_mask is None else attention_mask.sum(1).tolist()
            output = chunked_gated_attention(query, key, value, gate, values, lengths, dropout)
        else:
            bias = gate.unsqueeze(-1) * values
            if attention_mask is not None:
                bias = bias.masked_fill(~attention_mask[:, None, None], float("-inf"))
            output = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
            )
        output = output.transpose(1, 2).reshape(batch, length, self.embed_dim)
        return self.out_proj(output), None, position_bias

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """Compute the gate of each frame and head, [B, H, T], between 1 and 2 + the constant."""
        frames = hidden_states.unflatten(-1, (self.num_heads, self.head_dim))
        # The gate multiplies biases of several units: half precision would show in the logits.
        with torch.autocast(hidden_states.device.type, enabled=False):
            projected = self.gru_rel_pos_linear(frames.to(self.gru_rel_pos_const.dtype))
            update, reset = torch.sigmoid(projected.unflatten(-1, (2, 4)).sum(-1)).unbind(-1)
            gate = update * (reset * self.gru_rel_pos_const.view(-1) - 1.0) + 2.0
        return gate.transpose(1, 2)

    def _position_bias(self, query: Tensor, mask: Tensor | None, dropout: float) -> PositionBias:
        """Look up the bias of every distance, once per forward pass."""
        length = query.shape[2]
        implementation = self.implementation
        if implementation == "auto":
            implementation = _fastest(query, dropout)
        if implementation == "sdpa" and torch.compiler.is_compiling():
            # The windows below would compile anew for every length.
            return PositionBias("sdpa", self.compute_bias(length, length))
        distances = torch.arange(1 - length, length, device=query.device)
        table = self.rel_attn_embed(self._relative_positions_bucket(distances)).t().contiguous()
        if implementation == "flex":
            return PositionBias("flex", table, _padding_blocks(mask))
        # Window T - 1 - i of the table is row i of the matrix r(j - i).
        return PositionBias("sdpa", table.unfold(1, length, 1).flip(1))


def fuse_wavlm_attention(model: nn.Module, implementation: str) -> None:
    """Make the attention of every layer of a `WavLMModel` a `FusedWavLMAttention`, in place."""
    for layer in model.encoder.layers:
        layer.attention = FusedWavLMAttention(layer.attention, implementation)


def _fastest(query: Tensor, dropout: float) -> str:
    """Choose between `sdpa` and `flex` for these inputs."""
    if query.device.type != "cuda" or dropout or not query.requires_grad:
        # Without a graph nothing of size T x T is kept, and flex would only cost a compilation.
        return "sdpa"
    recent = torch.cuda.get_device_capability(query.device) >= (8, 0)
    compiler = importlib.util.find_spec("triton") is not None
    # Triton's matrix products start at sixteen columns.
    return "flex" if recent and compiler and query.shape[-1] >= 16 else "sdpa"


def _padding_blocks(attention_mask: Tensor | None) -> BlockMask | None:
    """Turn the padding into a block mask, so that blocks of padding are skipped."""
    if attention_mask is None:
        return None
    lengths = attention_mask.sum(1)
    batch, length = attention_mask.shape

    def is_valid(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j < lengths[b]

    return create_block_mask(is_valid, batch, None, length, length, device=lengths.device)


# Uncompiled it is torch's reference. For this bias torch 2.11 generates C++ that does not build.
_reference_flex_attention = torch.compiler.disable(flex_attention)


@functools.cache
def _compiled_flex_attention() -> object:
    return torch.compile(flex_attention, dynamic=True)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, bias: PositionBias, dropout: float
) -> Tensor:
    """Run `flex_attention` with the gated bias computed inside the kernel."""
    if dropout:
        raise ValueError(
            f"attention='flex' has no attention dropout, found {dropout}; "
            "set attention_dropout=0.0 or attention='sdpa'"
        )
    on_cpu = query.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and (query.requires_grad or gate.requires_grad):
        raise ValueError(
            "attention='flex' has no backward pass on the CPU; "
            "use attention='sdpa', or run under torch.no_grad()"
        )
    table = bias.values
    last = query.shape[2] - 1

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + gate[b, h, i] * table[h, j - i + last]

    if on_cpu:
        attend = _reference_flex_attention
    else:
        attend = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    return attend(query, key, value, score_mod=add_bias, block_mask=bias.block_mask)
