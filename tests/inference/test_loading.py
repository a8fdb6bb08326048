from __future__ import annotations

import functools
import json
import os
import pickle
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from speechbrain.inference.classifiers import EncoderClassifier
from transformers import AutoTokenizer

from gemoclap_sb.cli.parser import main
from gemoclap_sb.inference import loading
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.models import configuration, weights
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.models.weights import WeightsError
from tests.run_folders import LABELS

KEY = "text_projection.layers.0.weight"


@pytest.fixture
def hostile(exported, tmp_path, monkeypatch):
    """A copy to tamper with, in a working directory where nothing may appear."""
    folder = shutil.copytree(exported["pretrained"], tmp_path / "model")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    yield folder
    assert os.listdir(tmp_path / "empty") == []


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_everything_is_read_and_built_once(exported, monkeypatch):
    """The model, its description, its tokenizer, and the comparison with the weights' header."""
    counts = Counter()
    for owner, name in (
        (loading, "build_model"),
        (configuration, "read_json"),
        (weights, "_compare"),
        (AutoTokenizer, "from_pretrained"),
    ):
        counting = functools.partial(_counted, counts, name, getattr(owner, name))
        monkeypatch.setattr(owner, name, counting)
    classifier = GEmoCLAPClassifier.from_pretrained(exported["pretrained"])
    # The weights of the audio tower, and the embeddings of the classes.
    assert counts == {"read_json": 1, "_compare": 2}
    counts.clear()
    classifier.encode_text(["this person sounds sad"])
    assert counts == dict.fromkeys(["read_json", "_compare", "from_pretrained"], 1)


def _counted(counts, name, original, *args, **kwargs):
    counts[name] += 1
    return original(*args, **kwargs)


def test_yaml_is_not_read(hostile, tones):
    evil = "x: !apply:os.mkdir [ran]\ny: !!python/object/apply:os.mkdir [ran]\n"
    (hostile / "hyperparams.yaml").write_text(evil)
    (hostile / "custom.py").write_text("import os; os.mkdir('ran')")
    classifier = GEmoCLAPClassifier.from_pretrained(hostile)
    assert classifier.classify_file(tones[0], labels=["bored", "afraid"])[0].shape == (1, 2)


@pytest.mark.parametrize("as_torch", [False, True])
def test_pickle_in_place_of_weights(hostile, as_torch):
    path = hostile / "model.safetensors"
    if as_torch:
        torch.save({"x": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"model\.safetensors: .* found a pickle"):
        GEmoCLAPClassifier.from_pretrained(hostile)


@pytest.mark.parametrize("name", ["embedding_model.ckpt", "classifier.ckpt"])
def test_pickle_behind_stock_speechbrain(hostile, name):
    torch.save({"x": Evil()}, hostile / name)
    with pytest.raises(WeightsError, match=f"{name}: expected safetensors, found a pickle"):
        EncoderClassifier.from_hparams(source=str(hostile))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(hostile, share):
    path = hostile / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"model\.safetensors: expected safetensors.*damaged"):
        GEmoCLAPClassifier.from_pretrained(hostile)


def test_missing_weights(hostile):
    (hostile / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no file .*model\.safetensors.*gemoclap export"):
        GEmoCLAPClassifier.from_pretrained(hostile)


def test_weights_of_another_model(hostile, exported):
    shutil.copy(exported["scratch"] / "model.safetensors", hostile)
    with pytest.raises(WeightsError, match="found none for audio_encoder"):
        GEmoCLAPClassifier.from_pretrained(hostile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"more": torch.zeros(1)}, "unknown ones more"),
        (lambda t: {k: v for k, v in t.items() if k != KEY}, f"found none for {KEY}"),
        (
            lambda t: t | {KEY: t[KEY][:5]},
            rf"{KEY}: expected .* \[24, 32\], found F32 \[5,",
        ),
        (lambda t: t | {KEY: t[KEY].int()}, rf"{KEY}: expected torch.float32 .*found I32"),
    ],
)
def test_wrong_tensors(hostile, change, message):
    path = hostile / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)
    with pytest.raises(WeightsError, match=message) as caught:
        GEmoCLAPClassifier.from_pretrained(hostile)
    assert str(path) in str(caught.value)


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(custom_interface="evil.py"), "unknown keys.*custom_interface"),
        (lambda c: c["model"].update(code="import os"), "unknown keys.*code"),
        (lambda c: c["model"]["audio_encoder"].update({"class": "os.system"}), "found 'os.system'"),
        (
            lambda c: c["model"]["text_encoder"]["config"]["model"].update(auto_map={"A": "e--B"}),
            "unknown keys.*auto_map",
        ),
        (lambda c: c.update(format_version=99), "expected format_version 1, found 99"),
    ],
)
def test_unknown_keys_and_classes(hostile, change, message):
    edit_config(hostile, change)
    with pytest.raises(ConfigurationError, match=message) as caught:
        GEmoCLAPClassifier.from_pretrained(hostile)
    assert str(hostile / "config.json") in str(caught.value)


def test_sizes_that_would_fill_the_memory(hostile):
    """Compared with the weights' header before anything is allocated."""
    edit_config(
        hostile,
        lambda c: c["model"]["text_encoder"]["config"]["model"].update(vocab_size=10**12),
    )
    with pytest.raises(WeightsError, match="asks for a size of 1,000,000,000,000, more than"):
        GEmoCLAPClassifier.from_pretrained(hostile)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_tokenizer_that_asks_for_code(hostile, key):
    path = hostile / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config[key] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    path.write_text(json.dumps(config))
    (hostile / "evil.py").write_text("import os; os.mkdir('ran')")
    with pytest.raises(ConfigurationError, match=f"{key}.*asks for code"):
        GEmoCLAPClassifier.from_pretrained(hostile)


