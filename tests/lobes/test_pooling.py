"""Pooling against NumPy and against SpeechBrain on single utterances."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.lobes.models.ECAPA_TDNN import AttentiveStatisticsPooling as StockPooling

from gemoclap_sb.lobes import AttentiveStatisticsPooling, MaskedMeanPooling

LENGTHS = [9, 1, 4]
both = pytest.mark.parametrize("pooling_class", [MaskedMeanPooling, AttentiveStatisticsPooling])


@pytest.fixture
def frames():
    return torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))


def trained(pooling):
    """Pooling whose weights and statistics are not the initial ones, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for value in pooling.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return pooling.eval()


def test_mean_is_numpys(frames):
    pooled = MaskedMeanPooling(5)(frames, torch.tensor(LENGTHS))
    expected = np.stack([frames[i, :n].double().numpy().mean(0) for i, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-6)


def test_gradient_of_the_mean(frames):
    lengths = torch.tensor(LENGTHS)
    frames = frames.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MaskedMeanPooling(5)(x, lengths), frames)


def test_mean_of_half_precision_is_summed_in_single():
    # In bfloat16 a running sum of ones stops at 256.
    frames = torch.ones(1, 5000, 1, dtype=torch.bfloat16)
    pooled = MaskedMeanPooling(1)(frames, torch.tensor([5000]))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


@both
@pytest.mark.parametrize("garbage", [1e9, float("inf"), float("nan")])
def test_padding_is_not_read(frames, pooling_class, garbage):
    pooling = trained(pooling_class(5))
    lengths = torch.tensor(LENGTHS)
    clean = pooling(frames, lengths)
    dirty = frames.clone()
    for i, n in enumerate(LENGTHS):
        dirty[i, n:] = garbage
    dirty.requires_grad_()
    pooled = pooling(dirty, lengths)
    assert torch.equal(pooled, clean)
    pooled.sum().backward()
    assert torch.isfinite(dirty.grad).all()
    for i, n in enumerate(LENGTHS):
        assert not dirty.grad[i, n:].any()


@both
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_alone_as_in_a_batch(pooling_class, lengths, seed):
    pooling = trained(pooling_class(4))
    torch.manual_seed(seed)
    frames = 3 * torch.randn(len(lengths), max(lengths), 4)
    together = pooling(frames, torch.tensor(lengths))
    for i, n in enumerate(lengths):
        alone = pooling(frames[i : i + 1, :n], torch.tensor([n]))
        torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=0)


def test_attentive_statistics_are_speechbrains(frames):
    pooling = trained(AttentiveStatisticsPooling(5, attention_channels=7))
    stock = StockPooling(5, attention_channels=7).eval()
    stock.load_state_dict(pooling.attention.state_dict())
    pooled = pooling(frames, torch.tensor(LENGTHS))
    for i, n in enumerate(LENGTHS):
        statistics = stock(frames[i : i + 1, :n].transpose(1, 2)).squeeze(2)
        torch.testing.assert_close(pooled[i : i + 1], pooling.norm(statistics))


def test_attentive_statistics_train_as_if_there_were_no_padding(frames):
    pooling = AttentiveStatisticsPooling(5, attention_channels=7).train()
    stock = StockPooling(5, attention_channels=7).train()
    stock.load_state_dict(pooling.attention.state_dict())
    # SpeechBrain's module sees two utterances of one length; ours sees padding after them.
    utterances = frames[:2, :6]
    expected = pooling.norm(stock(utterances.transpose(1, 2)).squeeze(2))
    expected.square().sum().backward()
    padded = torch.nn.functional.pad(utterances, (0, 0, 0, 5), value=9.0)
    pooled = pooling(padded, torch.tensor([6, 6]))
    pooling.zero_grad()
    pooled.square().sum().backward()
    torch.testing.assert_close(pooled, expected)
    own = pooling.attention.state_dict()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(own[name], value)
    gradients = dict(stock.named_parameters())
    for name, parameter in pooling.attention.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4, rtol=1e-3)


@both
def test_copies_and_plain_data(frames, pooling_class):
    pooling = trained(pooling_class(5))
    lengths = torch.tensor(LENGTHS)
    pooled = pooling(frames, lengths)
    assert pooled.shape == (3, pooling.output_size)
    assert torch.equal(copy.deepcopy(pooling)(frames, lengths), pooled)
    rebuilt = pooling_class.from_config(json.loads(json.dumps(pooling.to_config()))).eval()
    rebuilt.load_state_dict(pooling.state_dict())
    assert torch.equal(rebuilt(frames, lengths), pooled)


def test_plain_data_are_the_constructors_arguments():
    pooling = AttentiveStatisticsPooling(5, attention_channels=7)
    assert pooling.to_config() == {"input_size": 5, "attention_channels": 7}
    assert MaskedMeanPooling(5).to_config() == {"input_size": 5}


def test_attentive_statistics_under_autocast(frames):
    pooling = trained(AttentiveStatisticsPooling(5))
    lengths = torch.tensor(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooling(frames, lengths)
    assert torch.equal(pooled, pooling(frames, lengths))
