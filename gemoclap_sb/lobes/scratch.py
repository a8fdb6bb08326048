"""A small audio encoder that trains from nothing, for where no pretrained weights are.

Log-Mel energies (SpeechBrain's ``Fbank``), mean-normalised per utterance, SpecAugment in training
(Park et al., arXiv 1904.08779), then the frame-level part of ECAPA-TDNN (Desplanques et al.,
arXiv 2005.07143): a TDNN layer, three SE-Res2Net blocks and the multi-layer feature aggregation,
up to where its pooling begins.

The blocks are SpeechBrain's and so are the names of their weights. What differs is the edge of an
utterance. SpeechBrain pads a batch's end by reflection and convolves over padded frames, so an
utterance's features depend on its batch. Here whatever lies past an utterance's end is zero
before every convolution, and the convolutions pad with zeros, so that an utterance alone and an
utterance in a batch see the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import SERes2NetBlock, TDNNBlock
from speechbrain.nnet.CNN import Conv1d
from speechbrain.processing.features import spectral_magnitude
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gemoclap_sb.lobes.configured import Configured
from gemoclap_sb.lobes.lengths import (
    mask_from_lengths,
    normalize_valid,
    relative_lengths,
    sample_lengths,
    valid_positions,
)
from gemoclap_sb.lobes.pooling import MaskedMeanPooling

WINDOW_MS = 25


class _ValidFrames(NamedTuple):
    """Which frames of a batch are speech, in the forms that the layers ask for."""

    mask: Tensor  # bool [B, 1, F]
    relative: Tensor  # [B], for SpeechBrain's squeeze and excitation
    positions: Tensor | None  # for BatchNorm in training


class ScratchEncoder(Configured):
    """Log-Mel energies and the frame-level part of ECAPA-TDNN.

    An utterance of n samples has ``n // hop + 1`` frames, so one sample already gives a frame.
    BatchNorm's statistics in training are those of the valid frames only.

    Parameters
    ----------
    sample_rate : int
        Samples per second of the waveforms.
    n_mels : int
        Mel bands.
    hop_ms : int
        Milliseconds from a frame to the next; a window is 25 ms. ECAPA-TDNN has 10, the SSL
        encoders 20. Twice the hop is about half the work.
    channels : int
        Channels of the blocks, a multiple of ``res2net_scale``. ECAPA-TDNN has 512 or 1024; with
        128 the encoder trains on a CPU.
    output_size : int, optional
        D, size of a frame; by default three times ``channels``, as in ECAPA-TDNN.
    res2net_scale : int
        Groups of channels in a Res2Net block.
    se_channels : int
        Bottleneck of squeeze and excitation.
    dropout : float
        Probability that a channel is dropped after each TDNN layer.
    spec_augment : bool
        Whether training masks stretches of time and of frequency.
    time_masks : int
        Most stretches of time to mask in an utterance; 1 or more are drawn.
    time_mask_frames : int
        Longest stretch of time, in frames.
    frequency_masks : int
        Most stretches of frequency to mask.
    frequency_mask_bands : int
        Widest stretch of frequency, in Mel bands.
    gradient_checkpointing : bool
        Whether training recomputes activations in the backward pass to save memory.

    Raises
    ------
    ValueError
        If ``channels`` is not a multiple of ``res2net_scale`` or a mask is empty.

    Examples
    --------
    >>> encoder = ScratchEncoder(channels=16)
    >>> frames = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> frames.shape, encoder.frame_lengths(torch.tensor([16000, 8000]))
    (torch.Size([2, 101, 48]), tensor([101,  51]))
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 64,
        hop_ms: int = 10,
        channels: int = 128,
        output_size: int | None = None,
        res2net_scale: int = 8,
        se_channels: int = 128,
        dropout: float = 0.0,
        spec_augment: bool = True,
        time_masks: int = 2,
        time_mask_frames: int = 25,
        frequency_masks: int = 2,
        frequency_mask_bands: int = 8,
        gradient_checkpointing: bool = False,
    ) -> None:
        output_size = 3 * channels if output_size is None else output_size
        super().__init__(locals())
        if channels % res2net_scale:
            raise ValueError(f"channels: expected a multiple of {res2net_scale=}, found {channels}")
        self.output_size = output_size
        self.gradient_checkpointing = gradient_checkpointing
        window = round(sample_rate * WINDOW_MS / 1000)
        # Even, so that a centred transform gives n // hop + 1 frames.
        self.fbank = Fbank(
            sample_rate=sample_rate,
            n_mels=n_mels,
            n_fft=window + window % 2,
            win_length=WINDOW_MS,
            hop_length=hop_ms,
        )
        self.mean = MaskedMeanPooling(n_mels)
        self.augment = nn.Sequential()
        if spec_augment:
            # Zero is the utterance's own mean here, which is what SpecAugment fills with.
            self.augment.append(_drop("time", time_masks, time_mask_frames, 1))
            self.augment.append(_drop("frequency", frequency_masks, frequency_mask_bands, 2))
        self.blocks = nn.ModuleList([TDNNBlock(n_mels, channels, 5, 1, dropout=dropout)])
        sizes = (channels, channels, res2net_scale, se_channels)
        for dilation in (2, 3, 4):
            self.blocks.append(SERes2NetBlock(*sizes, 3, dilation, dropout=dropout))
        self.mfa = TDNNBlock(3 * channels, output_size, 1, 1, dropout=dropout)
        for module in self.modules():
            if isinstance(module, Conv1d):
                module.padding_mode = "constant"

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Exact valid frames of utterances of that many samples, int64 [B]."""
        return samples // self.fbank.compute_STFT.hop_length + 1

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Encode mono waveforms [B, T] as frames [B, F, D], zero past an utterance's end.

        ``wav_lens`` [B] are relative to the longest; by default all are as long.
        """
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[0], device=wavs.device)
        samples = sample_lengths(wavs, wav_lens)
        lengths = self.frame_lengths(samples)
        features = self._features(wavs, samples, lengths)
        size = features.shape[1]
        mask = mask_from_lengths(lengths, size)
        positions = valid_positions(mask) if self.training else None
        valid = _ValidFrames(mask.unsqueeze(1), relative_lengths(lengths, size), positions)
        outputs = [self._run(self.blocks[0], features.transpose(1, 2), valid)]
        for block in self.blocks[1:]:
            outputs.append(self._run(block, outputs[-1], valid))
        return self._run(self.mfa, torch.cat(outputs[1:], dim=1), valid).transpose(1, 2)

    def _run(self, block: TDNNBlock | SERes2NetBlock, x: Tensor, valid: _ValidFrames) -> Tensor:
        forward = _tdnn if isinstance(block, TDNNBlock) else _se_res2net
        if not (self.gradient_checkpointing and self.training):
            return forward(block, x, valid)

        def contexts() -> tuple:
            return contextlib.nullcontext(), _untracked_statistics(block)

        return checkpoint(forward, block, x, valid, use_reentrant=False, context_fn=contexts)

    def _features(self, wavs: Tensor, samples: Tensor, lengths: Tensor) -> Tensor:
        """Normalised, and in training augmented, log-Mel energies [B, F, n_mels]."""
        wavs = wavs.float().masked_fill(~mask_from_lengths(samples, wavs.shape[1]), 0.0)
        with torch.autocast(wavs.device.type, enabled=False):
            power = spectral_magnitude(self.fbank.compute_STFT(wavs))
            mask = mask_from_lengths(lengths, power.shape[1]).unsqueeze(2)
            # The frame after the last may still see the utterance's tail, and the floor
            # is set relative to an utterance's loudest frame.
            features = self.fbank.compute_fbanks(power.masked_fill(~mask, 0.0))
            features = features - self.mean(features, lengths).unsqueeze(1)
            features = features.masked_fill(~mask, 0.0)
        return self.augment(features) if self.training else features


