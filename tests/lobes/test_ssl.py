"""SSLEncoder's numbers against transformers on the single unpadded utterance."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoModel

from gemoclap_sb.lobes import MaskedMeanPooling, SSLEncoder
from tests.small_models import FAMILIES, NORMS

COMBINATIONS = [(family, norm) for family in FAMILIES for norm in NORMS]
LENGTHS = [16000, 5321, 400, 48007]
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
every_kind = pytest.mark.parametrize(("family", "norm"), COMBINATIONS)


def make_wavs(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Loudness and offset differ, which the normalisation has to undo per utterance.
    return [
        0.1 * (i + 1) * torch.randn(length, generator=generator) + 0.02 * i
        for i, length in enumerate(lengths)
    ]


def pad(
    wavs: list[torch.Tensor], filler: float = float("nan")
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, wavs))
    batch = torch.full((len(wavs), longest), filler)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    return batch, torch.tensor([len(wav) / longest for wav in wavs])


@functools.cache
def load_oracle(folder: Path) -> tuple[object, torch.nn.Module]:
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return AutoFeatureExtractor.from_pretrained(folder), model


def oracle(folder: Path, wav: torch.Tensor) -> torch.Tensor:
    extractor, model = load_oracle(folder)
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    return model(inputs.input_values).last_hidden_state[0]


@every_kind
def test_batched_frames_equal_transformers_alone(small_ssl, tmp_path, family, norm):
    folder = small_ssl(family, norm)
    lobe = SSLEncoder(folder, tmp_path).eval()
    wavs = make_wavs(LENGTHS)
    batch, wav_lens = pad(wavs)
    with torch.no_grad():
        frames = lobe(batch, wav_lens)
        counts = lobe.frame_lengths(torch.tensor(LENGTHS)).tolist()
        assert frames.shape == (4, counts[3], lobe.output_size)
        for row, wav, count in zip(frames, wavs, counts, strict=True):
            expected = oracle(folder, wav)
            assert expected.shape[0] == count
            torch.testing.assert_close(row[:count], expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(lobe(wav[None])[0], expected, atol=1e-4, rtol=0)
            assert torch.equal(row[count:], torch.zeros_like(row[count:]))


@every_kind
def test_batched_gradients_equal_transformers_alone(small_ssl, tmp_path, family, norm):
    folder = small_ssl(family, norm, **NO_DROPOUT)
    lobe = SSLEncoder(folder, tmp_path)  # in training mode, as it is used
    _, model = load_oracle(folder)
    model.zero_grad()
    wavs = make_wavs([16000, 5321, 9000])
    target = torch.linspace(-1, 1, lobe.output_size)
    frames = lobe(*pad(wavs))
    (frames @ target).sum().backward()
    for wav in wavs:
        (oracle(folder, wav) @ target).sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    checked = 0
    for name, parameter in lobe.model.named_parameters():
        if parameter.requires_grad:
            # A bias that the softmax ignores has rounding errors for a gradient.
            tolerance = 1e-3 * expected[name].abs().max() + 1e-6 * largest
            assert (parameter.grad - expected[name]).abs().max() <= tolerance, name
            checked += 1
    assert checked >= len(expected) - 1  # all but SpecAugment's embedding


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(COMBINATIONS),
    lengths=st.lists(st.integers(400, 160_000), min_size=2, max_size=4),
    chosen=st.integers(0, 3),
    random=st.randoms(use_true_random=False),
)
def test_an_utterance_is_the_same_in_any_batch(small_ssl, kind, lengths, chosen, random):
    lobe = _lobe(small_ssl(*kind))
    pooling = MaskedMeanPooling(lobe.output_size)
    wavs = make_wavs(lengths, seed=sum(lengths))
    wav = wavs[chosen % len(wavs)]
    random.shuffle(wavs)
    row = next(i for i, other in enumerate(wavs) if other is wav)
    count = lobe.frame_lengths(torch.tensor([len(wav)]))
    with torch.no_grad():
        alone = lobe(wav[None])
        together = lobe(*pad(wavs, filler=7.0))[row, None]
        difference = (together[:, : int(count)] - alone).abs().max()
        pooled = (pooling(together, count) - pooling(alone, count)).abs().max()
    assert difference <= 1e-4
    assert pooled <= 1e-4
    assert not together[:, int(count) :].any()


@functools.cache
def _lobe(folder: Path) -> SSLEncoder:
    return SSLEncoder(folder, folder / "cache").eval()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("length", [1, 399, 400])
def test_short_utterance_is_refused_or_padded(small_ssl, tmp_path, norm, length):
    folder = small_ssl("wavlm", norm)
    wavs = make_wavs([8000, length])
    if length < 400:
        with pytest.raises(ValueError, match=rf"400 samples \(25 ms.*found {length} in row 1"):
            SSLEncoder(folder, tmp_path)(*pad(wavs))
    lobe = SSLEncoder(folder, tmp_path, pad_short=True).eval()
    with torch.no_grad():
        together, alone = lobe(*pad(wavs)), lobe(wavs[1][None])
    assert lobe.frame_lengths(torch.tensor([8000, length])).tolist() == [24, 1]
    assert alone.shape[1] == 1 and together[1, 0].any() and not together[1, 1:].any()
    torch.testing.assert_close(together[1, :1], alone[0], atol=1e-4, rtol=0)


def test_hubert_with_batch_norm_before_its_positional_convolution(small_ssl, tmp_path):
    folder = small_ssl("hubert", "group", conv_pos_batch_norm=True)
    lobe = SSLEncoder(folder, tmp_path)
    wavs = make_wavs([9000, 4000])
    lobe(*pad(wavs))  # moves the running statistics off zero and one, as training does
    statistics = lobe.model.encoder.pos_conv_embed.batch_norm.running_mean
    assert statistics.any() and statistics.isfinite().all()
    lobe.eval()
    with torch.no_grad():
        alone, together = lobe(wavs[1][None])[0], lobe(*pad(wavs))[1]
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "attention"),
    [("wavlm", "flex"), *itertools.product(FAMILIES, ["sdpa", "eager"])],
)
def test_attention_implementations_agree(small_ssl, tmp_path, family, attention):
    folder = small_ssl(family, "group")
    lobe = SSLEncoder(folder, tmp_path, attention=attention).eval()
    wavs = make_wavs([60000, 9000])
    with torch.no_grad():
        frames = lobe(*pad(wavs))
        for row, wav in zip(frames, wavs, strict=True):
            expected = oracle(folder, wav)
            torch.testing.assert_close(row[: len(expected)], expected, atol=1e-4, rtol=0)


@every_kind
def test_layers_are_transformers_hidden_states(small_ssl, tmp_path, family, norm):
    folder = small_ssl(family, norm, layers=3)
    extractor, model = load_oracle(folder)
    wav = make_wavs([6000])[0]
    values = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        output = model(values, output_hidden_states=True)
        states = [*output.hidden_states[:3], output.last_hidden_state]
        for layer in (1, 2, 3):
            lobe = SSLEncoder(folder, tmp_path, layers=layer).eval()
            assert len(lobe.model.encoder.layers) == layer
            torch.testing.assert_close(lobe(wav[None]), states[layer], atol=1e-4, rtol=0)
        lobe = SSLEncoder(folder, tmp_path, layers="weighted").eval()
        lobe.layer_weights.copy_(torch.tensor([0.3, -1.0, 0.5, 2.0]))
        weights = torch.tensor([0.3, -1.0, 0.5, 2.0]).softmax(0)
        expected = sum(w * state for w, state in zip(weights, states, strict=True))
        torch.testing.assert_close(lobe(wav[None]), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="from 1 to 3 in .*found 4"):
        SSLEncoder(folder, tmp_path, layers=4)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_normalisation_follows_the_preprocessor(small_ssl, tmp_path, do_normalize):
    source = small_ssl("wav2vec2", "layer")
    lobe = SSLEncoder(source, tmp_path, normalize_wav=do_normalize).eval()
    wav = make_wavs([4000])[0] + 0.5
    extractor, model = load_oracle(source)
    extractor = type(extractor)(do_normalize=do_normalize)
    extractor.save_pretrained(tmp_path / "model")
    load_oracle(source)[1].save_pretrained(tmp_path / "model")
    read = SSLEncoder(tmp_path / "model", tmp_path).eval()
    values = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(values).last_hidden_state
        torch.testing.assert_close(lobe(wav[None]), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(read(wav[None]), expected, atol=1e-4, rtol=0)


def test_spec_augment_masks_inside_utterances_and_only_in_training(small_ssl, tmp_path):
    folder = small_ssl("wavlm", "layer", mask_time_prob=0.5, hidden_dropout=0.0)
    lobe = SSLEncoder(folder, tmp_path, apply_spec_augment=True, attention_dropout=0.0)
    batch = pad(make_wavs([16000, 5000]))
    lobe.model.feature_projection.dropout.p = 0.0
    for layer in lobe.model.encoder.layers:
        layer.feed_forward.intermediate_dropout.p = 0.0
    masked = lobe(*batch)
    lobe.eval()
    plain = lobe(*batch)
    assert (masked - plain).abs().amax(-1)[1, :15].max() > 1e-3
    assert not masked[1, 15:].any()
    torch.testing.assert_close(lobe(*batch), plain, atol=0, rtol=0)
    lobe.train()
    lobe(torch.randn(1, 400)).sum().backward()  # shorter than one span of the mask
    assert lobe.model.masked_spec_embed.grad is not None


def test_batch_shape_is_checked(small_ssl, tmp_path):
    lobe = _lobe(small_ssl("wavlm", "layer"))
    with pytest.raises(ValueError, match="expected \\[batch, samples\\]"):
        lobe(torch.randn(2, 16000, 1), torch.ones(2))


def test_a_batch_of_unlike_lengths_is_computed_without_its_padding(small_ssl, tmp_path):
    lobe = SSLEncoder(small_ssl(), tmp_path).eval()
    widths = []
    lobe.model.encoder.layers[0].register_forward_pre_hook(
        lambda module, inputs: widths.append(tuple(inputs[0].shape[:2]))
    )
    wavs = make_wavs([64000, 16000, 64000, 15000, 15800])
    with torch.no_grad():
        frames = lobe(*pad(wavs))
    assert frames.shape[:2] == (5, 199)
    assert sorted(widths) == [(2, 199), (3, 49)]
    torch.testing.assert_close(frames[3, :46], lobe(wavs[3][None])[0], atol=1e-5, rtol=0)


def test_statistics_over_a_batch_keep_it_whole(small_ssl, tmp_path):
    folder = small_ssl("hubert", "group", conv_pos_batch_norm=True)
    lobe = SSLEncoder(folder, tmp_path)
    seen = []
    norm = next(m for m in lobe.modules() if isinstance(m, torch.nn.BatchNorm1d))
    norm.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel() // lobe.output_size)
    )
    batch = pad(make_wavs([64000, 16000]))
    lobe.train()(*batch)
    assert seen == [199 + 49]
    lobe.eval()(*batch)
    assert sorted(seen[1:]) == [49, 199]
