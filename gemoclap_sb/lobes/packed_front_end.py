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

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes.padding import run_layer


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
    input only and runs the layer again in backward.
    """
    first, *others = feature_extractor.conv_layers
    strides = prod(layer.conv.stride[0] for layer in others)
    parts = []
    for wav, length in zip(wavs, samples, strict=True):
        frames = run_layer(_first_layer, first, wav[:length], recompute=recompute)
        parts.append(F.pad(frames, (0, 0, 0, -len(frames) % strides)))
    packed = torch.cat(parts)
    for layer in others:
        packed = run_layer(_strided_layer, layer, packed, recompute=recompute)
    own = packed.split([len(part) // strides for part in parts])
    counts = samples
    for layer in (first, *others):
        kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        counts = [(count - kernel) // stride + 1 for count in counts]
    return pad_sequence([of[:n] for of, n in zip(own, counts, strict=True)], batch_first=True)


def _norm(layer: nn.Module) -> nn.Module | None:
    return getattr(layer, "layer_norm", None)


def _first_layer(layer: nn.Module, wav: Tensor) -> Tensor:
    """Convolve the waveform [T] of one utterance, normalise and activate: [N, C]."""
    # Two numbers a sample: half precision would save nothing and round the statistics.
    with torch.autocast(wav.device.type, enabled=False):
        windows = wav.float().unfold(0, layer.conv.kernel_size[0], layer.conv.stride[0])
        weight, bias, norm = layer.conv.weight[:, 0].float(), layer.conv.bias, _norm(layer)
        if isinstance(norm, nn.GroupNorm):
            windows = windows - windows.mean(0)
            covariance = windows.T.double() @ windows.double() / len(windows)
            variance = ((weight.double() @ covariance) * weight).sum(1)
            scale = norm.weight * torch.rsqrt(variance + norm.eps).float()
            return layer.activation(torch.addmm(norm.bias, windows, (weight * scale[:, None]).T))
        frames = F.linear(windows, weight, bias)
        return layer.activation(frames if norm is None else norm(frames))


def _strided_layer(layer: nn.Module, packed: Tensor) -> Tensor:
    """Convolve [N, C], N a multiple of the stride s, normalise and activate: [N / s, D].

    A frame that reaches beyond its utterance is finite and means nothing.
    """
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    width = packed.shape[1]
    blocks = packed.view(-1, stride * width)
    # Rows are taps times channels, as a block has them.
    weight = layer.conv.weight.permute(2, 1, 0).reshape(kernel * width, -1)
    frames = F.linear(blocks[:, : kernel * width], weight[: stride * width].T, layer.conv.bias)
    for shift, tap in enumerate(range(stride, kernel, stride), start=1):
        later = weight[tap * width : (tap + stride) * width]
        frames[:-shift].addmm_(
            blocks[shift:, : len(later)].to(frames.dtype), later.to(frames.dtype)
        )
    norm = _norm(layer)
    return layer.activation(frames if norm is None else norm(frames))
