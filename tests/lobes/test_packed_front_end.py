"""The packed front end against transformers on one utterance, and against the padded form."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from gemoclap_sb.lobes import packed_front_end
from gemoclap_sb.lobes.packed_front_end import can_pack, packed_features
from gemoclap_sb.lobes.padding import front_end_features

SHAPES = {
    "published": ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    "a kernel over three blocks": ((8, 5, 4), (4, 2, 3)),
    "a kernel shorter than its stride": ((4, 2), (2, 3)),
}
LENGTHS = [4001, 400, 2345]
every_front_end = pytest.mark.parametrize(
    ("norm", "bias", "shape"),
    [
        ("group", False, "published"),
        ("layer", True, "published"),
        ("layer", False, "a kernel over three blocks"),
        ("group", False, "a kernel shorter than its stride"),
    ],
)


def make_front_end(norm: str, bias: bool, shape: str = "published") -> Wav2Vec2FeatureEncoder:
    torch.manual_seed(3)
    kernels, strides = SHAPES[shape]
    config = Wav2Vec2Config(
        conv_dim=[8 + i for i in range(len(kernels))],
        conv_kernel=kernels,
        conv_stride=strides,
        feat_extract_norm=norm,
        conv_bias=bias,
    )
    front_end = Wav2Vec2FeatureEncoder(config)
    for name, parameter in front_end.named_parameters():
        if "layer_norm" in name:
            torch.nn.init.normal_(parameter, 1.0)
    return front_end.eval()


class LargestTensor(TorchDispatchMode):
    """Note the elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and not function.is_view:
            self.elements = max(self.elements, output.numel())
        return output


def make_batch() -> torch.Tensor:
    # The padding holds NaN; loudness and offset differ.
    batch = torch.full((len(LENGTHS), max(LENGTHS)), float("nan"))
    for i, length in enumerate(LENGTHS):
        batch[i, :length] = 0.1 * (i + 1) * torch.randn(length) + 0.5 * i
    return batch


@every_front_end
def test_features_and_gradients_are_those_of_each_utterance_alone(norm, bias, shape):
    front_end = make_front_end(norm, bias, shape)
    wavs = make_batch()
    features = packed_features(front_end, wavs, LENGTHS)
    alone = [front_end(wav[None, :length])[0].T for wav, length in zip(wavs, LENGTHS, strict=True)]
    assert features.shape[1] == max(map(len, alone))
    for row, expected in zip(features, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, atol=2e-5, rtol=1e-5)
        assert not row[len(expected) :].any()
    parameters = list(front_end.parameters())
    found = torch.autograd.grad(features.square().sum(), parameters)
    expected = torch.autograd.grad(sum(of.square().sum() for of in alone), parameters)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("most", [1, 3, 1000])
@every_front_end
def test_pieces_without_a_graph_give_what_whole_utterances_give(
    norm, bias, shape, most, monkeypatch
):
    monkeypatch.setattr(packed_front_end, "_PIECE_FRAMES", most)
    front_end = make_front_end(norm, bias, shape)
    wavs = make_batch()
    with torch.no_grad():
        features = packed_features(front_end, wavs, LENGTHS)
        alone = [
            front_end(wav[None, :length])[0].T for wav, length in zip(wavs, LENGTHS, strict=True)
        ]
    assert features.shape[1] == max(map(len, alone))
    for row, expected in zip(features, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, atol=2e-5, rtol=1e-5)
        assert not row[len(expected) :].any()


def test_without_a_graph_a_longer_utterance_makes_no_larger_tensor():
    config = Wav2Vec2Config(conv_dim=[128] * 7)
    front_end = Wav2Vec2FeatureEncoder(config).eval()
    largest = []
    for seconds in (4, 16):
        with torch.no_grad(), LargestTensor() as seen:
            packed_features(front_end, torch.randn(1, 16000 * seconds), [16000 * seconds])
        largest.append(seen.elements)
    assert largest[0] == largest[1] < 3200 * 4 * 128


@pytest.mark.parametrize(("norm", "bias"), [("group", False), ("layer", True)])
def test_the_padded_form_for_gpus_gives_the_same(norm, bias):
    front_end = make_front_end(norm, bias)
    wavs = make_batch().nan_to_num(0.0)
    packed = packed_features(front_end, wavs, LENGTHS)
    padded = front_end_features(front_end, wavs, torch.tensor(LENGTHS))
    for one, other, count in zip(packed, padded, packed.any(-1).sum(1).tolist(), strict=True):
        torch.testing.assert_close(one[:count], other[:count], atol=2e-5, rtol=1e-5)


def test_statistics_stay_exact_far_from_zero():
    # Mean squares minus squared means would lose everything here.
    front_end = make_front_end("group", False)
    wav = 1000.0 + torch.randn(1, 4000)
    expected = make_front_end("group", False).double()(wav.double())[0].T
    found = packed_features(front_end, wav, [4000])[0]
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=1e-3)


def test_half_precision_rounds_products_and_no_statistics():
    front_end = make_front_end("group", False)
    wavs = make_batch()
    with torch.no_grad():
        expected = packed_features(front_end, wavs, LENGTHS)
        with torch.autocast("cpu", torch.bfloat16):
            found = packed_features(front_end, wavs, LENGTHS)
    assert 0 < (found - expected).abs().max() <= 0.05 * expected.abs().max()


def test_a_bias_before_a_group_norm_takes_the_padded_form():
    wavs = torch.zeros(1, 4000)
    assert not can_pack(make_front_end("group", True), wavs)
    assert can_pack(make_front_end("group", False), wavs)
    assert not can_pack(make_front_end("group", False), wavs.to("meta"))
