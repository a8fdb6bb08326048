"""The convolutional front end of self-supervised speech encoders on the CPU, without padding.

The utterances of a batch stand one behind the other in one sequence [N, C], each from a multiple
of the strides on, so that no padding is computed and a strided convolution is a few matrix
products over views of it. The GroupNorm of the base models costs no pass over the widest tensor:
the first convolution is linear in the waveform, so mean and variance of its output follow from
those of the waveform's windows, and the normalisation goes into its weights. Written here because
oneDNN's convolutions are slower than matrix products at these shapes, and because no library
normalises utterances of different lengths; a GPU has the padded form of `padding`.

Sources: Baevski et al., "wav2vec 2.0", arXiv 2006.11477, for the front end; Wu and He, "Group
Normalization", arXiv 1803.08494; the oracle is transformers, given an utterance alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes.lengths import receptive_field
from gemoclap_sb.lobes.linear import linear
from gemoclap_sb.lobes.padding import run_layer

# At the strides of the published models, 8 MiB of the widest tensor. From 64 to 128 the speed is
# the same.
_PIECE_FRAMES = 64


def can_pack(feature_extractor: nn.Module, wavs: Tensor) -> bool:
    """Whether `packed_features` serves this front end and these waveforms."""
    first = feature_extractor.conv_layers[0]
    is_free = not isinstance(_norm(first), nn.GroupNorm) or first.conv.bias is None
    return wavs.device.type == "cpu" and is_free and not torch.compiler.is_compiling()


def packed_features(
    feature_extractor: nn.Module, wavs: Tensor, samples: Sequence[int], recompute: bool = False
) -> Tensor:
    """Run a wav2vec 2.0-like front end on [B, T], of which `samples` are valid, to [B, F, C].

    Zero past an utterance's frames, of which each has one or more. `recompute` keeps each layer's
    input only and runs the layer again in backward. Without a graph the sequence is computed in
    pieces that stay in the cache, however long it is.
    """
    first, *others = feature_extractor.conv_layers
    kernels = [layer.conv.kernel_size[0] for layer in others]
    strides = [layer.conv.stride[0] for layer in others]
    stride, reach = prod(strides), receptive_field(kernels, strides)
    # A frame's taps lie one behind the other, each with its channels.
    weights = [layer.conv.weight.transpose(1, 2).flatten(1) for layer in others]
    inputs = [_windows(first, wav[:length]) for wav, length in zip(wavs, samples, strict=True)]
    counts = [(len(windows) - reach) // stride + 1 for windows, *_ in inputs]
    most = sum(counts) if torch.is_grad_enabled() else _PIECE_FRAMES
    found: list[list[Tensor]] = [[] for _ in samples]
    for pieces in _pieces(counts, most):
        parts, lengths = [], []
        for utterance, start, stop in pieces:
            windows, weight, bias = inputs[utterance]
            windows = windows[start * stride : (stop - 1) * stride + reach]
            windows = F.pad(windows, (0, 0, 0, -len(windows) % stride))
            lengths.append(len(windows) // stride)
            parts.append(run_layer(_first_layer, first, windows, weight, bias, recompute=recompute))
        packed = parts[0] if len(parts) == 1 else torch.cat(parts)
        for layer, weight in zip(others, weights, strict=True):
            packed = run_layer(_strided_layer, layer, weight, packed, recompute=recompute)
        # Without a graph the last piece has no frames beyond its own.
        lengths[-1] = len(packed) - sum(lengths[:-1])
        for (utterance, start, stop), frames in zip(pieces, packed.split(lengths), strict=True):
            found[utterance].append(frames[: stop - start])
    return pad_sequence([torch.cat(of) for of in found], batch_first=True)


def _pieces(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield lists of utterance, first and last frame + 1, of at most so many frames together."""
    pieces, filled = [], 0
    for utterance, count in enumerate(counts):
        for start in range(0, count, most):
            stop = min(start + most, count)
            if filled + stop - start > most:
                yield pieces
                pieces, filled = [], 0
            pieces.append((utterance, start, stop))
            filled += stop - start
    yield pieces


def _norm(layer: nn.Module) -> nn.Module | None:
    return getattr(layer, "layer_norm", None)


def _windows(layer: nn.Module, wav: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cut the waveform [T] into windows [N, K], which the weight [C, K] and bias map to frames.

    Those of a GroupNorm are in the weight and bias already.
    """
    # Two numbers a sample: half precision would save nothing and round the statistics.
    with torch.autocast(wav.device.type, enabled=False):
        windows = wav.float().unfold(0, layer.conv.kernel_size[0], layer.conv.stride[0])
        weight, bias, norm = layer.conv.weight[:, 0].float(), layer.conv.bias, _norm(layer)
        if not isinstance(norm, nn.GroupNorm):
            return windows, weight, bias
        windows = windows - windows.mean(0)
        covariance = windows.T.double() @ windows.double() / len(windows)
        variance = ((weight.double() @ covariance) * weight).sum(1)
        scale = norm.weight * torch.rsqrt(variance + norm.eps).float()
        return windows, weight * scale[:, None], norm.bias


def _first_layer(layer: nn.Module, windows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve what `_windows` gave, normalise and activate: [N, C]."""
    with torch.autocast(windows.device.type, enabled=False):
        norm = _norm(layer)
        if isinstance(norm, nn.LayerNorm):
            return layer.activation(norm(linear(windows, weight, bias)))
        return linear(windows, weight, bias, layer.activation)


def _strided_layer(layer: nn.Module, weight: Tensor, packed: Tensor) -> Tensor:
    """Convolve [N, C] with a weight [D, K * C], normalise and activate.

    With a graph N is a multiple of the stride s, and N / s frames come out; without, as many as
    have all their taps. One that reaches beyond its utterance is finite and means nothing.
    """
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    width, norm = packed.shape[1], _norm(layer)
    if not torch.is_grad_enabled():
        windows = packed.flatten().unfold(0, kernel * width, stride * width)
        if norm is None:
            return linear(windows, weight, layer.conv.bias, layer.activation)
        return layer.activation(norm(linear(windows, weight, layer.conv.bias)))
    # Views in place of windows: backward would write each of them out.
    blocks = packed.view(-1, stride * width)
    frames = F.linear(blocks[:, : kernel * width], weight[:, : stride * width], layer.conv.bias)
    for shift, tap in enumerate(range(stride, kernel, stride), start=1):
        later = weight[:, tap * width : (tap + stride) * width].T
        frames[:-shift].addmm_(
            blocks[shift:, : len(later)].to(frames.dtype), later.to(frames.dtype)
        )
    return layer.activation(frames if norm is None else norm(frames))
