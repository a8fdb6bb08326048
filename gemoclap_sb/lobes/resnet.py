"""A small two-dimensional SE-ResNet over log-Mel energies, trained from nothing.

Long windows resolve the harmonics of the voice, and convolutions over time and frequency see how
they move. Log-Mel energies (SpeechBrain's ``Fbank``), normalised by statistics of the training
set, SpecAugment in training (Park et al., arXiv 1904.08779), a stem of stride 2, pre-activation
residual blocks (He et al., arXiv 1603.05027) with squeeze and excitation (Hu et al.,
arXiv 1709.01507), and a layer that joins frequency and channels into one vector a frame.

The blocks are SpeechBrain's (``speechbrain.lobes.models.ResNet``) and so are the names of their
weights. What differs is the edge of an utterance: whatever lies past an utterance's end is zero
before every convolution, and squeeze and excitation averages over an utterance's own frames, so
that an utterance alone and an utterance in a batch see the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import NamedTuple

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ResNet import SEBasicBlock
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.checkpoint import checkpoint

from gemoclap_sb.lobes.configured import Configured
from gemoclap_sb.lobes.layer_frames import check_layers, mean_frames
from gemoclap_sb.lobes.lengths import (
    mask_from_lengths,
    normalize_valid,
    sample_lengths,
    valid_positions,
)
from gemoclap_sb.lobes.normalization import TrainingSetNormalization
from gemoclap_sb.lobes.recomputing import batch_counted_once
from gemoclap_sb.lobes.spec_augment import SpecAugment


class _Valid(NamedTuple):
    """Which part of a batch is speech at one resolution, in the forms that the layers ask for."""

    mask: Tensor  # bool [B, 1, 1, F]
    size: Tensor  # [B], bands times frames
    positions: Tensor | None  # for BatchNorm in training


class _Output(NamedTuple):
    """What a block gives: the second and third say which part of it is speech."""

    x: Tensor  # [B, C, bands, F]
    valid: _Valid
    lengths: Tensor  # [B]


class ResNetEncoder(Configured):
    """Log-Mel energies and a two-dimensional SE-ResNet.

    An utterance of n samples has ``n // hop + 1`` log-Mel frames, and half as many, rounded up,
    after each stride: with the defaults a frame every 128 ms.

    Parameters
    ----------
    sample_rate : int
        Samples per second of the waveforms.
    n_mels : int
        Mel bands.
    window_ms : float
        Length of a window in milliseconds. 25 blurs the harmonics of the voice, 64 shows them.
    hop_ms : float
        Milliseconds from a window to the next.
    channels : Sequence[int]
        Channels of each block; the stem has those of the first.
    strides : Sequence[int]
        Stride of each block, over time and frequency, 1 or 2.
    output_size : int
        D, size of a frame.
    time_masks, frequency_masks : int
        Most stretches of time and of frequency that training masks in an utterance; 1 or more
        are drawn for each batch. 0 masks none.
    time_mask_ms : float
        Longest stretch of time, in milliseconds.
    frequency_mask_bands : int
        Widest stretch of frequency, in Mel bands.
    center_utterances : bool
        Whether an utterance's own mean is taken from each band first. Gain and channel of a
        recording then do not count, nor does loudness.
    gradient_checkpointing : bool
        Whether training recomputes activations in the backward pass to save memory.

    Raises
    ------
    ValueError
        If ``channels`` and ``strides`` do not have the same length, or a value cannot be.

    Examples
    --------
    >>> encoder = ResNetEncoder(channels=[4, 8], strides=[1, 2], output_size=32)
    >>> frames = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> frames.shape, encoder.frame_lengths(torch.tensor([16000, 8000]))
    (torch.Size([2, 16, 32]), tensor([16,  8]))
    """

    TRAINING_ONLY = frozenset(
        {"time_masks", "time_mask_ms", "frequency_masks", "frequency_mask_bands"}
        | {"gradient_checkpointing"}
    )

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 96,
        window_ms: float = 64,
        hop_ms: float = 16,
        channels: Sequence[int] = (16, 32, 32, 64, 64),
        strides: Sequence[int] = (1, 2, 1, 2, 1),
        output_size: int = 256,
        time_masks: int = 1,
        time_mask_ms: float = 320,
        frequency_masks: int = 1,
        frequency_mask_bands: int = 12,
        center_utterances: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        channels, strides = list(channels), list(strides)
        super().__init__(locals())
        _check(sample_rate, n_mels, window_ms, hop_ms, channels, strides, output_size)
        self.output_size = output_size
        self.strides = (2, *strides)
        self.center_utterances = center_utterances
        self.gradient_checkpointing = gradient_checkpointing
        # Even, so that a centred transform gives n // hop + 1 frames.
        window = 2 * round(sample_rate * window_ms / 2000)
        self.fbank = Fbank(
            sample_rate=sample_rate,
            n_mels=n_mels,
            n_fft=window,
            win_length=1000 * window / sample_rate,
            hop_length=hop_ms,
        )
        self.normalization = TrainingSetNormalization(n_mels)
        hops = round(time_mask_ms / hop_ms)
        self.augment = SpecAugment(time_masks, hops, frequency_masks, frequency_mask_bands)
        self.stem = nn.Conv2d(1, channels[0], 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList()
        sizes = [channels[0], *channels]
        for before, after, stride in zip(sizes[:-1], channels, strides, strict=True):
            shortcut = _shortcut(before, after, stride)
            self.blocks.append(SEBasicBlock(before, after, 1, stride, shortcut))
        self.last_norm = nn.BatchNorm2d(channels[-1])
        bands = n_mels
        for stride in self.strides:
            bands = -(-bands // stride)
        self.join = nn.Conv1d(channels[-1] * bands, output_size, kernel_size=1, bias=False)
        self.join_norm = nn.BatchNorm1d(output_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Exact valid frames of utterances of that many samples, int64 [B]."""
        lengths = samples // self.fbank.compute_STFT.hop_length + 1
        for stride in self.strides:
            lengths = _strided(lengths, stride)
        return lengths

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Encode mono waveforms [B, T] as frames [B, F, D], zero past an utterance's end.

        ``wav_lens`` [B] are relative to the longest; by default all are as long.
        """
        (x, valid, lengths), _ = self._run_blocks(wavs, wav_lens)
        x = self.join(_normalized(self.last_norm, x, valid).flatten(1, 2))
        mask = mask_from_lengths(lengths, x.shape[2])
        positions = valid_positions(mask) if self.training else None
        frames = normalize_valid(self.join_norm, x, positions).relu() * mask.unsqueeze(1)
        return frames.transpose(1, 2)

    def layer_frames(self, wavs: Tensor, wav_lens: Tensor | None, layers: Sequence[int]) -> Tensor:
        """Give the outputs of blocks from 1 to `depth` side by side, float32 [B, F, their sizes].

        A block's is one vector a frame, of all channels and bands, at the rate of `forward`: the
        mean of its own frames in the time of one. Waveforms, F and zeros as in `forward`;
        ValueError for layers that are none.
        """
        layers = check_layers(layers, self.depth)
        _, found = self._run_blocks(wavs, wav_lens, set(layers))
        parts = {}
        for layer, (x, _, lengths) in found.items():
            parts[layer] = mean_frames(x.flatten(1, 2), lengths, prod(self.strides[layer + 1 :]))
        return torch.cat([parts[layer] for layer in layers], dim=2)

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    def _run_blocks(
        self, wavs: Tensor, wav_lens: Tensor | None, wanted: Collection[int] = ()
    ) -> tuple[_Output, dict[int, _Output]]:
        """Run stem and blocks; return the last output and those of the wanted blocks, from 1 on."""
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[0], device=wavs.device)
        samples = sample_lengths(wavs, wav_lens)
        lengths = samples // self.fbank.compute_STFT.hop_length + 1
        x = self.stem(self._features(wavs, samples, lengths).transpose(1, 2).unsqueeze(1))
        lengths = _strided(lengths, 2)
        valid = _valid(x, lengths, self.training)
        x = _normalized(self.stem_norm, x, valid)
        found = {}
        for place, block in enumerate(self.blocks, start=1):
            before = valid
            if block.stride > 1:
                lengths = _strided(lengths, block.stride)
                valid = _valid(x[:, :, ::2, ::2], lengths, self.training)
            x = self._run(block, x, before, valid)
            if place in wanted:
                found[place] = _Output(x, valid, lengths)
        return _Output(x, valid, lengths), found

    def _run(self, block: SEBasicBlock, x: Tensor, before: _Valid, after: _Valid) -> Tensor:
        if not (self.gradient_checkpointing and self.training):
            return _se_basic(block, x, before, after)
        contexts = batch_counted_once(block)
        options = {"use_reentrant": False, "context_fn": contexts}
        return checkpoint(_se_basic, block, x, before, after, **options)

    def _features(self, wavs: Tensor, samples: Tensor, lengths: Tensor) -> Tensor:
        """Normalised, and in training augmented, log-Mel energies [B, F, n_mels]."""
        wavs = wavs.float().masked_fill(~mask_from_lengths(samples, wavs.shape[1]), 0.0)
        with torch.autocast(wavs.device.type, enabled=False):
            # SpeechBrain's spectral_magnitude, bit by bit, whose sum over pairs is slow.
            real, imaginary = self.fbank.compute_STFT(wavs).unbind(-1)
            power = real.square() + imaginary.square()
            mask = mask_from_lengths(lengths, power.shape[1]).unsqueeze(2)
            # The frame after the last may still see the utterance's tail, and the floor
            # is set relative to an utterance's loudest frame.
            features = self.fbank.compute_fbanks(power.masked_fill(~mask, 0.0))
            if self.center_utterances:
                total = features.masked_fill(~mask, 0.0).sum(dim=1, keepdim=True)
                features = features - total / lengths.view(-1, 1, 1)
            features = self.normalization(features, mask).masked_fill(~mask, 0.0)
        return self.augment(features) if self.training else features


def _valid(x: Tensor, lengths: Tensor, training: bool) -> _Valid:
    """Say which frames of x [B, C, bands, F] are speech."""
    mask = mask_from_lengths(lengths, x.shape[3])[:, None]
    positions = valid_positions(mask.expand(-1, x.shape[2], -1)) if training else None
    return _Valid(mask.unsqueeze(1), lengths * x.shape[2], positions)


def _normalized(norm: nn.BatchNorm2d, x: Tensor, valid: _Valid) -> Tensor:
    """BatchNorm and ReLU; what lies past the utterances' ends comes out zero."""
    x = normalize_valid(norm, x, valid.positions).relu()
    return x * valid.mask if valid.positions is None else x


