"""Encoders alone in folders: read by stock transformers, and by the lobes that begin from them."""

from __future__ import annotations

import json
import stat

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from gemoclap_sb.lobes import ResNetEncoder, SSLEncoder
from gemoclap_sb.lobes.encoder_folders import EncoderFolderError, load_encoder, write_encoder
from gemoclap_sb.lobes.run_encoders import encoder_folder
from tests.lobes import test_resnet
from tests.lobes.test_ssl import every_kind, make_wavs, pad


def trained(lobe: torch.nn.Module) -> torch.nn.Module:
    """The lobe with other weights than it was loaded with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lobe.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return lobe.eval()


@every_kind
@torch.no_grad()
def test_stock_transformers_reads_what_a_lobe_has_learnt(small_ssl, tmp_path, family, norm):
    lobe = trained(SSLEncoder(small_ssl(family, norm), tmp_path, normalize_wav=norm == "layer"))
    before = torch.random.get_rng_state()
    write_encoder(lobe, tmp_path / "run/encoder")
    assert torch.equal(before, torch.random.get_rng_state())
    assert sorted(path.name for path in (tmp_path / "run/encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert str(tmp_path) not in (tmp_path / "run/encoder/config.json").read_text()
    model, report = AutoModel.from_pretrained(
        tmp_path / "run/encoder", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run/encoder")
    assert extractor.do_normalize == (norm == "layer")
    wavs = make_wavs([9000, 4000])
    for wav in wavs:
        values = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        expected = model.eval()(values, output_hidden_states=True)
        states = torch.cat([expected.hidden_states[1], expected.last_hidden_state], dim=-1)
        found = lobe.layer_frames(wav[None], None, [1, 2])
        torch.testing.assert_close(found, states, atol=1e-4, rtol=0)
    # By the run or by the folder itself.
    for source in (tmp_path / "run", tmp_path / "run/encoder"):
        again = SSLEncoder(source, tmp_path / "cache").eval()
        assert again.options["normalize_wav"] == (norm == "layer")
        assert torch.equal(again(*pad(wavs)), lobe(*pad(wavs)))


@torch.no_grad()
def test_of_a_weighted_sum_the_model_is_written(small_ssl, tmp_path):
    lobe = trained(SSLEncoder(small_ssl(), tmp_path, layers="weighted", freeze=True))
    write_encoder(lobe, tmp_path / "encoder")
    again = SSLEncoder(tmp_path / "encoder", tmp_path).eval()
    wav = torch.randn(1, 4000)
    assert torch.equal(again(wav), lobe.layer_frames(wav, None, [2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"adapter": "lora"}, "adapter: an encoder with LoRA"), ({"layers": 1}, "1 of its 2 layers")],
)
def test_what_is_not_transformers_model_is_refused(small_ssl, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_encoder(SSLEncoder(small_ssl(), tmp_path, **options), tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_lobes_of_others_are_refused(small_ssl, tmp_path):
    class Own(SSLEncoder):
        """Somebody's, who may do more than its options say."""

    for lobe in (Own(small_ssl(), tmp_path), torch.nn.Linear(2, 3)):
        with pytest.raises(ValueError, match=f"{type(lobe).__name__}: expected an audio encoder"):
            write_encoder(lobe, tmp_path / "encoder")
    write_encoder(test_resnet.make(), tmp_path / "encoder")
    with pytest.raises(EncoderFolderError, match="found Linear"):
        load_encoder(torch.nn.Linear(2, 3), tmp_path)
    with pytest.raises(ValueError, match="encoder: expected a folder in transformers' format"):
        SSLEncoder(tmp_path, tmp_path)


@torch.no_grad()
def test_a_resnet_begins_from_what_another_has_learnt(tmp_path):
    encoder = test_resnet.make()
    folder = tmp_path / "gmp/stage_one/encoder"
    write_encoder(encoder, folder)
    # Tensors in the file have their usual order, whatever the memory format of the module.
    stored = load_file(folder / "model.safetensors")
    assert encoder.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert stored.keys() == encoder.state_dict().keys()
    assert all(torch.equal(stored[name], of) for name, of in encoder.state_dict().items())
    assert (folder / "model.safetensors").stat().st_mode & stat.S_IRGRP
    _, padded, wav_lens = test_resnet.batch_of([4000, 8000])
    expected = encoder(padded, wav_lens)
    for source in (folder, str(tmp_path / "gmp")):
        # Another SpecAugment, and memory spared: it hears the same.
        other = ResNetEncoder(
            **encoder.to_config() | {"time_masks": 3, "gradient_checkpointing": True}
        ).eval()
        assert not torch.allclose(other(padded, wav_lens), expected)
        load_encoder(other, source)
        assert torch.equal(other(padded, wav_lens), expected)


def test_a_folder_that_stood_there_is_replaced(tmp_path):
    for size in (4, 8):
        write_encoder(ResNetEncoder(channels=[size], strides=[2]), tmp_path / "encoder")
    load_encoder(ResNetEncoder(channels=[8], strides=[2]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"channels": [4, 8, 16]}, r"channels \(there \[4, 8, 8\], here \[4, 8, 16\]\)$"),
        ({"hop_ms": 20, "time_masks": 2}, r"arguments: hop_ms \(there 16, here 20\)$"),
    ],
)
def test_other_arguments_are_named(tmp_path, options, told):
    write_encoder(test_resnet.make(), tmp_path / "encoder")
    other = test_resnet.make(**options)
    before = {name: of.clone() for name, of in other.state_dict().items()}
    with pytest.raises(EncoderFolderError, match=told):
        load_encoder(other, tmp_path)
    assert all(torch.equal(before[name], of) for name, of in other.state_dict().items())


def test_no_folder_and_other_folders(small_ssl, tmp_path):
    encoder = test_resnet.make()
    with pytest.raises(EncoderFolderError, match="expected a run that has an encoder/ folder"):
        load_encoder(encoder, tmp_path)
    with pytest.raises(EncoderFolderError, match="found transformers' wavlm"):
        load_encoder(encoder, small_ssl())
    write_encoder(encoder, tmp_path / "encoder")
    path = tmp_path / "encoder/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"class": "Other"}))
    with pytest.raises(EncoderFolderError, match="expected a ResNetEncoder.*found a Other"):
        load_encoder(encoder, tmp_path)
    path.write_text("{")
    with pytest.raises(EncoderFolderError, match="config.json is damaged"):
        load_encoder(encoder, tmp_path)


def test_damaged_weights(tmp_path):
    encoder = test_resnet.make()
    write_encoder(encoder, tmp_path / "encoder")
    path = tmp_path / "encoder/model.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"\x80\x04pickle", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(EncoderFolderError, match="none or a damaged file") as caught:
            load_encoder(encoder, tmp_path)
        assert "\n" not in str(caught.value)
    other = ResNetEncoder(channels=[4], strides=[2], n_mels=23, output_size=12)
    write_encoder(other, tmp_path / "other")
    path.write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    with pytest.raises(EncoderFolderError, match="missing, unknown or of another shape: blocks"):
        load_encoder(encoder, tmp_path)


def test_only_runs_are_resolved(tmp_path):
    assert encoder_folder("microsoft/wavlm-large") == "microsoft/wavlm-large"
    assert encoder_folder(tmp_path) == str(tmp_path)
    (tmp_path / "encoder").mkdir()
    assert encoder_folder(tmp_path) == str(tmp_path)
    for place in ("stage_one/encoder", "encoder"):
        write_encoder(test_resnet.make(), tmp_path / place)
        assert encoder_folder(tmp_path) == str(tmp_path / place)
