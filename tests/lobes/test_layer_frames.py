"""Frames of intermediate layers: SSLEncoder's against transformers', the SE-ResNet's by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.lobes import ResNetEncoder, SSLEncoder
from tests.lobes import test_resnet
from tests.lobes.test_ssl import LENGTHS, every_kind, load_oracle, make_wavs, pad

STRIDES = [2, 2, 1]


@every_kind
@torch.no_grad()
def test_frames_of_a_batch_are_transformers_hidden_states_alone(small_ssl, tmp_path, family, norm):
    folder = small_ssl(family, norm, layers=3)
    lobe = SSLEncoder(folder, tmp_path).eval()
    assert lobe.depth == 3
    extractor, model = load_oracle(folder)
    wavs = make_wavs(LENGTHS)
    # Out of order, so that the order of the request counts.
    frames = lobe.layer_frames(*pad(wavs), [3, 1, 2])
    counts = lobe.frame_lengths(torch.tensor(LENGTHS)).tolist()
    assert frames.shape == (4, max(counts), 3 * lobe.output_size)
    for row, wav, count in zip(frames, wavs, counts, strict=True):
        values = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        output = model(values, output_hidden_states=True)
        # The last one is the model's output: after the last norm, where there is one.
        states = [output.last_hidden_state, *output.hidden_states[1:3]]
        expected = torch.cat(states, dim=-1)[0]
        torch.testing.assert_close(row[:count], expected, atol=1e-4, rtol=0)
        alone = lobe.layer_frames(wav[None], None, [3, 1, 2])[0]
        torch.testing.assert_close(alone, expected, atol=1e-4, rtol=0)
        assert not row[count:].any()


@torch.no_grad()
def test_layers_behind_the_last_wanted_one_do_not_run(small_ssl, tmp_path):
    lobe = SSLEncoder(small_ssl("wavlm", "layer", layers=3), tmp_path).eval()
    ran = []
    for layer in lobe.model.encoder.layers:
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    lobe.layer_frames(torch.randn(1, 4000), None, [1])
    assert ran == [lobe.model.encoder.layers[0]]


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, "weighted"])
def test_options_of_the_output_change_no_layer(small_ssl, tmp_path, layers):
    folder, batch = small_ssl("wavlm", "layer", layers=3), pad(make_wavs([9000, 4000]))
    lobe = SSLEncoder(folder, tmp_path, layers=layers).eval()
    assert lobe.depth == (1 if layers == 1 else 3)
    expected = SSLEncoder(folder, tmp_path).eval().layer_frames(*batch, [1])
    torch.testing.assert_close(lobe.layer_frames(*batch, [1]), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_short_utterance_has_its_one_frame(small_ssl, tmp_path):
    lobe = SSLEncoder(small_ssl(), tmp_path, pad_short=True).eval()
    assert lobe.layer_frames(torch.randn(1, 100), None, [1, 2]).shape == (1, 1, 64)


def by_hand(encoder: ResNetEncoder, wav: torch.Tensor, layers: list[int]) -> torch.Tensor:
    """SpeechBrain's blocks, as they are, on one utterance; then a mean for each output frame."""
    outputs = []
    hooks = [
        block.register_forward_hook(lambda *given: outputs.append(given[2][0]))
        for block in encoder.blocks
    ]
    count = len(test_resnet.stock_frames(encoder, wav))
    for hook in hooks:
        hook.remove()
    frames = []
    for place in range(count):
        parts = []
        for layer in layers:
            x, left = outputs[layer - 1], 1
            for stride in STRIDES[layer:]:
                left *= stride
            covered = x[:, :, place * left : (place + 1) * left]
            parts.append(covered.mean(dim=2).flatten())
        frames.append(torch.cat(parts))
    return torch.stack(frames)


@torch.no_grad()
def test_frames_of_blocks_are_means_at_the_rate_of_the_output():
    encoder = test_resnet.make(strides=STRIDES)
    assert encoder.depth == 3
    wavs, padded, wav_lens = test_resnet.batch_of([9000, 16000, 4321], garbage=float("nan"))
    for layers in ([1], [2, 3], [3, 1]):
        frames = encoder.layer_frames(padded, wav_lens, layers)
        assert frames.shape[:2] == encoder(padded, wav_lens).shape[:2]
        for wav, row in zip(wavs, frames, strict=True):
            expected = by_hand(encoder, wav, layers)
            assert expected.shape[1] == frames.shape[2]
            torch.testing.assert_close(row[: len(expected)], expected, atol=1e-4, rtol=0)
            assert not row[len(expected) :].any()


@given(
    samples=st.lists(st.integers(1, 12000), min_size=1, max_size=4),
    strides=st.lists(st.integers(1, 2), min_size=3, max_size=3),
)
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_alone_as_in_a_batch(samples, strides):
    encoder = test_resnet.make(strides=strides)
    wavs, padded, wav_lens = test_resnet.batch_of(samples, garbage=7.0)
    frames = encoder.layer_frames(padded, wav_lens, [1, 2, 3])
    for wav, row in zip(wavs, frames, strict=True):
        alone = encoder.layer_frames(wav[None], None, [1, 2, 3])[0]
        assert len(alone) == encoder.frame_lengths(torch.tensor(len(wav)))
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-4, rtol=0)
        assert not row[len(alone) :].any()


@pytest.mark.parametrize("layers", [[], [0], [1, 4], ["1"], [True]])
def test_layers_that_are_none_are_named(small_ssl, tmp_path, layers):
    lobes = [test_resnet.make(), SSLEncoder(small_ssl("wavlm", "layer", layers=3), tmp_path)]
    for lobe in lobes:
        with pytest.raises(ValueError, match="layers: expected .* from 1 to 3, found"):
            lobe.layer_frames(torch.randn(1, 4000), None, layers)
