"""What keeps padding out of a self-supervised speech encoder.

The stock models let an utterance's features change with its batch in four places: the
normalisation of the waveform, the GroupNorm of the front end (its statistics run over the
padding), the positional convolutions (they read neighbours), and the self-attention. The first
three are answered here; the attention takes a mask.

Where nothing is padded, `samples` and `valid` are None.

Sources: transformers' `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`; Wu and He, "Group
Normalization", arXiv 1803.08494; Baevski et al., "wav2vec 2.0", arXiv 2006.11477, and "data2vec",
arXiv 2202.03555, for the positional convolutions; Park et al., "SpecAugment", arXiv 1904.08779.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gemoclap_sb.lobes.lengths import mask_from_lengths

# Added to the variance of a waveform, as transformers' feature extractor does.
VARIANCE_FLOOR = 1e-7


def normalize_waveforms(wavs: Tensor, valid: Tensor | None, normalize: bool = True) -> Tensor:
    """Bring the `valid` samples of each row of [B, T] to mean 0 and variance 1, the others to 0.

    What the padding holds, NaN included, has no effect. Without `normalize` it is zeroed only.

    >>> wavs = torch.tensor([[1.0, 3.0, 99.0]])
    >>> normalize_waveforms(wavs, torch.tensor([[True, True, False]]))
    tensor([[-1.,  1.,  0.]])
    """
    if valid is not None:
        wavs = wavs.masked_fill(~valid, 0.0)
    if not normalize:
        return wavs
    if valid is None:
        variance, mean = torch.var_mean(wavs, dim=1, keepdim=True, correction=0)
        centered = wavs - mean
    else:
        centered, variance = _centered(wavs, valid)
    return centered / torch.sqrt(variance + VARIANCE_FLOOR)


def masked_group_norm(norm: nn.GroupNorm, features: Tensor, valid: Tensor | None) -> Tensor:
    """Apply a GroupNorm of one channel per group to [B, C, F], with statistics of `valid` [B, F].

    Padded frames hold the bias.

    >>> features = torch.tensor([[[1.0, 3.0, 50.0]]])
    >>> valid = torch.tensor([[True, True, False]])
    >>> masked_group_norm(nn.GroupNorm(1, 1), features, valid).round(decimals=3)
    tensor([[[-1.,  1.,  0.]]], grad_fn=<RoundBackward1>)
    """
    if valid is None:
        return norm(features)
    valid = valid.unsqueeze(1)
    # Statistics over thousands of frames lose too much in half precision.
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        centered, variance = _centered(features.masked_fill(~valid, 0.0), valid)
        scale = torch.rsqrt(variance + norm.eps)
        return centered * (scale * norm.weight.view(-1, 1)) + norm.bias.view(-1, 1)


def _centered(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Take the mean of x [..., T], zero in its padding, from it; also return the variance."""
    count = valid.sum(-1, keepdim=True)
    # Two passes: the mean of squares minus the squared mean cancels in float32.
    centered = (x - x.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
    return centered, centered.square().sum(-1, keepdim=True) / count


def run_layer(
    layer: Callable[..., object], *inputs: object, recompute: bool = False, **options: object
) -> object:
    """Call a layer, and with `recompute` keep its inputs only and run it again in backward."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False, **options)
    return layer(*inputs, **options)


def front_end_features(
    feature_extractor: nn.Module, wavs: Tensor, samples: Tensor | None, recompute: bool = False
) -> Tensor:
    """Run a wav2vec 2.0-like front end on [B, T], zero in the padding, to features [B, F, C].

    `samples` [B] are valid. Frames past the utterance's end are finite and mean nothing.
    """
    features, lengths = wavs.unsqueeze(1), samples
    for layer in feature_extractor.conv_layers:
        if lengths is not None:
            lengths = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
            features = run_layer(_group_norm_layer, layer, features, lengths, recompute=recompute)
        else:
            # Unpadded convolutions and frame-wise norms: a valid frame sees valid samples only.
            features = run_layer(layer, features, recompute=recompute)
    return features.transpose(1, 2)


def _group_norm_layer(layer: nn.Module, features: Tensor, lengths: Tensor | None) -> Tensor:
    """Run conv, GroupNorm and activation; `lengths` are the valid frames at the layer's rate."""
    features = layer.conv(features)
    valid = None if lengths is None else mask_from_lengths(lengths, features.shape[2])
    return layer.activation(masked_group_norm(layer.layer_norm, features, valid))


def positional_embedding(module: nn.Module, hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Run the stock `pos_conv_embed` on [B, F, D], zero where not `valid` [B, F], without leaks.

    Every convolution, of data2vec-audio's stack too, reads zeros past the utterance's end, as it
    does when the utterance stands alone. Padded frames mean nothing.
    """
    if hasattr(module, "layers"):
        for layer in module.layers:
            hidden = layer.activation(layer.layer_norm(_same_convolution(layer, hidden)))
            if valid is not None:
                hidden = hidden.masked_fill(~valid.unsqueeze(-1), 0.0)
        return hidden
    batch_norm = getattr(module, "batch_norm", None)
    if batch_norm is not None and valid is None:
        hidden = batch_norm(hidden.transpose(1, 2)).transpose(1, 2)
    elif batch_norm is not None:
        # Some HuBERTs normalise first, which would lift the padding off zero.
        normal = torch.zeros_like(hidden)
        normal[valid] = batch_norm(hidden[valid]).to(hidden.dtype)
        hidden = normal
    return module.activation(_same_convolution(module, hidden))


def _same_convolution(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Run `conv` and `padding` of a stock positional layer on [B, F, D], to as many frames."""
    conv = layer.conv
    if hidden.device.type != "cpu" or torch.compiler.is_compiling():
        return layer.padding(conv(hidden.transpose(1, 2))).transpose(1, 2)
    # oneDNN has a quick kernel for channels that lie beside each other, in images only, so a
    # sequence is an image one pixel high. It also leaves out what reads the zeros at the ends.
    image, weight = hidden.transpose(1, 2).unsqueeze(2), conv.weight.unsqueeze(2)
    padding, groups = (0, *conv.padding), conv.groups
    image = F.conv2d(image, weight, conv.bias, padding=padding, groups=groups)
    return layer.padding(image.squeeze(2)).transpose(1, 2)


def attention_mask(valid: Tensor, dtype: torch.dtype, additive: bool) -> Tensor:
    """Say which keys of `valid` [B, F] may be attended to, [B, 1, 1, F].

    An additive mask is 0 or the lowest number of the logits' `dtype`, any other True or False.

    >>> attention_mask(torch.tensor([[True, False]]), torch.float32, additive=False)
    tensor([[[[ True, False]]]])
    """
    mask = valid[:, None, None, :]
    if not additive:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def spec_augment(model: nn.Module, hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Mask spans of time and features [B, F, D] in each utterance, as the model's config says."""
    length = hidden.shape[1]
    if valid is None:
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    # transformers refuses a batch shorter than one span.
    missing = max(0, model.config.mask_time_length - length)
    hidden, valid = F.pad(hidden, (0, 0, 0, missing)), F.pad(valid, (0, missing))
    return model._mask_hidden_states(hidden.clone(), attention_mask=valid)[:, :length]
