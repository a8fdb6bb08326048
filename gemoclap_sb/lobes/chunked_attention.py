"""Attention with a gated bias on the CPU, in pieces that stay in the cache.

scaled_dot_product_attention has no fused CPU kernel for a bias that needs a gradient, nor for
dropout. Here each utterance is cut to its own length, its heads are taken a few at a time, and
only the inputs and the output are kept: backward computes the probabilities again. Nothing of
size [B, H, T, T] exists, and padding costs nothing.

Source: Dao et al., "FlashAttention", arXiv 2205.14135, sections 3.1 and B.4 (backward).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Three heads of 15 s: 2-core measurements are flat from one head to three, slower with twelve.
_CHUNK_ELEMENTS = 1_800_000


def chunked_gated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    bias: Tensor,
    lengths: Sequence[int],
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax(q k^T / sqrt(d) + gate * bias) v for each utterance's own frames.

    Of query, key and value [B, H, T, d], a gate [B, H, T] per query frame, a bias [H, T, T] and
    each utterance's valid frames; [B, H, T, d], zero past each length.

    Examples
    --------
    >>> query, key, value = torch.randn(3, 2, 4, 10, 8).unbind(0)
    >>> gate, bias = torch.ones(2, 4, 10), torch.zeros(4, 10, 10)
    >>> output = chunked_gated_attention(query, key, value, gate, bias, [10, 6])
    >>> expected = F.scaled_dot_product_attention(query[:1], key[:1], value[:1])
    >>> torch.allclose(output[:1], expected, atol=1e-6), bool((output[1, :, 6:] == 0).all())
    (True, True)
    """
    return _ChunkedGatedAttention.apply(tuple(lengths), dropout, query, key, value, gate, bias)


class _ChunkedGatedAttention(torch.autograd.Function):
    """Keep inputs and output, and compute the probabilities again in backward."""

    @staticmethod
    def forward(ctx: Any, lengths: tuple[int, ...], dropout: float, *inputs: Tensor) -> Tensor:
        query, key, value, gate, bias = inputs
        ctx.lengths, ctx.dropout = lengths, dropout
        # Drawn from the global generator, so that seeds and recomputation govern the dropout.
        ctx.seed = int(torch.randint(2**62, ())) if dropout else 0
        output = _zeros_like(query)
        with torch.autocast("cpu", enabled=False):
            chunks = (_chunks if dropout else _equal_chunks)(lengths, query.shape[1])
            for number, (b, h, n) in enumerate(chunks):
                q, k, v = query[b, h, :n], key[b, h, :n], value[b, h, :n]
                gated = gate[b, h, :n, None] * bias[h, :n, :n]
                if dropout:
                    weights = _probabilities(q, k, gated)
                    dropped, rescale = _draw(weights.shape, dropout, ctx.seed + number)
                    weights.masked_fill_(dropped, 0.0)
                    output[b, h, :n] = (weights.to(v.dtype) @ v).mul_(rescale)
                else:
                    output[b, h, :n] = F.scaled_dot_product_attention(q, k, v, attn_mask=gated)
        ctx.save_for_backward(*inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, gate, bias, output = ctx.saved_tensors
        query_grad, key_grad, value_grad = map(_zeros_like, (query, key, value))
        gate_grad, bias_grad = torch.zeros_like(gate), torch.zeros_like(bias)
        scale = query.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            # The softmax's backward needs sum_j P_ij dP_ij, which is dO_i . O_i.
            inner = (output_grad * output).sum(-1, keepdim=True, dtype=bias.dtype)
            for number, (b, h, n) in enumerate(_chunks(ctx.lengths, query.shape[1])):
                q, k, v = query[b, h, :n], key[b, h, :n], value[b, h, :n]
                grad = output_grad[b, h, :n]
                factor, distance_bias = gate[b, h, :n, None], bias[h, :n, :n]
                weights = _probabilities(q, k, factor * distance_bias)
                kept = weights
                if ctx.dropout:
                    dropped, rescale = _draw(weights.shape, ctx.dropout, ctx.seed + number)
                    kept, grad = weights.masked_fill(dropped, 0.0), grad * rescale
                value_grad[b, h, :n] = kept.to(v.dtype).transpose(1, 2) @ grad
                logits_grad = (grad @ v.transpose(1, 2)).to(weights.dtype)
                if ctx.dropout:
                    logits_grad.masked_fill_(dropped, 0.0)
                logits_grad.sub_(inner[b, h, :n]).mul_(weights)
                bias_grad[h, :n, :n].addcmul_(logits_grad, factor)
                gate_grad[b, h, :n] = torch.mul(logits_grad, distance_bias, out=weights).sum(-1)
                logits_grad = logits_grad.mul_(scale).to(q.dtype)
                query_grad[b, h, :n] = logits_grad @ k
                key_grad[b, h, :n] = logits_grad.transpose(1, 2) @ q
        return None, None, query_grad, key_grad, value_grad, gate_grad, bias_grad


def _chunks(lengths: Sequence[int], heads: int) -> Iterator[tuple[int, slice, int]]:
    """Yield utterance, heads and length of each piece of work."""
    for utterance, length in enumerate(lengths):
        step = max(1, min(heads, _CHUNK_ELEMENTS // length**2))
        for first in range(0, heads, step):
            yield utterance, slice(first, first + step), length


def _equal_chunks(lengths: Sequence[int], heads: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield as `_chunks` does, but neighbours of one length together: calls cost more than frames.

    Short utterances are many, and in a batch sorted by length often as long as the next.
    """
    first = 0
    while first < len(lengths):
        length, last = lengths[first], first + 1
        most = _CHUNK_ELEMENTS // (heads * length**2)
        while last < len(lengths) and lengths[last] == length and last - first < most:
            last += 1
        for _, these, _ in _chunks([length], heads):
            yield slice(first, last), these, length
        first = last


def _zeros_like(heads: Tensor) -> Tensor:
    """Make zeros [B, H, T, d] laid out as [B, T, H, d], which the output projection reads."""
    return heads.new_zeros(heads.transpose(1, 2).shape).transpose(1, 2)


def _probabilities(query: Tensor, key: Tensor, gated_bias: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d) + bias) of [h, n, d]; may overwrite the bias."""
    scale = query.shape[-1] ** -0.5
    if query.dtype == gated_bias.dtype:
        return gated_bias.baddbmm_(query, key.transpose(1, 2), alpha=scale).softmax(-1)
    # Under bf16 the products are bf16 and the softmax is not.
    return gated_bias.add_(query @ key.transpose(1, 2), alpha=scale).softmax(-1)


def _draw(shape: torch.Size, dropout: float, seed: int) -> tuple[Tensor, float]:
    """Draw what dropout drops, the same for the same seed, and the factor for what it keeps."""
    # Each 64-bit draw decides four elements, five times as fast as bernoulli_. The probability
    # is rounded to a multiple of 2^-16, and the factor goes with the rounded one.
    generator = torch.Generator().manual_seed(seed)
    size = shape.numel()
    draws = torch.empty((size + 3) // 4, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    below = round(dropout * 2**16)
    dropped = draws.view(torch.int16)[:size].view(shape) < below - 2**15
    return dropped, 2**16 / (2**16 - below)
