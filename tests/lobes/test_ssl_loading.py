"""What SSLEncoder loads, refuses and rebuilds."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemoclap_sb.lobes import SSLEncoder
from tests.lobes.test_ssl import every_kind, make_wavs, pad


@pytest.fixture
def folder(small_ssl, tmp_path):
    """A copy of the small WavLM that a test may spoil."""
    return shutil.copytree(small_ssl(), tmp_path / "copy")


def edit_weights(folder, change) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 1, "freeze": True},
        {"layers": "weighted", "freeze_feature_extractor": True, "pad_short": True},
        {"adapter": "lora", "adapter_options": {"rank": 2}},
        {"apply_spec_augment": True, "attention_dropout": 0.0, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_configuration_rebuilds_the_module(small_ssl, tmp_path, family, norm, options):
    source = small_ssl(family, norm)
    lobe = SSLEncoder(source, tmp_path, **options).eval()
    text = json.dumps(lobe.to_config())
    assert str(source) not in text and str(tmp_path) not in text
    rebuilt = SSLEncoder.from_config(json.loads(text)).eval()
    assert list(rebuilt.state_dict()) == list(lobe.state_dict())
    assert rebuilt.to_config() == lobe.to_config()
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (lobe, rebuilt)]
    assert trained[0] == trained[1]
    batch = pad(make_wavs([4000, 2000]))
    rebuilt.load_state_dict(lobe.state_dict())
    torch.testing.assert_close(rebuilt(*batch), lobe(*batch), atol=0, rtol=0)


def test_configuration_with_an_unknown_key_is_refused(small_ssl, tmp_path):
    config = SSLEncoder(small_ssl(), tmp_path).to_config()
    with pytest.raises(ValueError, match="unknown: \\['frozen'\\]"):
        SSLEncoder.from_config(config | {"frozen": True})
    del config["model"]
    with pytest.raises(ValueError, match="'model'"):
        SSLEncoder.from_config(config)


def test_published_weight_norm_names_load(folder, tmp_path):
    expected = SSLEncoder(folder, tmp_path).state_dict()
    prefix = "encoder.pos_conv_embed.conv."

    def rename(weights):
        weights[prefix + "weight_g"] = weights.pop(prefix + "parametrizations.weight.original0")
        weights[prefix + "weight_v"] = weights.pop(prefix + "parametrizations.weight.original1")
        # Checkpoints of a task model prefix the encoder and add heads.
        weights = {"wavlm." + name: value for name, value in weights.items()}
        return weights | {"lm_head.weight": torch.zeros(3, 32)}

    edit_weights(folder, rename)
    found = SSLEncoder(folder, tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_half_precision_checkpoint_is_loaded_in_float32(folder, tmp_path):
    edit_weights(folder, lambda weights: {n: w.bfloat16() for n, w in weights.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    lobe = SSLEncoder(folder, tmp_path)
    assert {parameter.dtype for parameter in lobe.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "loads"),
    [("masked_spec_embed", True), ("encoder.layers.1.attention.q_proj.weight", False)],
)
def test_missing_weights_are_an_error(folder, tmp_path, name, loads):
    edit_weights(folder, lambda weights: {n: w for n, w in weights.items() if n != name})
    if loads:
        SSLEncoder(folder, tmp_path)
        with pytest.raises(ValueError, match=name):
            SSLEncoder(folder, tmp_path, apply_spec_augment=True)
    else:
        with pytest.raises(ValueError, match=f"{folder}: expected weights.*{name}"):
            SSLEncoder(folder, tmp_path)


def test_preprocessor_is_needed_unless_told(folder, tmp_path):
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"sampling_rate": 8000}))
    with pytest.raises(ValueError, match="16000 Hz, found 8000 Hz"):
        SSLEncoder(folder, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="preprocessor_config.json.*normalize_wav=True or False"):
        SSLEncoder(folder, tmp_path)
    SSLEncoder(folder, tmp_path, normalize_wav=True)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    remote = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config | remote))
    with pytest.raises(ValueError):
        SSLEncoder(folder, tmp_path)
    with pytest.raises(TypeError, match="trust_remote_code"):
        SSLEncoder(folder, tmp_path, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


def test_speechbrain_checkpoint_is_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "wav2vec2.ckpt")
    with pytest.raises(ValueError, match="transformers' format.*wav2vec2.ckpt"):
        SSLEncoder(folder, tmp_path)


def test_other_model_types_and_conv_adapters_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"add_adapter": True}))
    with pytest.raises(ValueError, match="add_adapter"):
        SSLEncoder(folder, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="wavlm, hubert, wav2vec2, data2vec-audio, found 'bert'"):
        SSLEncoder(folder, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers: .*found 0"),
        ({"layers": True}, "layers: .*found True"),
        ({"layers": "first"}, "layers: .*found 'first'"),
        ({"attention": "flash"}, "attention: .*found 'flash'"),
        ({"attention_dropout": 1.0}, "attention_dropout: .*found 1.0"),
        ({"adapter": "houlsby"}, "adapter: .*found 'houlsby'"),
        ({"adapter": "lora", "freeze": True}, "freeze: expected False"),
        ({"adapter": "lora", "attention": "eager"}, "attention: .*found 'eager'"),
        ({"adapter_options": {"rank": 2}}, "adapter_options: expected adapter"),
        (
            {"adapter": "lora", "adapter_options": {"target_layers": ["x"]}},
            "target_layers: .*no layer",
        ),
        (
            {"adapter": "lora", "adapter_options": {"target_layers": ["encoder"]}},
            "found .'encoder'.",
        ),
    ],
    ids=str,
)
def test_wrong_options_say_what_is_wrong(small_ssl, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SSLEncoder(small_ssl(), tmp_path, **options)


def test_options_that_this_checkpoint_cannot_serve(small_ssl, tmp_path):
    with pytest.raises(ValueError, match="'flex', which is for WavLM"):
        SSLEncoder(small_ssl("hubert"), tmp_path, attention="flex")
    with pytest.raises(ValueError, match="mask_time_prob and mask_feature_prob are both 0"):
        SSLEncoder(small_ssl("hubert", mask_time_prob=0.0), tmp_path, apply_spec_augment=True)
