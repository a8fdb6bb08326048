"""The SE-ResNet against SpeechBrain's blocks, run stock on single utterances."""

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
from torch.nn.utils.rnn import pad_sequence

from gemoclap_sb.lobes import ResNetEncoder, frame_lengths


def make(**options):
    """Small encoder in eval mode whose statistics are not the initial ones."""
    torch.manual_seed(0)
    small = {"channels": [4, 8, 8], "strides": [1, 2, 1], "n_mels": 23, "output_size": 12}
    encoder = ResNetEncoder(**small | options)
    for name, value in encoder.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand(value.shape) + (0.5 if "var" in name else -0.5))
    encoder.normalization.mean.uniform_(-30, -20)
    encoder.normalization.deviation.uniform_(10, 20)
    return encoder.eval()


def unmasked(**options):
    return make(time_masks=0, frequency_masks=0, **options)


def batch_of(samples, garbage=0.0, seed=0):
    """Waveforms of the given lengths; whatever lies past an end is `garbage`."""
    torch.manual_seed(seed)
    wavs = [0.1 * torch.randn(n) for n in samples]
    padded = pad_sequence(wavs, batch_first=True, padding_value=garbage)
    return wavs, padded, torch.tensor(samples) / max(samples)


def stock_features(wav):
    return Fbank(n_mels=23, n_fft=1024, win_length=64, hop_length=16)(wav.unsqueeze(0))


def stock_frames(encoder, wav):
    """SpeechBrain's features and blocks, as they are, on one utterance."""
    norm, x = encoder.normalization, stock_features(wav)
    if encoder.center_utterances:
        x = x - x.mean(dim=1)
    x = (x - norm.mean) / norm.deviation
    x = torch.relu(encoder.stem_norm(encoder.stem(x.transpose(1, 2).unsqueeze(1))))
    for block in encoder.blocks:
        x = block(x)
    x = torch.relu(encoder.last_norm(x)).flatten(1, 2)
    return torch.relu(encoder.join_norm(encoder.join(x)))[0].T


@pytest.mark.parametrize("center", [False, True])
def test_frames_of_a_batch_are_speechbrains_of_each_utterance(center):
    encoder = make(center_utterances=center)
    wavs, padded, wav_lens = batch_of([9000, 16000, 4321], garbage=float("nan"))
    frames = encoder(padded, wav_lens)
    assert frames.shape[2] == encoder.output_size == 12
    assert frames.count_nonzero() > 0.2 * frames.numel()
    for wav, of_batch in zip(wavs, frames, strict=True):
        expected = stock_frames(encoder, wav)
        torch.testing.assert_close(of_batch[: len(expected)], expected, atol=1e-4, rtol=0)
        assert not of_batch[len(expected) :].any()


@given(
    samples=st.lists(st.integers(1, 12000), min_size=1, max_size=4),
    hop_ms=st.sampled_from([12.5, 16]),
    strides=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_alone_as_in_a_batch(samples, hop_ms, strides, seed):
    encoder = make(hop_ms=hop_ms, strides=strides)
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
    click = 1e-3 * torch.randn(5119)
    click[-1] = 1.0
    padded = pad_sequence([click, torch.randn(9000)], batch_first=True)
    frames = encoder(padded, torch.tensor([5119 / 9000, 1.0]))
    alone = encoder(click.unsqueeze(0), torch.ones(1))[0]
    torch.testing.assert_close(frames[0, : len(alone)], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050])
def test_frame_counts_are_exact(sample_rate):
    encoder = make(sample_rate=sample_rate)
    for samples in (1, 255, 256, 511, 512, 4000, 12345):
        # Noise and silence.
        frames = encoder(torch.stack([torch.randn(samples), torch.zeros(samples)]))
        assert frames.shape[1] == encoder.frame_lengths(torch.tensor(samples)).item()
        assert torch.isfinite(frames).all()


