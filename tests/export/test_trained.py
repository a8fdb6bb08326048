"""Runs whose checkpoints leave out what is frozen: an export puts the whole together."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from gemoclap_sb.export import ExportError, export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.lobes import SSLEncoder, TextEncoder
from gemoclap_sb.models.gemoclap import GEmoCLAP
from tests.run_folders import make_run
from tests.small_models import save_small_roberta, save_small_ssl


@pytest.fixture
def lean(tmp_path):
    """A run with LoRA and a frozen text encoder, its model and the encoders' folders."""
    audio = save_small_ssl(tmp_path / "wavlm")
    text = save_small_roberta(tmp_path / "roberta")
    lobe = SSLEncoder(audio, tmp_path / "cache", adapter="lora", layers="weighted")
    model = GEmoCLAP(lobe, TextEncoder(str(text), "cache", freeze=True), embedding_size=8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return make_run(tmp_path / "run", model), model.eval(), (audio, text)


def test_export_puts_the_whole_together(lean, tmp_path, monkeypatch, tones):
    run, model, (audio, _) = lean
    [checkpoint] = (run / "save").glob("CKPT*/clap.ckpt")
    monkeypatch.chdir(tmp_path / "cache" if (tmp_path / "cache").is_dir() else tmp_path)
    folder = export(run, tmp_path / "out")
    tensors = load_file(folder / "model.safetensors")
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    assert checkpoint.stat().st_size < (folder / "model.safetensors").stat().st_size
    shutil.rmtree(audio)
    found = GEmoCLAPClassifier.from_pretrained(folder, device="cpu").encode_text(["so sad"])
    with torch.no_grad():
        torch.testing.assert_close(found, model.encode_text(["so sad"]), rtol=0, atol=1e-5)


def test_source_that_is_gone_is_named(lean, tmp_path):
    run, _, (audio, text) = lean
    shutil.rmtree(text)
    with pytest.raises(ExportError, match=f"leaves out the pretrained weights of {text}, which"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_source_that_was_changed_is_named(lean, tmp_path):
    run, _, (audio, _) = lean
    shutil.rmtree(audio)
    save_small_ssl(audio, seed=1)
    with pytest.raises(ExportError, match=f"goes with the pretrained weights of {audio}"):
        export(run, tmp_path / "out")
    shutil.rmtree(audio)
    save_small_ssl(audio, hidden_size=64)
    with pytest.raises(ExportError, match=f"pretrained weights of {audio}"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
