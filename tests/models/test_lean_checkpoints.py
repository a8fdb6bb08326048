"""What a checkpoint leaves out, against the pretrained models as transformers loads them."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.parameter_transfer import Pretrainer

from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder, SSLEncoder, TextEncoder
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.models.lean_checkpoints import LEFT_OUT, SourceError, read_state
from gemoclap_sb.training.checkpoints import AtomicCheckpointer
from tests.run_folders import scratch_model
from tests.small_models import save_small_roberta, save_small_ssl

LORA = {"adapter": "lora", "adapter_options": {"rank": 2}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    audio = save_small_ssl(folder / "wavlm", hidden_size=64, layers=3)
    return audio, save_small_roberta(folder / "roberta")


def make(sources, cache, freeze_text=True, **ssl_options):
    audio, text = sources
    return GEmoCLAP(
        SSLEncoder(audio, cache, **ssl_options),
        TextEncoder(str(text), str(cache), freeze=freeze_text),
        embedding_size=8,
    )


def changed(model):
    """As training changes a model: all that has a gradient, and no more."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def saved(model, folder):
    return AtomicCheckpointer(folder, {"clap": model}).save_checkpoint().paramfiles["clap"]


def assert_equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [LORA, {"freeze": True}, {"freeze": True, "layers": "weighted"}]
)
def test_checkpoint_holds_what_was_trained(sources, tmp_path, options):
    model = changed(make(sources, tmp_path, **options))
    path = saved(model, tmp_path / "save")
    state, left_out = read_state(path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    # A mask's embedding is kept, since some checkpoints of the hub leave it out.
    assert trained <= state.keys() <= trained | buffers | {"audio_encoder.model.masked_spec_embed"}
    audio, text = sources
    found = [left_out[name]["source"] for name in ("audio_encoder", "text_encoder")]
    assert found == [str(audio), str(text)]
    again = make(sources, tmp_path, **options)
    Checkpointer(tmp_path / "save", {"clap": again}).recover_if_possible()
    assert_equal(again, model)


def test_size_is_that_of_what_was_trained(tmp_path):
    """The rest is a name, a digest and no more for each tensor."""
    audio = save_small_ssl(
        tmp_path / "wavlm", hidden_size=256, layers=6, num_attention_heads=4, intermediate_size=1024
    )
    text = save_small_roberta(tmp_path / "roberta")
    model = make((audio, text), tmp_path, **LORA)
    path = saved(model, tmp_path / "save")
    whole = sum(p.numel() for p in model.audio_encoder.parameters())
    trained = sum(p.numel() for p in model.audio_encoder.parameters() if p.requires_grad)
    assert trained < whole / 100
    state, _ = read_state(path)
    held = sum(t.numel() for name, t in state.items() if name.startswith("audio_encoder."))
    assert held < whole / 100
    torch.save(model.state_dict(), tmp_path / "whole.ckpt")
    assert path.stat().st_size < (tmp_path / "whole.ckpt").stat().st_size / 20


def test_front_end_alone_is_left_out(sources, tmp_path):
    model = changed(make(sources, tmp_path, freeze_text=False, freeze_feature_extractor=True))
    _, left_out = read_state(saved(model, tmp_path / "save"))
    assert [*left_out] == ["audio_encoder"]
    front = {f"model.feature_extractor.{n}" for n, _ in
             model.audio_encoder.model.feature_extractor.named_parameters()}  # fmt: skip
    assert left_out["audio_encoder"]["digests"].keys() == front


def test_what_is_of_no_source_is_kept(sources, tmp_path):
    """Frozen by hand, changed since it was loaded, built from a description, or trained."""
    frozen = scratch_model().requires_grad_(False)
    overwritten = make(sources, tmp_path, freeze=True)
    with torch.no_grad():
        name, first = next(iter(overwritten.audio_encoder.model.named_parameters()))
        first.add_(1.0)
    config = SSLEncoder(sources[0], tmp_path, freeze=True).to_config()
    described = GEmoCLAP(SSLEncoder.from_config(config), ByteTextEncoder(16, heads=2))
    trained = make(sources, tmp_path, freeze_text=False)
    for i, model in enumerate((frozen, described, trained)):
        state = torch.load(saved(model, tmp_path / str(i)), weights_only=True)
        assert state.keys() == model.state_dict().keys()
    state, left_out = read_state(saved(overwritten, tmp_path / "overwritten"))
    torch.testing.assert_close(state[f"audio_encoder.model.{name}"], first)
    assert f"model.{name}" not in left_out["audio_encoder"]["digests"]
    again = make(sources, tmp_path, freeze=True)
    Checkpointer(tmp_path / "overwritten", {"clap": again}).recover_if_possible()
    assert_equal(again, overwritten)


def test_text_encoder_whose_checkpoint_lacks_weights_keeps_the_random_ones(sources, tmp_path):
    from safetensors.torch import load_file, save_file

    text = shutil.copytree(sources[1], tmp_path / "text")
    tensors = load_file(text / "model.safetensors")
    lacking = next(n for n in tensors if n.endswith("encoder.layer.0.output.dense.weight"))
    del tensors[lacking]
    save_file(tensors, text / "model.safetensors", metadata={"format": "pt"})
    model = make((sources[0], text), tmp_path, freeze=True)
    state, _ = read_state(saved(model, tmp_path / "save"))
    kept = [name for name in state if "text_encoder.model" in name and "ids" not in name]
    assert kept == ["text_encoder.model.encoder.layer.0.output.dense.weight"]


class OwnEncoder(SSLEncoder):
    pass


def test_ones_own_encoder_is_kept_whole(sources, tmp_path):
    lobe = OwnEncoder(sources[0], tmp_path, freeze=True)
    model = GEmoCLAP(lobe, ByteTextEncoder(hidden_size=16, heads=2))
    state = torch.load(saved(model, tmp_path / "save"), weights_only=True)
    assert state.keys() == model.state_dict().keys()


def test_whole_checkpoint_of_before_still_loads(sources, tmp_path):
    model = changed(make(sources, tmp_path, **LORA))
    torch.save(model.state_dict(), tmp_path / "clap.ckpt")
    again = make(sources, tmp_path, **LORA)
    again.load_checkpoint(tmp_path / "clap.ckpt")
    assert_equal(again, model)


@pytest.mark.parametrize("hook", ["load_checkpoint", "transfer_checkpoint"])
def test_other_pretrained_weights_are_refused(sources, tmp_path, hook):
    path = saved(make(sources, tmp_path, **LORA), tmp_path / "save")
    other = save_small_ssl(tmp_path / "other", hidden_size=64, layers=3, seed=1)
    model = make((other, sources[1]), tmp_path, **LORA)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SourceError, match=f"weights of {sources[0]}.*those of {other} are others"):
        getattr(model, hook)(path)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_stage_begins_with_a_lean_checkpoint(sources, tmp_path, caplog):
    """By SpeechBrain's Pretrainer; the next stage trains what was frozen."""
    first = changed(make(sources, tmp_path, freeze=True))
    path = saved(first, tmp_path / "save")
    second = make(sources, tmp_path)
    pretrainer = Pretrainer(loadables={"clap": second}, paths={"clap": str(path)})
    pretrainer.collect_files()
    with caplog.at_level(logging.WARNING):
        pretrainer.load_collected()
    assert_equal(second, first)
    assert "no place" not in caplog.text

    # Without an audio encoder of that kind, the rest is taken over.
    lobe = ResNetEncoder(channels=[8], strides=[2], output_size=64)
    third = GEmoCLAP(lobe, first.text_encoder, embedding_size=8)
    with caplog.at_level(logging.WARNING):
        third.transfer_checkpoint(path)
    weight = "text_projection.layers.0.weight"
    torch.testing.assert_close(third.state_dict()[weight], first.state_dict()[weight])
    assert "no place in the checkpoint for audio_encoder." in caplog.text
    fourth = GEmoCLAP(lobe, ByteTextEncoder(32, heads=2), embedding_size=8)
    with pytest.raises(SourceError, match="those of this model are others"):
        fourth.transfer_checkpoint(path)


def test_checkpoint_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({LEFT_OUT: Evil()}, tmp_path / "clap.ckpt")
    with pytest.raises(Exception, match="(?i)weights"):
        read_state(tmp_path / "clap.ckpt")


@pytest.mark.parametrize("record", [1, {"a": 1}, {"a": {"source": 1}}, {"a": {"digests": {}}}])
def test_record_of_another_form_is_refused(tmp_path, record):
    torch.save({LEFT_OUT: record}, tmp_path / "clap.ckpt")
    with pytest.raises(SourceError, match="is not told"):
        read_state(tmp_path / "clap.ckpt")
