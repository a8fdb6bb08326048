"""Folders of SpeechBrain from anybody: what is refused, in one line, and that nothing runs."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

from gemoclap_sb.models.digest import model_digest
from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.speechbrain_folder import (
    PARTS,
    SpeechBrainFolder,
    is_speechbrain_folder,
)
from gemoclap_sb.models.weights import WeightsError

WEIGHTS = "embedding_model.ckpt"


@pytest.fixture
def folder(speaker_folders, tmp_path) -> Path:
    return shutil.copytree(speaker_folders["ecapa"], tmp_path / "model")


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(folder: Path, kind: type[ValueError], told: str) -> None:
    with pytest.raises(kind) as error:
        SpeechBrainFolder(folder).load()
    assert told in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_the_published_yaml_is_read(folder):
    found = SpeechBrainFolder(folder)
    assert found.sample_rate == 16000
    assert found.weights == {"embedding_model": folder / WEIGHTS}
    modules = found.load()
    assert tuple(modules) == PARTS
    assert isinstance(modules["embedding_model"], ECAPA_TDNN)
    expected = torch.load(folder / WEIGHTS, weights_only=True)
    state = modules["embedding_model"].state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert not any(module.training for module in modules.values())


def test_which_folders_are_of_speechbrain(folder, exported):
    assert is_speechbrain_folder(folder)
    # It has a hyperparams.yaml too.
    assert (exported["scratch"] / "hyperparams.yaml").exists()
    assert not is_speechbrain_folder(exported["scratch"])
    assert not is_speechbrain_folder(folder / "none")


def test_the_digest_is_of_the_yaml_and_the_weights_used(folder):
    first = model_digest(folder)
    for name in ("classifier.ckpt", "label_encoder.txt", "mean_var_norm_emb.ckpt"):
        (folder / name).unlink()
    assert model_digest(folder) == first
    state = torch.load(folder / WEIGHTS, weights_only=True)
    state["fc.conv.bias"][0] += 1
    torch.save(state, folder / WEIGHTS)
    second = model_digest(folder)
    edit(folder, "norm_type: sentence", "norm_type: batch")
    assert len({first, second, model_digest(folder)}) == 3
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match="no file .*embedding_model.ckpt"):
        model_digest(folder)


@pytest.mark.parametrize(
    "path",
    ["/etc/{name}", "https://example.com/x/{name}", "../../{name}", "{name}", "me/other/{name}"],
)
def test_weights_are_taken_from_the_folder(path, folder):
    path = path.format(name="other.ckpt")
    edit(folder, "!ref <pretrained_path>/embedding_model.ckpt", path)
    (folder / WEIGHTS).rename(folder / "other.ckpt")
    found = SpeechBrainFolder(folder)
    assert found.weights == {"embedding_model": folder / "other.ckpt"}
    found.load()


@pytest.mark.parametrize("path", ["x/..", "..", "a/b/", "a*", "a\\\\b", "''"])
def test_weights_without_a_name_are_refused(path, folder):
    edit(folder, "!ref <pretrained_path>/embedding_model.ckpt", path)
    refused(folder, ConfigurationError, "expected the name of a file")


@pytest.mark.parametrize(
    "tag",
    [
        "!new:os.system [touch]",
        "!name:os.system",
        "!new:subprocess.Popen [touch]",
        "!name:builtins.eval",
        "!new:custom.Model",
        "!name:speechbrain.utils.superpowers.run_shell",
        "!new:speechbrain.utils.checkpoints.Checkpointer",
        "!new:speechbrain.inference.interfaces.Pretrained",
        "!new:speechbrain.dataio.dataset.DynamicItemDataset",
        "!new:torch.load",
        "!new:torch.hub.load",
        "!new:transformers.AutoModel",
    ],
)
def test_classes_from_elsewhere_are_named_wherever_they_are(tag, folder):
    path = folder / "hyperparams.yaml"
    path.write_text(f"{path.read_text()}\nmore: {tag}\n")
    refused(folder, ConfigurationError, tag.split()[0])


@pytest.mark.parametrize(
    "name",
    [
        "speechbrain.nnet.CNN.logging.os.system",
        "speechbrain.nnet.CNN.torch.nn.Conv1d.load",
        "speechbrain.nnet.schedulers.NewBobScheduler",
        "speechbrain.lobes.models.beats.BEATs",
        "speechbrain.lobes.models.fairseq_wav2vec.FairseqWav2Vec2",
        "speechbrain.lobes.models.ECAPA_TDNN.Classifier",
        "speechbrain.lobes.models.ECAPA_TDNN.Nothing",
        "speechbrain.processing.PLDA_LDA.PLDA",
        "speechbrain.dataio.encoder.CategoricalEncoder",
        "torch.nn.functional.relu",
        "torch.nn.Module.load_state_dict",
        "torch.nn.utils.parametrize.torch.load",
        "torchaudio.load",
        "gemoclap_sb.lobes.ssl.SSLEncoder",
    ],
)
def test_what_is_no_layer_is_not_built(name, folder):
    edit(folder, "!new:speechbrain.lobes.features.Fbank", f"!new:{name}")
    modules = set(sys.modules)
    refused(folder, ConfigurationError, name)
    # Nor imported for it.
    assert not any("fairseq" in one or "beats" in one for one in set(sys.modules) - modules)


def test_a_custom_module_beside_it_is_not_run(folder):
    marker = folder / "ran"
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w')\n")
    SpeechBrainFolder(folder).load()
    edit(folder, "!new:speechbrain.lobes.features.Fbank", "!new:custom.Fbank")
    refused(folder, ConfigurationError, "!new:custom.Fbank")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    embedding_model: !ref <embedding_model>\n    mean", "    mean", "modules: expected"),
        ("loadables:\n        embedding_model: !ref <embedding_model>", "loadables:", "loadables"),
        ("    loadables:", "    custom_hooks: {}\n    loadables:", "pretrainer"),
        ("pretrainer: !new", "other: !new", "pretrainer"),
        ("n_mels: 24\n", "n_mels: 24\nsample_rate: .inf\n", "sample_rate"),
        ("n_mels: 24\n", "n_mels: 24\nsample_rate: fast\n", "sample_rate"),
        ("n_mels: 24\n", "n_mels: 100000\n", "'n_mels': expected 1 to 256"),
        ("n_mels: 24\n", "n_mels: twenty\n", "compute_features: nothing can be built"),
        ("    n_mels: !ref <n_mels>\n", "    mels: 24\n", "compute_features: nothing can be built"),
        ("    n_mels: !ref <n_mels>\n", "    hop_length: 0.0001\n", "'hop_length'"),
        ("    n_mels: !ref <n_mels>\n", "    n_stft: 1000000\n", "'n_stft'"),
        ("lin_neurons: 12", "lin_neurons: 10000000000", "'lin_neurons'"),
        ("channels: [16, 16, 16, 16, 48]", "channels: [16, 16, 16, 16, 900000]", "larger one"),
        ("norm_type: sentence", "norm_type: speaker", "mean_var_norm: nothing can be built"),
        ("norm_type: sentence", "norm_type: global", "a file of its statistics"),
        ("n_mels: 24\n", "n_mels: !include:x\n", "!include:x"),
    ],
)
def test_descriptions_of_no_encoder(old, new, told, folder):
    edit(folder, old, new)
    refused(folder, ConfigurationError, told)


class Shell:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_is_not_run(folder, tmp_path):
    marker = tmp_path / "ran"
    state = torch.load(folder / WEIGHTS, weights_only=True)
    for content in (Shell(marker), {**state, "more": Shell(marker)}):
        torch.save(content, folder / WEIGHTS)
        refused(folder, WeightsError, "Nothing in it was run")
        torch.save(content, folder / WEIGHTS, _use_new_zipfile_serialization=False)
        refused(folder, WeightsError, "Nothing in it was run")
    assert not marker.exists()
    # It would have.
    torch.load(folder / WEIGHTS, weights_only=False)
    assert marker.exists()


def test_files_that_are_no_weights(folder, tmp_path):
    path = folder / WEIGHTS
    whole = path.read_bytes()
    for damaged in (b"", b"nothing", whole[: len(whole) // 2], whole[:200]):
        path.write_bytes(damaged)
        refused(folder, WeightsError, "damaged")
    packed = tmp_path / "packed"
    (tmp_path / "whole").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "whole") as old, zipfile.ZipFile(packed, "w") as new:
        for one in old.infolist():
            new.writestr(one.filename, old.read(one), zipfile.ZIP_DEFLATED)
    shutil.move(packed, path)
    refused(folder, WeightsError, "packed")
    path.write_bytes(whole)
    shutil.move(path, tmp_path / "outside.ckpt")
    refused(folder, WeightsError, "no file")
    path.symlink_to(tmp_path / "outside.ckpt")
    refused(folder, WeightsError, "a link that points out of it")
    path.unlink()
    # As SpeechBrain leaves it, which collects links to the hub's cache.
    blob = tmp_path / "hub/models--speechbrain--ecapa/blobs" / ("0" * 64)
    blob.parent.mkdir(parents=True)
    shutil.move(tmp_path / "outside.ckpt", blob)
    path.symlink_to(blob)
    assert SpeechBrainFolder(folder).load()
    path.unlink()
    os.mkfifo(path)
    refused(folder, WeightsError, "found a pipe")


def changed(name: str, state: dict) -> dict:
    bias = state["fc.conv.bias"]
    return {
        "missing": {key: value for key, value in state.items() if key != "fc.conv.bias"},
        "unknown": {**state, "more": bias},
        "shape": {**state, "fc.conv.bias": bias[:5].clone()},
        "integers": {**state, "fc.conv.bias": bias.long()},
        "no tensor": {**state, "fc.conv.bias": 3},
        "NaN": {**state, "fc.conv.bias": bias * float("nan")},
        # One number that claims to be a million million.
        "expanded": {**state, "fc.conv.bias": torch.zeros(1).expand(10**12)},
        "double": {**state, "fc.conv.bias": bias.double() + 1e300},
        "meta": {**state, "fc.conv.bias": bias.to("meta")},
        "list": [bias],
    }[name]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing", "'fc.conv.bias' only in the model"),
        ("unknown", "'more' only in the file"),
        ("shape", "expected torch.float32 [12], found torch.float32 [5]"),
        ("integers", "expected torch.float32 [12], found torch.int64 [12]"),
        ("no tensor", "found 3"),
        ("NaN", "found NaN"),
        ("expanded", "larger than what the file holds"),
        ("double", "found NaN or infinity"),
        ("meta", "fc.conv.bias has no numbers"),
        ("list", "expected a state dict"),
    ],
)
def test_weights_of_another_model(name, told, folder):
    state = torch.load(folder / WEIGHTS, weights_only=True)
    torch.save(changed(name, state), folder / WEIGHTS)
    refused(folder, WeightsError, told)


def test_weights_of_few_bits_are_taken(folder):
    state = torch.load(folder / WEIGHTS, weights_only=True)
    state["fc.conv.bias"] = state["fc.conv.bias"].to(torch.float8_e4m3fn)
    torch.save(state, folder / WEIGHTS)
    found = SpeechBrainFolder(folder).load()["embedding_model"].state_dict()["fc.conv.bias"]
    assert torch.equal(found, state["fc.conv.bias"].float())


def test_statistics_are_read_as_weights_are(speaker_folders, tmp_path):
    folder = shutil.copytree(speaker_folders["xvector"], tmp_path / "model")
    found = SpeechBrainFolder(folder)
    assert found.sample_rate == 8000
    assert set(found.weights) == {"mean_var_norm", "embedding_model"}
    expected = torch.load(folder / "mean_var_norm.ckpt", weights_only=True)
    assert torch.equal(found.load()["mean_var_norm"].glob_std, expected["glob_std"])
    torch.save({"glob_mean": expected["glob_mean"]}, folder / "mean_var_norm.ckpt")
    refused(folder, WeightsError, "glob_std")
    torch.save(Shell(tmp_path / "ran"), folder / "mean_var_norm.ckpt")
    refused(folder, WeightsError, "Nothing in it was run")
    assert not (tmp_path / "ran").exists()
