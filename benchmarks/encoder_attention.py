"""WavLM's attention by itself: forward and backward, ours against transformers' eager one.

A stack of attention modules as in the encoder, without the feed-forward layers between
them: the first makes the position bias, the others reuse it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from encoder_models import audio_config
from encoder_processes import PeakMemory
from encoder_steps import clock
from torch import Tensor, nn
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from gemoclap_sb.lobes.attention import FusedWavLMAttention

FRAMES_PER_SECOND = 50


@dataclass(frozen=True)
class AttentionSetting:
    """What is measured.

    Attributes
    ----------
    size : str
        Of the encoder whose attention it is.
    seconds : float
        Length of each utterance; nothing is padded.
    batch_size, layers : int
        Utterances, attention modules in a row.
    dropout : float
        Of the attention probabilities.
    device, precision : str
        `cpu` or `cuda`; `fp32` or `bf16`.
    threads, seed : int
        Of torch.
    """

    size: str
    seconds: float
    batch_size: int
    layers: int
    dropout: float
    device: str
    precision: str
    threads: int
    seed: int


def attention_stack(setting: AttentionSetting) -> nn.ModuleList:
    """Make the stock modules, with the weights of the seed, in training mode."""
    config = audio_config("wavlm", setting.size)
    torch.manual_seed(setting.seed)
    stack = nn.ModuleList(
        WavLMAttention(
            config.hidden_size,
            config.num_attention_heads,
            setting.dropout,
            config.num_buckets,
            config.max_bucket_distance,
            has_relative_position_bias=layer == 0,
        )
        for layer in range(setting.layers)
    )
    return stack.to(setting.device).train()


def implemented(stack: nn.ModuleList, implementation: str) -> nn.ModuleList:
    """Give the stack another implementation, with the same weights."""
    if implementation == "eager":
        return stack
    return nn.ModuleList(FusedWavLMAttention(layer, implementation) for layer in stack).train()


def run_stack(stack: nn.ModuleList, hidden: Tensor, precision: str) -> None:
    """Run forward and backward once."""
    bias = None
    reduced = precision == "bf16"
    context = torch.autocast(hidden.device.type, torch.bfloat16) if reduced else None
    with context or contextlib.nullcontext():
        for layer in stack:
            hidden, _, bias = layer(hidden, position_bias=bias)
    hidden.float().square().mean().backward()


def make_input(setting: AttentionSetting) -> Tensor:
    """Frames [B, T, D] that want a gradient, as those of a trained encoder do."""
    generator = torch.Generator().manual_seed(setting.seed)
    # One frame less than fifty a second, as the front end gives.
    length = round(setting.seconds * FRAMES_PER_SECOND) - 1
    size = audio_config("wavlm", setting.size).hidden_size
    hidden = torch.randn(setting.batch_size, length, size, generator=generator)
    return hidden.to(setting.device).requires_grad_()


def attention_seconds(
    setting: AttentionSetting, implementations: list[str], repetitions: int
) -> dict[str, list[float]]:
    """Time the implementations by turns, A B A B, after one untimed turn.

    Parameters
    ----------
    setting : AttentionSetting
        What is measured.
    implementations : list of str
        `eager`, `sdpa`, `flex`.
    repetitions : int
        Timed turns.

    Returns
    -------
    dict of list of float
        Seconds per implementation.
    """
    torch.set_num_threads(setting.threads)
    stack = attention_stack(setting)
    stacks = {name: implemented(stack, name) for name in implementations}
    hidden = make_input(setting)
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for turn in range(repetitions + 1):
        for name, modules in stacks.items():
            modules.zero_grad(set_to_none=True)
            start = clock(setting.device)
            run_stack(modules, hidden, setting.precision)
            if turn:
                seconds[name].append(clock(setting.device) - start)
    return seconds


def attention_memory(setting: AttentionSetting, implementation: str) -> float:
    """Peak memory of forward and backward, MiB, weights and input left out.

    To be called in a process of its own.

    Parameters
    ----------
    setting : AttentionSetting
        What is measured.
    implementation : str
        `eager`, `sdpa` or `flex`.

    Returns
    -------
    float
    """
    torch.set_num_threads(setting.threads)
    stack = implemented(attention_stack(setting), implementation)
    hidden = make_input(setting)
    before = 0.0
    if setting.device == "cuda":
        # Compilation takes memory that training does not.
        run_stack(stack, hidden, setting.precision)
        stack.zero_grad(set_to_none=True)
        hidden.grad = None
        before = torch.cuda.memory_allocated() / 1024**2
    memory = PeakMemory(setting.device)
    run_stack(stack, hidden, setting.precision)
    return memory.read() - before
