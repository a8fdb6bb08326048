"""What keeps padding out of a self-supervised speech encoder.

The stock models let an utterance's features change with its batch in four places:
the normalisation of the waveform, the GroupNorm of the front end (its statistics
run over the padding), the positional convolutions (they read neighbours), and the
self-attention. The first three are answered here; the attention takes a mask.

Sources: transformers' `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`; Wu and He,
"Group Normalization", arXiv 1803.08494; Baevski et al., "wav2vec 2.0", arXiv
2006.11477, and "data2vec", arXiv 2202.03555, for the positional convolutions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

VARIANCE_FLOOR = 1e-7
"""Added to the variance of a waveform, as transformers' feature extractor does."""


def normalize_waveforms(wavs: Tensor, valid: Tensor | None, normalize: bool = True) -> Tensor:
    """Bring each utterance to zero mean and unit variance, and its padding to zero.

    Parameters
    ----------
    wavs : Tensor
        Waveforms, float [B, T].
    valid : Tensor or None
        True where a sample belongs to its utterance, bool [B, T]; None where all do.
    normalize : bool
        False only zeroes the padding.

    Returns
    -------
    Tensor
        [B, T]. Whatever `wavs` holds in the padding, NaN included, has no effect.

    Examples
    --------
    >>> wavs = torch.tensor([[1.0, 3.0, 99.0]])
    >>> normalize_waveforms(wavs, torch.tensor([[True, True, False]]))
    tensor([[-1.,  1.,  0.]])
    """
    if valid is None:
        if not normalize:
            return wavs
        variance, mean = torch.var_mean(wavs, dim=1, keepdim=True, correction=0)
        return (wavs - mean) / torch.sqrt(variance + VARIANCE_FLOOR)
    wavs = wavs.masked_fill(~valid, 0.0)
    if not normalize:
        return wavs
    count = valid.sum(1, keepdim=True)
    centered = (wavs - wavs.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    variance = centered.square().sum(1, keepdim=True) / count
    return centered / torch.sqrt(variance + VARIANCE_FLOOR)


def masked_group_norm(norm: nn.GroupNorm, features: Tensor, valid: Tensor | None) -> Tensor:
    """Apply a one-channel-per-group GroupNorm with statistics over the valid frames only.

    Parameters
    ----------
    norm : nn.GroupNorm
        The stock layer, whose weight, bias and eps are used.
    features : Tensor
        [B, C, F].
    valid : Tensor or None
        True where a frame of this layer belongs to its utterance, bool [B, F]; None
        where all do, and the stock layer runs.

    Returns
    -------
    Tensor
        [B, C, F]; padded frames hold the bias.

    Raises
    ------
    ValueError
        If a group spans several channels, which none of the supported models has.

    Examples
    --------
    >>> norm = nn.GroupNorm(1, 1)
    >>> features = torch.tensor([[[1.0, 3.0, 50.0]]])
    >>> masked_group_norm(norm, features, torch.tensor([[True, True, False]])).round(decimals=3)
    tensor([[[-1.,  1.,  0.]]], grad_fn=<RoundBackward1>)
    """
    if norm.num_groups != norm.num_channels:
        raise ValueError(
            f"expected a GroupNorm with one channel per group, found {norm.num_groups} groups for "
            f"{norm.num_channels} channels; use a checkpoint of a published front end"
        )
    if valid is None:
        return norm(features)
    # Statistics over thousands of frames lose too much in half precision.
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        padding = ~valid.unsqueeze(1)
        count = valid.sum(1).view(-1, 1, 1)
        features = features.to(dtype).masked_fill(padding, 0.0)
        mean = features.sum(2, keepdim=True) / count
        # Two passes: the mean of squares minus the squared mean cancels in float32.
        centered = (features - mean).masked_fill(padding, 0.0)
        scale = torch.rsqrt(centered.square().sum(2, keepdim=True) / count + norm.eps)
        return centered * (scale * norm.weight.view(-1, 1)) + norm.bias.view(-1, 1)


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
    """Run the convolutional front end of a wav2vec 2.0-like model.

    Parameters
    ----------
    feature_extractor : nn.Module
        The stock front end; its `conv_layers` are used.
    wavs : Tensor
        Normalised waveforms with zeros in the padding, [B, T].
    samples : Tensor or None
        Valid samples of each utterance, LongTensor [B]; None where nothing is padded.
    recompute : bool
        Gradient checkpointing, layer by layer.

    Returns
    -------
    Tensor
        [B, F, C]. Frames past the utterance's end are finite and mean nothing.
    """
    features = wavs.unsqueeze(1)
    for layer in feature_extractor.conv_layers:
        if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
            features = run_layer(_group_norm_layer, layer, features, samples, recompute=recompute)
        else:
            # Unpadded convolutions and frame-wise norms: a valid frame sees valid samples only.
            features = run_layer(layer, features, recompute=recompute)
        if samples is not None:
            samples = (samples - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
    return features.transpose(1, 2)


def _group_norm_layer(layer: nn.Module, features: Tensor, lengths: Tensor | None) -> Tensor:
    """Run conv, GroupNorm and activation; `lengths` are the valid frames of the input."""
    features = layer.conv(features)
    valid = None
    if lengths is not None:
        # The norm sees frames of its own rate, not samples and not the encoder's frames.
        lengths = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        valid = torch.arange(features.shape[2], device=lengths.device) < lengths.unsqueeze(1)
    return layer.activation(masked_group_norm(layer.layer_norm, features, valid))


def positional_embedding(module: nn.Module, hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Run the positional convolution, or data2vec-audio's stack of them, without leaks.

    Every convolution reads zeros past the utterance's end, as it does when the
    utterance stands alone.

    Parameters
    ----------
    module : nn.Module
        The stock `pos_conv_embed`.
    hidden : Tensor
        [B, F, D], zero in the padding.
    valid : Tensor or None
        bool [B, F]; None where nothing is padded.

    Returns
    -------
    Tensor
        [B, F, D]. Padded frames mean nothing.
    """
    if hasattr(module, "layers"):
        features = hidden.transpose(1, 2)
        for layer in module.layers:
            features = layer(features)
            if valid is not None:
                features = features.masked_fill(~valid.unsqueeze(1), 0.0)
        return features.transpose(1, 2)
    batch_norm = getattr(module, "batch_norm", None)
    if batch_norm is None or valid is None:
        return module(hidden)
    # Some HuBERTs normalise first, which would lift the padding off zero.
    normalized = torch.zeros_like(hidden)
    normalized[valid] = batch_norm(hidden[valid]).to(hidden.dtype)
    features = module.padding(module.conv(normalized.transpose(1, 2)))
    return module.activation(features).transpose(1, 2)


def attention_mask(valid: Tensor, dtype: torch.dtype, additive: bool) -> Tensor:
    """Say which keys may be attended to, broadcastable to [B, H, F, F].

    Parameters
    ----------
    valid : Tensor
        bool [B, F].
    dtype : torch.dtype
        Of the logits, for an additive mask.
    additive : bool
        True gives 0 and the lowest number, False gives True and False.

    Returns
    -------
    Tensor
        [B, 1, 1, F].

    Examples
    --------
    >>> attention_mask(torch.tensor([[True, False]]), torch.float32, additive=False)
    tensor([[[[ True, False]]]])
    """
    mask = valid[:, None, None, :]
    if not additive:
        return mask
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)


def spec_augment(model: nn.Module, hidden: Tensor, valid: Tensor | None) -> Tensor:
    """Mask spans of time and of features inside each utterance, as the model's config says.

    Source: Park et al., "SpecAugment", arXiv 1904.08779, in transformers' rendering.

    Parameters
    ----------
    model : nn.Module
        The transformers model, in training mode; its `_mask_hidden_states` does the work.
    hidden : Tensor
        Projected features, [B, F, D].
    valid : Tensor or None
        bool [B, F]; None where nothing is padded.

    Returns
    -------
    Tensor
        [B, F, D].
    """
    length = hidden.shape[1]
    if valid is None:
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    # transformers refuses a batch shorter than one span.
    missing = max(0, model.config.mask_time_length - length)
    hidden, valid = F.pad(hidden, (0, 0, 0, missing)), F.pad(valid, (0, missing))
    return model._mask_hidden_states(hidden.clone(), attention_mask=valid)[:, :length]