def test_training_normalises_by_the_valid_frames_seen_so_far():
    encoder = unmasked().train()
    encoder.normalization = type(encoder.normalization)(23)
    seen = []
    for seed in (1, 2):
        wavs, padded, wav_lens = batch_of([3000, 16000, 4321], garbage=9.0, seed=seed)
        encoder(padded, wav_lens)
        seen += [stock_features(wav)[0].numpy() for wav in wavs]
        frames = np.concatenate(seen)
        norm = encoder.normalization
        assert norm.count == len(frames)
        np.testing.assert_allclose(norm.mean.numpy(), frames.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(norm.deviation.numpy(), frames.std(axis=0), rtol=1e-3)
    before = copy.deepcopy(encoder.state_dict())
    encoder.eval()(padded, wav_lens)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_loudness_counts():
    encoder = make()
    wav = 0.1 * torch.randn(1, 8000)
    assert (encoder(wav) - encoder(0.1 * wav)).abs().max() > 0.1


def test_centred_utterances_have_no_gain():
    encoder, wav = make(center_utterances=True), 0.1 * torch.randn(1, 8000)
    torch.testing.assert_close(encoder(0.1 * wav), encoder(wav), atol=1e-4, rtol=0)


def test_batch_statistics_are_those_of_valid_frames():
    encoder = unmasked()
    wavs, padded, wav_lens = batch_of([3000, 16000, 4321])
    # One frame of the stem is two of the features, so three are rounded up.
    norm = encoder.stem_norm
    before = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    trained = copy.deepcopy(encoder).train()
    trained(padded, wav_lens)
    statistics = trained.normalization
    seen = []
    for wav in wavs:
        features = (stock_features(wav) - statistics.mean) / statistics.deviation
        stem = encoder.stem(features.transpose(1, 2).unsqueeze(1))[0]
        seen.append(stem.flatten(1).detach().numpy())
    seen = np.concatenate(seen, axis=1)
    mean = 0.9 * before[0] + 0.1 * seen.mean(axis=1)
    variance = 0.9 * before[1] + 0.1 * seen.var(axis=1, ddof=1)
    np.testing.assert_allclose(trained.stem_norm.running_mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(trained.stem_norm.running_var.numpy(), variance, rtol=1e-4)


def test_padding_changes_no_gradient_and_no_statistic():
    encoder = unmasked().train()

    def step(extra):
        copied = copy.deepcopy(encoder)
        _, padded, wav_lens = batch_of([3000, 8000])
        padded = torch.nn.functional.pad(padded, (0, extra), value=3.0)
        copied(padded, wav_lens * 8000 / (8000 + extra)).square().sum().backward()
        return [p.grad for p in copied.parameters()], [*copied.buffers()]

    for padded, tight in zip(step(4000), step(0), strict=True):
        torch.testing.assert_close(padded, tight, rtol=1e-3, atol=1e-3)


def test_spec_augment_masks_in_training_only_and_follows_the_seed():
    encoder = make(time_masks=1, time_mask_ms=320, frequency_masks=1, frequency_mask_bands=6)
    # So that nothing is zero but what is masked.
    encoder.normalization.eval()
    wav = 0.1 * torch.randn(1, 16000)
    wavs, samples = wav.expand(8, -1), torch.full((8,), 16000)
    lengths = samples // 256 + 1

    def features(seed):
        torch.manual_seed(seed)
        return encoder._features(wavs, samples, lengths)

    assert features(1).ne(0).all()
    encoder.train()
    encoder.normalization.eval()
    masked = features(1).eq(0)
    assert torch.equal(masked, features(1).eq(0))
    assert not torch.equal(masked, features(2).eq(0))
    # Whole rows and whole columns, 20 frames and 6 bands at most in each utterance.
    rows, columns = masked.all(dim=2), masked.all(dim=1)
    assert torch.equal(masked, rows.unsqueeze(2) | columns.unsqueeze(1))
    assert 1 <= rows.sum(dim=1).max() <= 20 and 1 <= columns.sum(dim=1).max() <= 6
    assert len({tuple(row.tolist()) for row in rows}) > 1


def test_gradient_checkpointing_changes_nothing_but_memory():
    _, padded, wav_lens = batch_of([4000, 8000])

    def step(checkpointing):
        encoder = make(gradient_checkpointing=checkpointing).train()
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
    encoder = unmasked().train(training)
    _, padded, wav_lens = batch_of([4000, 8000])
    with torch.no_grad():
        expected = encoder(padded, wav_lens)
        encoder.normalization.load_state_dict(make().normalization.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            frames = encoder(padded, wav_lens)
    assert (frames.float() - expected).norm() / expected.norm() < 0.05
    assert not frames[0, int(encoder.frame_lengths(torch.tensor(4000))) :].any()


@pytest.mark.slow
def test_torch_compile():
    # Tracing takes a second a layer.
    encoder = unmasked().train()
    _, padded, wav_lens = batch_of([4000, 8000])
    stock = copy.deepcopy(encoder)
    expected = stock(padded, wav_lens)
    compiled = torch.compile(encoder, backend="aot_eager")(padded, wav_lens)
    torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)
    for frames in (compiled, expected):
        frames.square().sum().backward()
    for found, wanted in zip(encoder.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-3, rtol=1e-3)


def test_copies_pickles_and_plain_data():
    encoder = make(hop_ms=20)
    _, padded, wav_lens = batch_of([4000, 8000])
    frames = encoder(padded, wav_lens)
    assert torch.equal(copy.deepcopy(encoder)(padded, wav_lens), frames)
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(padded, wav_lens), frames)
    rebuilt = ResNetEncoder.from_config(json.loads(json.dumps(encoder.to_config()))).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(padded, wav_lens), frames)
    assert rebuilt.to_config() == encoder.to_config()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": []}, "channels and strides"),
        ({"strides": [1, 2]}, "channels and strides"),
        ({"strides": [1, 2, 3]}, "strides: expected 1 or 2"),
        ({"hop_ms": 0}, "hop_ms: expected more than 0"),
        ({"hop_ms": 65}, "hop_ms: expected window_ms"),
        ({"sample_rate": -1}, "sample_rate"),
        ({"channels": [4, 0, 4]}, "channels: expected more than 0"),
        ({"time_masks": -1}, "time masks"),
        ({"frequency_mask_bands": 1}, "frequency masks"),
    ],
)
def test_impossible_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        make(**options)
