from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

from gemoclap_sb.lobes.resnet import ResNetEncoder
from gemoclap_sb.lobes.ssl import SSLEncoder
from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.limits import (
    Budget,
    check_arguments,
    check_description_bounds,
    check_sentences,
)
from tests.run_folders import make_prompts, scratch_model


def size_of(module):
    state = module.state_dict()
    return len(state), sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_is_built_within_its_own_size(device):
    with torch.device(device), Budget("config.json", *size_of(scratch_model())):
        scratch_model()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**9, 10**9),
        lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**6)),
        lambda: nn.Embedding(10**10, 4),
        lambda: RobertaModel(RobertaConfig(num_hidden_layers=10**6, hidden_size=12)),
        lambda: torch.zeros(size=(10**5, 10**5)),
    ],
)
def test_what_is_larger_ends_before_it_is_made(make):
    expected = pytest.raises(ConfigurationError, match=r"config\.json: model: expected one of")
    with expected, Budget("config.json", 100, 10**6):
        make()


def test_sentences_are_counted_as_they_multiply():
    """Three words of one attribute times two of the other, by hand: 6 + 3."""
    words = {"emotion": dict.fromkeys("abc", "xx"), "gender": {"F": "f", "M": "m"}}
    templates = {"emotion": ["a {gender} {}", "so {}"]}
    check_sentences("here", words, templates)
    words |= {str(i): {str(j): "word" for j in range(20)} for i in range(5)}
    many = {"emotion": ["{} " + " ".join(f"{{{i}}}" for i in range(5))]}
    with pytest.raises(ConfigurationError, match=r"at most 4,096 sentences .*found 9,600,000 of"):
        check_sentences("here", words, many)
    prompts = make_prompts()
    check_sentences("here", prompts.words, prompts.templates)


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (ResNetEncoder, {"hop_ms": 16, "window_ms": 64.5, "channels": [4, 8]}),
        (SSLEncoder, {"layers": 3, "adapter_options": {"rank": 4}, "normalize_wav": None}),
        (SSLEncoder, {"layers": "last", "adapter_options": None, "attention_dropout": 0}),
    ],
)
def test_arguments_of_the_annotated_kinds(cls, config):
    check_arguments(cls, config)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (ResNetEncoder, "hop_ms", True),
        (ResNetEncoder, "hop_ms", "16"),
        (ResNetEncoder, "n_mels", 20.0),
        (ResNetEncoder, "channels", "48"),
        (ResNetEncoder, "channels", [4, "8"]),
        (ResNetEncoder, "center_utterances", "no"),
        (ResNetEncoder, "center_utterances", 0),
        (SSLEncoder, "freeze", "no"),
        (SSLEncoder, "layers", 1.0),
        (SSLEncoder, "adapter", ["lora"]),
        (SSLEncoder, "adapter_options", [1]),
    ],
)
def test_arguments_of_other_kinds(cls, name, value):
    with pytest.raises(TypeError, match=f"^{name}: expected "):
        check_arguments(cls, {name: value})


@pytest.mark.parametrize(
    ("hop", "kernel", "fits"),
    [([5, 2, 2, 2, 2, 2, 2], [10, 3, 3, 3, 3, 2, 2], True), ([2] * 3, [3] * 3, False),
     ([10] * 4, [10] * 4, False), ([16, 10], [4000, 4000], False)],
)  # fmt: skip
def test_frames_of_a_front_end(hop, kernel, fits):
    """WavLM's, a frame every 320 samples; and too many, too few and too long ones."""
    config = {"audio_encoder": {"conv_stride": hop, "conv_kernel": kernel}}
    if fits:
        return check_description_bounds("here", config)
    with pytest.raises(ConfigurationError, match="here: .*conv_"):
        check_description_bounds("here", config)