def _se_basic(block: SEBasicBlock, x: Tensor, before: _Valid, after: _Valid) -> Tensor:
    """SpeechBrain's ``SEBasicBlock.forward`` on the valid frames of x [B, C, bands, F]."""
    shortcut = x
    if block.downsample is not None:
        convolution, norm = block.downsample
        # The convolution's stride, taken first: with fewer than eight channels, oneDNN's backward
        # pass of a 1x1 convolution with a stride writes past its memory where there is AVX2 only.
        picked = x[:, :, :: block.stride, :: block.stride]
        shortcut = normalize_valid(norm, conv2d(picked, convolution.weight), after.positions)
    x = block.conv1(_normalized(block.bn1, x, before))
    x = block.conv2(_normalized(block.bn2, x, after))
    x = block.conv3(_normalized(block.bn3, x, after))
    # The last convolution sees one frame at a time and has no bias: what was zero still is.
    mean = x.sum(dim=(2, 3)) / after.size.unsqueeze(1)
    return x * block.se.fc(mean.to(x.dtype))[:, :, None, None] + shortcut


def _strided(lengths: Tensor, stride: int) -> Tensor:
    return (lengths + stride - 1) // stride


def _shortcut(before: int, after: int, stride: int) -> nn.Module | None:
    if before == after and stride == 1:
        return None
    convolution = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


def _check(
    sample_rate: int,
    n_mels: int,
    window_ms: float,
    hop_ms: float,
    channels: Sequence[int],
    strides: Sequence[int],
    output_size: int,
) -> None:
    if not channels or len(channels) != len(strides):
        raise ValueError(
            "channels and strides: expected one of each for every block, found "
            f"{list(channels)} and {list(strides)}."
        )
    if not set(strides) <= {1, 2}:
        raise ValueError(f"strides: expected 1 or 2 for each block, found {list(strides)}.")
    sizes = {"sample_rate": sample_rate, "n_mels": n_mels, "output_size": output_size}
    sizes |= {"window_ms": window_ms, "hop_ms": hop_ms, "channels": min(channels)}
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name}: expected more than 0, found {size!r}.")
    if not hop_ms <= window_ms:
        raise ValueError(f"hop_ms: expected window_ms ({window_ms}) at most, found {hop_ms}.")
