"""The from-scratch encoder against SpeechBrain's ECAPA-TDNN on single utterances."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.nnet.CNN import Conv1d
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes import ScratchEncoder, frame_lengths


def make(**options):
    """Small encoder in eval mode whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    options = {"channels": 16, "n_mels": 24, "res2net_scale": 4, "se_channels": 8} | options
    encoder = ScratchEncoder(**options)
    for name, value in encoder.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    return encoder.eval()


def batch_of(samples, garbage=0.0, seed=0):
    """Waveforms of the given lengths; whatever lies past an end is `garbage`."""
    torch.manual_seed(seed)
    wavs = [0.1 * torch.randn(n) for n in samples]
    padded = pad_sequence(wavs, batch_first=True, padding_value=garbage)
    return wavs, padded, torch.tensor(samples) / max(samples)


def stock_frames(encoder, wav):
    """SpeechBrain's features and network on one utterance, up to the aggregation."""
    features = Fbank(n_mels=24)(wav.unsqueeze(0))
    features = features - features.mean(dim=1, keepdim=True)
    stock = ECAPA_TDNN(
        24, channels=[16, 16, 16, 16, 48], res2net_scale=4, se_channels=8, lin_neurons=4
    ).eval()
    missing, unexpected = stock.load_state_dict(encoder.state_dict(), strict=False)
    assert all(name.startswith("fbank") for name in unexpected)
    assert all(name.startswith(("asp", "fc")) for name in missing)
    for module in stock.modules():
        if isinstance(module, Conv1d):
            module.padding_mode = "constant"
    kept = []
    stock.mfa.register_forward_hook(lambda module, inputs, output: kept.append(output))
    stock(features)
    return kept[0].transpose(1, 2)[0]


def test_frames_of_a_batch_are_speechbrains_of_each_utterance():
    encoder = make()
    wavs, padded, wav_lens = batch_of([9000, 16000, 4321], garbage=float("nan"))
    frames = encoder(padded, wav_lens)
    assert frames.shape[2] == encoder.output_size == 48
    for wav, of_batch in zip(wavs, frames, strict=True):
        expected = stock_frames(encoder, wav)
        torch.testing.assert_close(of_batch[: len(expected)], expected, atol=1e-4, rtol=0)
        assert not of_batch[len(expected) :].any()


@given(
    samples=st.lists(st.integers(1, 12000), min_size=1, max_size=4),
    hop_ms=st.sampled_from([10, 20]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_alone_as_in_a_batch(samples, hop_ms, seed):
    encoder = make(hop_ms=hop_ms)
    wavs, padded, wav_lens = batch_of(samples, garbage=7.0, seed=seed)
    frames = encoder(padded, wav_lens)
    counts = frame_lengths(encoder, frames, padded, wav_lens)
    for wav, of_batch, count in zip(wavs, frames, counts, strict=True):
        alone = encoder(wav.unsqueeze(0), torch.ones(1))[0]
        assert len(alone) == count
        torch.testing.assert_close(of_batch[:count], alone, atol=1e-4, rtol=0)
        assert not of_batch[count:].any()


def test_a_click_at_the_very_end_does_not_raise_the_floor():
    """The frame after the last sees the click from its middle, the last from its edge."""
    encoder = make()
    click = 1e-3 * torch.randn(4799)
    click[-1] = 1.0
    padded = pad_sequence([click, torch.randn(9000)], batch_first=True)
    frames = encoder(padded, torch.tensor([4799 / 9000, 1.0]))
    alone = encoder(click.unsqueeze(0), torch.ones(1))[0]
    torch.testing.assert_close(frames[0, : len(alone)], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050])
def test_frame_counts_are_exact(sample_rate):
    encoder = make(sample_rate=sample_rate)
    for samples in (1, 79, 80, 160, 400, 4000, 12345):
        # Noise and silence.
        frames = encoder(torch.stack([torch.randn(samples), torch.zeros(samples)]))
        assert frames.shape[1] == encoder.frame_lengths(torch.tensor(samples)).item()
        assert torch.isfinite(frames).all()


def test_batch_statistics_are_those_of_valid_frames():
    encoder = make(spec_augment=False)
    wavs, padded, wav_lens = batch_of([3000, 16000, 4321])
    layer = encoder.blocks[0]
    seen = []
    for wav in wavs:
        features = Fbank(n_mels=24)(wav.unsqueeze(0))
        features = (features - features.mean(dim=1, keepdim=True)).transpose(1, 2)
        seen.append(torch.relu(layer.conv(features))[0].detach().numpy())
    seen = np.concatenate(seen, axis=1)
    norm = layer.norm.norm
    mean = 0.9 * norm.running_mean.numpy() + 0.1 * seen.mean(axis=1)
    variance = 0.9 * norm.running_var.numpy() + 0.1 * seen.var(axis=1, ddof=1)
    encoder.train()(padded, wav_lens)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-4)


