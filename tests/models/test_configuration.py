from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, WavLMConfig

from gemoclap_sb.lobes import ByteTextEncoder, MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import ConfigurationError, build_model, model_config
from gemoclap_sb.models.configuration import (
    build_prompts,
    read_config,
    run_config,
    write_run_config,
)
from gemoclap_sb.models.gemoclap import GEmoCLAP
from tests.run_folders import make_prompts, pretrained_model, scratch_model


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A model whose encoders' folders are gone, as on another machine."""
    folder = tmp_path_factory.mktemp("encoders")
    model = pretrained_model(folder, layers="weighted", adapter="lora")
    run = tmp_path_factory.mktemp("run")
    write_run_config(run, model, make_prompts())
    shutil.rmtree(folder)
    return model, run


@pytest.fixture
def scratch_config():
    return run_config(scratch_model(), make_prompts())


def outputs(model):
    wavs = torch.sin(torch.arange(2 * 8000.0).view(2, -1) ** 1.3)
    with torch.no_grad():
        audio = model.encode_audio(wavs, torch.tensor([1.0, 0.6]))
        return audio, model.encode_text(["this person sounds sad", "so happy"])


def assert_same_model(built, model):
    built.load_state_dict(model.state_dict())
    for found, expected in zip(outputs(built.eval()), outputs(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert built.heads == model.heads


def test_scratch_model_is_built_again_from_json(scratch_config):
    model = scratch_model()
    built = build_model(json.loads(json.dumps(scratch_config))["model"])
    assert_same_model(built, model)
    assert built.text_projection.layers[2].p == model.text_projection.layers[2].p


def test_dropout_heads_and_sizes_are_kept():
    model = GEmoCLAP(
        ResNetEncoder(n_mels=20, channels=[4, 8], strides=[1, 2]),
        ByteTextEncoder(hidden_size=16, heads=2),
        embedding_size=8,
        hidden_size=12,
        heads=["emotion", "gender"],
        dropout=0.25,
    ).eval()
    built = build_model(model_config(model))
    assert_same_model(built, model)
    assert repr(built) == repr(model)


def test_pretrained_model_is_built_without_its_folders(pretrained):
    model, run = pretrained
    config = read_config(run / "config.json")
    assert_same_model(build_model(config["model"], run / "tokenizer"), model)


def test_config_names_no_path(pretrained, tmp_path):
    _, run = pretrained
    for path in run.rglob("*"):
        if path.is_file():
            assert "/tmp" not in path.read_text(encoding="utf-8"), path


def test_rewriting_keeps_one_tokenizer(pretrained):
    model, run = pretrained
    before = sorted(path.name for path in run.rglob("*"))
    write_run_config(run, model, make_prompts())
    assert sorted(path.name for path in run.rglob("*")) == before


def test_keys_of_the_checkpoints_authors_are_left_out(tmp_path):
    model = pretrained_model(tmp_path)
    model.audio_encoder.config.mask_channel_length = 10
    config = model_config(model)
    assert "mask_channel_length" not in config["audio_encoder"]["config"]["model"]
    build_model(config, _tokenizer(model, tmp_path))


def _tokenizer(model, folder):
    model.text_encoder.save_tokenizer(folder / "tokenizer")
    return folder / "tokenizer"


def test_prompts_come_back_in_the_order_of_labels(scratch_config, tmp_path):
    shuffled = json.loads(json.dumps(scratch_config, sort_keys=True))
    shuffled["words"]["emotion"] = dict(reversed(shuffled["words"]["emotion"].items()))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(shuffled))
    prompts = build_prompts(read_config(path))
    assert prompts.class_sentences("emotion") == make_prompts().class_sentences("emotion")
    assert list(prompts.words["emotion"]) == ["ang", "hap", "neu", "sad"]


class ForeignLobe(nn.Module):
    output_size = 4


class SubclassedLobe(ResNetEncoder):
    pass


@pytest.mark.parametrize("lobe", [ForeignLobe(), SubclassedLobe()])
def test_foreign_lobe_trains_with_a_recorded_reason(lobe, tmp_path):
    model = GEmoCLAP(lobe, ByteTextEncoder(hidden_size=16, heads=2), embedding_size=8)
    path = write_run_config(tmp_path, model, make_prompts())
    with pytest.raises(
        ConfigurationError, match=f"config.json: audio_encoder: .*{type(lobe).__name__}"
    ):
        read_config(path)


def test_cross_entropy_baseline_is_built_again():
    lobe = ResNetEncoder(channels=[8], strides=[2])
    pooling = MaskedMeanPooling(lobe.output_size)
    model = AudioClassifier(lobe, pooling, 4, dropout=0.2, trim_db=30, tta_speeds=[90, 100]).eval()
    config = json.loads(json.dumps(run_config(model, make_prompts())))
    assert config["templates"] == {}
    built = build_model(config["model"]).eval()
    built.load_state_dict(model.state_dict())
    wavs, lengths = torch.randn(2, 8000), torch.tensor([1.0, 0.5])
    found, expected = (of(wavs, lengths)["emotion"].logits for of in (built, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert repr(built) == repr(model)


def _change(config, keys, value):
    *parents, last = keys
    for key in parents:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["format"], "other", '"format": "gemoclap_sb"'),
        (["format_version"], 2, "expected format_version 1, found 2"),
        (["surprise"], 1, r"unknown keys \['surprise'\]"),
        (["sample_rate"], "16 kHz", "Field 'sample_rate' expected int, got str"),
        (["labels", "emotion"], ["ang"], "a word for each of the labels"),
        (["labels"], [], "Field 'labels' expected a dict, got list"),
        (["sample_rate"], 0, "sample_rate: expected 1000 to 192000, found 0"),
        (["longest_seconds"], 0, "longest_seconds: expected 0.1 to 3600, found 0"),
        (["longest_seconds"], math.nan, "expected JSON: NaN"),
        (["longest_seconds"], "60", "Field 'longest_seconds'"),
        (["templates", "emotion"], ["no slot"], "words and templates"),
        (["templates", "emotion"], ["{0.__class__}"], "words and templates"),
    ],
)  # fmt: skip
def test_bad_config_is_refused_by_name(scratch_config, tmp_path, keys, value, message):
    _change(scratch_config, keys, value)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(scratch_config))
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "NaN", "\x80\x04."])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        read_config(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no file .*config\.json"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["audio_encoder", "class"], "os.system", "expected one of SSLEncoder, ResNetEncoder"),
        (["audio_encoder", "class"], ["a"], "expected one of SSLEncoder, ResNetEncoder"),
        (["text_encoder", "class"], "ResNetEncoder", "expected one of TextEncoder"),
        (["pooling", "class"], "nn.Identity", "expected one of MaskedMeanPooling"),
        (["pooling", "config"], {"input_size": "x"}, "model.pooling: nothing can be built"),
        (["pooling", "extra"], 1, "model.pooling: expected a class and its config"),
        (["audio_encoder", "config", "channels"], -8, "audio_encoder: nothing can be built"),
        (["audio_encoder", "config", "bogus"], 1, "audio_encoder: nothing can be .*bogus"),
        (["embedding_size"], 0, "embedding_size and a hidden_size of 1 or more"),
        (["hidden_size"], True, "Field 'hidden_size' expected int, got bool"),
        (["heads"], [], "one head or more"),
        (["heads"], "emotion", "Field 'heads' expected a list, got str"),
        (["dropout"], 7, "model: nothing can be built"),
        (["tta_speeds"], [100, 20], "tta_speeds: expected one or more whole numbers from 50"),
    ],
)  # fmt: skip
def test_bad_model_is_refused_by_name(scratch_config, keys, value, message):
    _change(scratch_config["model"], keys, value)
    with pytest.raises(ConfigurationError, match=message):
        build_model(scratch_config["model"])