@pytest.mark.parametrize("name", ["config.json", "tokenizer/tokenizer_config.json"])
def test_missing_files_are_named(hostile, name):
    (hostile / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        GEmoCLAPClassifier.from_pretrained(hostile)


def test_a_run_is_no_export(runs):
    run = runs["scratch"]
    with pytest.raises(ConfigurationError, match=f"`gemoclap export {run} OUT`"):
        GEmoCLAPClassifier.from_pretrained(run)


def test_hub_models_are_downloaded_without_anything_that_runs(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported["pretrained"], tmp_path / "hub")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    asked = {}

    def snapshot_download(repo_id, allow_patterns, **options):
        from huggingface_hub.utils import filter_repo_objects

        asked.update(repo_id=repo_id, **options)
        for name in set(names) - set(filter_repo_objects(names, allow_patterns=allow_patterns)):
            (folder / name).unlink()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    classifier = GEmoCLAPClassifier.from_pretrained("me/clap", revision="v1", token="t")
    assert classifier.labels == LABELS
    assert asked["repo_id"] == "me/clap"
    assert (asked["revision"], asked["token"]) == ("v1", "t")
    left = {path.name for path in folder.iterdir()}
    assert left == {"classifier.ckpt", "config.json", "model.safetensors", "tokenizer"}


@pytest.mark.parametrize(
    "source", ["./missing", "/missing/folder", "a/b/c", "../x", "exported", "with space/name"]
)
def test_what_is_neither_folder_nor_hub_id(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="no folder .* no hub id"):
        GEmoCLAPClassifier.from_pretrained(source)


@pytest.mark.parametrize("source", ["", " ", "\0", "a\0b", b"model"])
def test_names_that_are_none(source):
    with pytest.raises(ConfigurationError, match="expected a model: default, a folder that `gemoc"):
        GEmoCLAPClassifier.from_pretrained(source)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
def test_a_file_is_no_model(exported, name):
    with pytest.raises(ConfigurationError, match=rf"{name} is a file: .*`gemoclap export RUN OUT`"):
        GEmoCLAPClassifier.from_pretrained(exported["scratch"] / name)


@pytest.mark.parametrize("name", ["x" * 300, "config.json/x", "x" * 5000])
def test_names_that_no_file_can_have(exported, name):
    with pytest.raises(ConfigurationError, match="no folder .* no hub id"):
        GEmoCLAPClassifier.from_pretrained(exported["scratch"] / name)


def test_a_folder_without_the_right_to_read_it(exported, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    original = os.stat

    def refuse(path, *args, **kwargs):
        if str(path).startswith(str(folder)):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr("os.stat", refuse)
    with pytest.raises(ConfigurationError, match="model cannot be read: Permission denied"):
        GEmoCLAPClassifier.from_pretrained(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no file .*config\.json"):
        GEmoCLAPClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("given", ["the snapshot", "a hub id"])
def test_the_hubs_cache_is_made_of_links(exported, tmp_path, monkeypatch, given):
    """Files of a snapshot are links to the blobs beside it, as huggingface_hub leaves them."""
    repo = tmp_path / "hub" / "models--me--clap"
    revision, blobs = repo / "snapshots" / ("0" * 40), repo / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(exported["pretrained"].rglob("*"))):
        if path.is_file():
            link = revision / path.relative_to(exported["pretrained"])
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blobs / str(number))
            link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    if given == "the snapshot":
        classifier = GEmoCLAPClassifier.from_pretrained(revision)
    else:
        monkeypatch.chdir(tmp_path)
        options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
        classifier = GEmoCLAPClassifier.from_pretrained("me/clap", **options)
    assert classifier.labels == LABELS


@pytest.mark.parametrize("command", ["classify", "info"])
@pytest.mark.parametrize("change", ["nan", "million", "deep", "metrics"])
def test_commands_end_with_one_line(hostile, tones, capsys, command, change):
    if change == "nan":
        state = load_file(hostile / "model.safetensors")
        state[KEY][0, 0] = float("nan")
        save_file(state, hostile / "model.safetensors")
    elif change == "deep":
        (hostile / "config.json").write_text("[" * 10**5)
    elif change == "metrics":
        edit_config(hostile, lambda c: c["metrics"].update(labels=5, confusion={"a": [None]}))
    else:
        description = ["model", "audio_encoder", "config", "model"]
        edit_config(
            hostile,
            lambda c: functools.reduce(dict.get, description, c).update(num_hidden_layers=10**6),
        )
    # `info` loads no weight, `classify` shows no metrics.
    passes = (command, change) in {("info", "nan"), ("classify", "metrics")}
    arguments = ["classify", str(tones[0]), "--model"] if command == "classify" else ["info"]
    assert main([*arguments, str(hostile)]) == (0 if passes else 2)
    printed = capsys.readouterr()
    if not passes:
        [line] = [line for line in printed.err.splitlines() if line.startswith("gemoclap")]
        assert "Traceback" not in printed.err and str(hostile) in line


def test_hub_that_has_no_such_model(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.socket.connect", _refuse)
    with pytest.raises(ConfigurationError, match="no folder exports/emotion .* from the hub"):
        GEmoCLAPClassifier.from_pretrained("exports/emotion", cache_dir=tmp_path)


def _refuse(*_):
    raise OSError("no network")