def _drop(axis: str, count: int, size: int, dim: int) -> SpectrogramDrop:
    if count < 1 or size < 2:
        raise ValueError(
            f"{axis} masks: expected a count of 1 or more and a size of 2 or more, found "
            f"{count} and {size}. Set spec_augment: False for none."
        )
    # The longest is exclusive, and the fewest are one.
    return SpectrogramDrop(1, size + 1, drop_count_high=count, replace="zeros", dim=dim)


def _tdnn(block: TDNNBlock, x: Tensor, valid: _ValidFrames) -> Tensor:
    """SpeechBrain's ``TDNNBlock.forward`` on valid frames; padded frames come out zero."""
    x = normalize_valid(block.norm, block.activation(block.conv(x)), valid.positions)
    return block.dropout(x * valid.mask if valid.positions is None else x)


def _se_res2net(block: SERes2NetBlock, x: Tensor, valid: _ValidFrames) -> Tensor:
    """SpeechBrain's ``SERes2NetBlock.forward`` on valid frames."""
    residual = x
    x = _tdnn(block.tdnn1, x, valid)
    parts = list(torch.chunk(x, block.res2net_block.scale, dim=1))
    for i, layer in enumerate(block.res2net_block.blocks, start=1):
        # Hierarchical residuals: each group but the first two also gets the one before.
        entry = parts[i] if i == 1 else parts[i] + parts[i - 1]
        parts[i] = _tdnn(layer, entry, valid)
    x = _tdnn(block.tdnn2, torch.cat(parts, dim=1), valid)
    return block.se_block(x, valid.relative) + residual


@contextlib.contextmanager
def _untracked_statistics(block: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice when its activations are recomputed."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