@pytest.mark.parametrize("part", ["audio_encoder", "text_encoder"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "evil--Model"}),
        ("attn_implementation", "somebody/kernels"),
        ("_attn_implementation", "somebody/kernels"),
        ("_name_or_path", "somebody/model"),
        ("quantization_config", {"quant_method": "gptq"}),
        ("trust_remote_code", True),
    ],
)
def test_transformers_keys_that_fetch_code_are_refused(pretrained, part, key, value):
    _, run = pretrained
    config = read_config(run / "config.json")["model"]
    config[part]["config"]["model"][key] = value
    with pytest.raises(
        ConfigurationError, match=rf"{part}.config.model: .*unknown keys \['{key}'\]"
    ):
        build_model(config, run / "tokenizer")


@pytest.mark.parametrize("part", ["audio_encoder", "text_encoder"])
@pytest.mark.parametrize("kind", ["timm_wrapper", "t5", None, 3])
def test_other_transformers_models_are_refused(pretrained, part, kind):
    _, run = pretrained
    config = read_config(run / "config.json")["model"]
    config[part]["config"]["model"]["model_type"] = kind
    with pytest.raises(ConfigurationError, match="expected a model_type among"):
        build_model(config, run / "tokenizer")


def test_no_code_fetching_key_is_a_key_of_the_classes():
    """The refusal above rests on the classes' own keys; this says that they stay harmless."""
    suspects = ("auto_map", "implementation", "kernels", "trust", "quant", "code_")
    for config in (WavLMConfig(), RobertaConfig()):
        keys = set(json.loads(config.to_json_string(use_diff=False)))
        assert not [key for key in keys if any(word in key for word in suspects)]


def test_tokenizer_of_another_model_is_refused(pretrained, tmp_path):
    _, run = pretrained
    config = read_config(run / "config.json")["model"]
    config["text_encoder"]["config"]["model"]["vocab_size"] = 10
    with pytest.raises(ConfigurationError, match="expected a tokenizer of 10 tokens at most"):
        build_model(config, run / "tokenizer")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}', "'auto_map'"),
        ("tokenizer_config.json", '{"trust_remote_code": true}', "'trust_remote_code'"),
        ("tokenization_evil.py", "open('ran', 'w')", "expected only a tokenizer's files"),
        ("vocab.pkl", "x", "expected only a tokenizer's files"),
        ("tokenizer.json", "{", "expected JSON"),
    ],
)
def test_tokenizer_with_code_is_refused(pretrained, tmp_path, monkeypatch, name, text, message):
    _, run = pretrained
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(run / "tokenizer", tmp_path / "tokenizer")
    (folder / name).write_text(text)
    config = read_config(run / "config.json")["model"]
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_model(config, folder)
    assert str(folder / name) in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_missing_tokenizer_is_named(pretrained, tmp_path):
    _, run = pretrained
    config = read_config(run / "config.json")["model"]
    for folder in (None, tmp_path):
        with pytest.raises(ConfigurationError, match="tokenizer"):
            build_model(config, folder)