def test_padding_changes_no_gradient():
    encoder = make(spec_augment=False).train()

    def gradients(extra):
        copied = copy.deepcopy(encoder)
        _, padded, wav_lens = batch_of([3000, 8000])
        padded = torch.nn.functional.pad(padded, (0, extra), value=3.0)
        frames = copied(padded, wav_lens * 8000 / (8000 + extra))
        frames.square().sum().backward()
        return [p.grad for p in copied.parameters()]

    for padded, tight in zip(gradients(4000), gradients(0), strict=True):
        torch.testing.assert_close(padded, tight, rtol=1e-3, atol=1e-3)


def test_spec_augment_masks_in_training_only_and_follows_the_seed():
    options = {"time_masks": 1, "time_mask_frames": 20, "frequency_masks": 1}
    encoder = make(frequency_mask_bands=6, **options)
    wavs, _, _ = batch_of([16000])
    wavs, samples = wavs[0].expand(8, -1), torch.full((8,), 16000)

    def features(seed, training):
        torch.manual_seed(seed)
        return encoder.train(training)._features(wavs, samples, encoder.frame_lengths(samples))

    plain = features(0, training=False)
    assert torch.equal(plain, features(1, training=False))
    masked = features(0, training=True)
    assert torch.equal(masked, features(0, training=True))
    assert not torch.equal(masked, features(1, training=True))
    zeros = masked == 0
    assert torch.equal(masked[~zeros], plain[~zeros])
    rows, bands = zeros.all(dim=2).sum(dim=1), zeros.all(dim=1).sum(dim=1)
    assert rows.min() >= 1 and rows.max() <= 20
    assert bands.min() >= 1 and bands.max() <= 6
    # Each utterance draws its own masks.
    assert len({tuple(row.tolist()) for row in zeros.all(dim=2)}) > 1

    without = make(spec_augment=False).train()
    assert torch.equal(without._features(wavs, samples, without.frame_lengths(samples)), plain)


def test_every_parameter_has_a_gradient_and_the_waveform_too():
    encoder = make().train()
    _, padded, wav_lens = batch_of([4000, 8000])
    padded.requires_grad_()
    encoder(padded, wav_lens).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert padded.grad[1].any()
    assert not padded.grad[0, 4000:].any()


def test_gradient_checkpointing_changes_nothing_but_memory():
    _, padded, wav_lens = batch_of([4000, 8000])

    def step(gradient_checkpointing):
        encoder = make(gradient_checkpointing=gradient_checkpointing, dropout=0.2).train()
        torch.manual_seed(1)
        encoder(padded, wav_lens).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters()}, encoder.state_dict()

    (plain, state), (checkpointed, checkpointed_state) = step(False), step(True)
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name])
    for name, value in checkpointed_state.items():
        # A recomputed batch must not count twice in BatchNorm's statistics.
        torch.testing.assert_close(value, state[name])


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast(training):
    encoder = make(spec_augment=False).train(training)
    _, padded, wav_lens = batch_of([4000, 8000])
    with torch.no_grad():
        expected = encoder(padded, wav_lens)
        with torch.autocast("cpu", torch.bfloat16):
            frames = encoder(padded, wav_lens)
    assert (frames.float() - expected).norm() / expected.norm() < 0.05
    assert not frames[0, int(encoder.frame_lengths(torch.tensor(4000))) :].any()


@pytest.mark.slow
def test_torch_compile():
    # Tracing takes a second a layer.
    encoder = make(spec_augment=False, res2net_scale=2).train()
    _, padded, wav_lens = batch_of([4000, 8000])
    expected = encoder(padded, wav_lens)
    compiled = torch.compile(encoder, backend="aot_eager")(padded, wav_lens)
    torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)
    compiled.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_copies_pickles_and_plain_data():
    encoder = make(hop_ms=20, spec_augment=False)
    _, padded, wav_lens = batch_of([4000, 8000])
    frames = encoder(padded, wav_lens)
    assert torch.equal(copy.deepcopy(encoder)(padded, wav_lens), frames)
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(padded, wav_lens), frames)
    rebuilt = ScratchEncoder.from_config(json.loads(json.dumps(encoder.to_config()))).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(padded, wav_lens), frames)
    assert rebuilt.to_config() == encoder.to_config()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": 20, "res2net_scale": 8}, "channels"),
        ({"time_masks": 0}, "time masks"),
        ({"frequency_mask_bands": 1}, "frequency masks"),
    ],
)
def test_impossible_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        ScratchEncoder(**options)
