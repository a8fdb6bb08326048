"""Lobes and poolings that are not the package's own, against the trained model itself."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.classifiers import EncoderClassifier

from gemoclap_sb.export import ExportError, export
from gemoclap_sb.export.folder import FILES
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.models.building import ConfigurationError
from tests.run_folders import make_prompts, make_run

OWN = '''
import torch
from torch import nn

class Lobe(nn.Module):
    """Own, without output_size."""
    def __init__(self, channels, activation, norm, shape=(1,)):
        super().__init__()
        assert shape == (2, 3), shape
        self.conv = nn.Conv1d(1, channels, 400, stride=160)
        self.activation, self.norm = activation(), norm

    def forward(self, wavs, wav_lens):
        frames = self.activation(self.conv(wavs.unsqueeze(1))).transpose(1, 2)
        return self.norm(frames.transpose(1, 2)).transpose(1, 2)

class Peak(nn.Module):
    def forward(self, frames, lengths):
        past = torch.arange(frames.shape[1]) >= lengths[:, None]
        return frames.masked_fill(past.unsqueeze(2), -9.0).amax(dim=1)
'''
OWN_LOBE = """
    audio_encoder: !new:own_lobes.Lobe
        channels: !ref <channels>
        activation: !name:torch.nn.GELU
        norm: !ref <norm>
        shape: !tuple (2, 3)
"""
CLAP = """
channels: 6
norm: !new:torch.nn.BatchNorm1d [6]
clap: !new:gemoclap_sb.models.GEmoCLAP
    text_encoder: !new:gemoclap_sb.lobes.ByteTextEncoder
        hidden_size: 16
        heads: 2
    embedding_size: 8
    logit_scale: 30.0
    {pooling}
    {lobe}
modules:
    clap: !ref <clap>
"""
STOCK_LOBE = """
    audio_size: 6
    audio_encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
        features: !new:speechbrain.lobes.features.Fbank
            n_mels: 20
        norm: !new:speechbrain.processing.features.InputNormalization
            norm_type: sentence
            std_norm: False
        linear: !new:speechbrain.nnet.linear.Linear
            input_size: 20
            n_neurons: 6
"""


def no_importing(monkeypatch):
    """As elsewhere: the module of one's own is not to be had."""
    monkeypatch.delitem(sys.modules, "own_lobes", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "own_modules" not in path])


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_modules").mkdir()
    (tmp_path / "own_modules/own_lobes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "own_modules")
    yield tmp_path / "own_modules"
    sys.modules.pop("own_lobes", None)


def trained(folder, lobe=OWN_LOBE, pooling="audio_size: 6", text=CLAP, seed=0):
    """A run's folder, as SpeechBrain leaves the YAML, and the model that was trained in it."""
    from hyperpyyaml import resolve_references

    folder.mkdir(parents=True)
    resolved = resolve_references(text.format(lobe=lobe, pooling=pooling)).getvalue()
    (folder / "hyperparams.yaml").write_text(resolved)
    torch.manual_seed(seed)
    model = load_hyperpyyaml(resolved)["modules"]["clap"].eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return make_run(folder, model), model


def expected_posteriors(model, path):
    samples, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        audio = model.encode_audio(torch.from_numpy(samples)[None], torch.ones(1))
        classes = model.encode_classes(make_prompts().class_sentences("emotion"))
        return (model.class_scale() * audio @ classes.T).softmax(dim=1)[0]


@pytest.mark.parametrize(
    "pooling", ["audio_size: 6", "pooling: !new:own_lobes.Peak\n    audio_size: 6"]
)
def test_stock_speechbrain_loads_ones_own_lobe(own_module, tmp_path, tones, monkeypatch, pooling):
    run, model = trained(tmp_path / "run", pooling=pooling)
    expected = [expected_posteriors(model, tone) for tone in tones[:3]]
    with monkeypatch.context() as elsewhere:
        no_importing(elsewhere)
        folder = export(run, tmp_path / "out")
        assert "own_lobes" not in sys.modules
    assert {path.name for path in folder.iterdir()} == set(FILES)
    classifier = EncoderClassifier.from_hparams(source=str(folder))
    for tone, posteriors in zip(tones, expected, strict=False):
        found = classifier.classify_file(str(tone))[0].exp()[0]
        torch.testing.assert_close(found, posteriors, rtol=0, atol=1e-5)
    assert type(classifier.mods.embedding_model.audio_encoder).__name__ == "Lobe"
    # Ours runs it too where it is trusted, with other words.
    ours = GEmoCLAPClassifier.from_hparams(source=str(folder))
    found = ours.classify_file(tones[0], ["angry", "bored"])[0]
    assert found.shape == (1, 2)


def test_stock_lobe_from_an_nnet_stack(tmp_path, tones):
    run, model = trained(tmp_path / "run", lobe=STOCK_LOBE, pooling="dropout: 0.1")
    folder = export(run, tmp_path / "out")
    classifier = EncoderClassifier.from_hparams(source=str(folder))
    for tone in tones[:3]:
        found = classifier.classify_file(str(tone))[0].exp()[0]
        torch.testing.assert_close(found, expected_posteriors(model, tone), rtol=0, atol=1e-5)
    card = (folder / "README.md").read_text()
    from importlib.metadata import version

    line = f"`speechbrain.lobes.features.Fbank`, of speechbrain {version('speechbrain')}"
    assert line in card
    assert "GEmoCLAPClassifier.from_pretrained(" not in card


def test_baseline_with_ones_own_lobe(own_module, tmp_path, tones):
    text = CLAP.replace("GEmoCLAP", "AudioClassifier").replace(
        "embedding_size: 8", "num_classes: 4"
    )
    text = "\n".join(
        line for line in text.splitlines()
        if not any(word in line for word in ("text_enc", "hidden_size", "heads", "logit_scale"))
    )  # fmt: skip
    pooling = "pooling: !new:gemoclap_sb.lobes.MaskedMeanPooling [6]"
    run, model = trained(tmp_path / "run", pooling=pooling, text=text)
    folder = export([run, trained(tmp_path / "b", pooling=pooling, text=text, seed=1)[0]],
                    tmp_path / "out")  # fmt: skip
    classifier = EncoderClassifier.from_hparams(source=str(folder))
    other = load_hyperpyyaml((tmp_path / "b/hyperparams.yaml").read_text())["clap"].eval()
    [checkpoint] = (tmp_path / "b/save").glob("CKPT*/clap.ckpt")
    other.load_checkpoint(checkpoint)
    samples, _ = soundfile.read(tones[0], dtype="float32")
    wavs, lens = torch.from_numpy(samples)[None], torch.ones(1)
    with torch.no_grad():
        logits = [of(wavs, lens)["emotion"].logits[0].numpy() for of in (model, other)]
    expected = np.exp(np.mean(logits, axis=0))
    found = classifier.classify_file(str(tones[0]))[0].exp()[0]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-5)


def test_from_pretrained_imports_nobodys_class(own_module, tmp_path, monkeypatch):
    run, _ = trained(tmp_path / "run")
    folder = export(run, tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert "imports and runs classes that are not part of `gemoclap_sb`" in card
    assert "`own_lobes.Lobe`, of no installed package" in card
    (own_module / "own_lobes.py").write_text("raise SystemExit('imported')")
    monkeypatch.delitem(sys.modules, "own_lobes")
    with pytest.raises(ConfigurationError, match=r"own_lobes.Lobe is not .*from_hparams") as caught:
        GEmoCLAPClassifier.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    export(run, tmp_path / "again")
    assert "own_lobes" not in sys.modules


def changed_lobe(lobe, old, new):
    assert old in lobe
    return lobe.replace(old, new)


def test_what_cannot_be_written_down_is_told(own_module, tmp_path, monkeypatch):
    """By a script, in the script, by no YAML, or by a tag that an export cannot repeat."""
    import own_lobes

    def refused(name, message, lobe=OWN_LOBE, change=lambda folder, model: None):
        run, model = trained(tmp_path / name, lobe=lobe)
        change(run, model)
        (run / "save").rename(run / "gone")
        make_run(run, model)
        with pytest.raises(ExportError, match=message) as caught:
            export(run, tmp_path / "out")
        assert "\n" not in str(caught.value)

    def replaced(folder, model):
        model.audio_encoder = own_lobes.Peak()

    def without_yaml(folder, model):
        (folder / "hyperparams.yaml").unlink()

    refused("script", "own_lobes.Peak was put there by a script", change=replaced)
    refused("no_yaml", "own_lobes.Lobe .*its arguments are not told", change=without_yaml)
    monkeypatch.setattr(sys.modules["__main__"], "Lobe", own_lobes.Lobe, raising=False)
    main = changed_lobe(OWN_LOBE, "own_lobes.", "__main__.")
    refused("main", "__main__.Lobe lies in the script that was started", main)


def test_hostile_run_is_not_followed(own_module, tmp_path):
    """A description is data: neither its class nor anything in its YAML is imported."""
    run, _ = trained(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    entry = config["model"]["audio_encoder"]
    bomb = "!new:own_lobes.Lobe\n" + "\n".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]" for i in range(30)
    )
    for text, message in (
        ("!new:os.system ['touch ran']", "expected a class, its YAML"),
        ("!!python/object/apply:os.system ['touch ran']", "expected a class, its YAML"),
        ("{", "expected a class, its YAML"),
        ("a: 1\n---\nb: 2", "expected a class, its YAML"),
        ("", "expected a class, its YAML"),
        (bomb, None),
    ):
        config["model"]["audio_encoder"] = {**entry, "yaml": text}
        (run / "config.json").write_text(json.dumps(config))
        if message is None:
            export(run, tmp_path / "out", overwrite=True)
        else:
            with pytest.raises(ExportError, match=message):
                export(run, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "ran").exists()


def test_paths_of_this_machine_are_told(own_module, tmp_path):
    named = f"norm: !new:own_lobes.Named\n            path: {tmp_path}"
    lobe = changed_lobe(OWN_LOBE, "norm: !ref <norm>", named)
    with (own_module / "own_lobes.py").open("a") as file:
        file.write("\nclass Named(nn.BatchNorm1d):\n    def __init__(self, path):\n")
        file.write("        super().__init__(6)\n")
    run, _ = trained(tmp_path / "run", lobe=lobe)
    card = (export(run, tmp_path / "out") / "README.md").read_text()
    assert f"- they read `{tmp_path}`, which must be there too" in card


def test_yaml_repeats_the_arguments(own_module, tmp_path):
    run, _ = trained(tmp_path / "run")
    text = (export(run, tmp_path / "out") / "hyperparams.yaml").read_text()
    root = yaml.compose(text, yaml.SafeLoader)
    tags = [node.tag for _, node in _pairs(root) if node.tag.startswith("!")]
    assert {"!new:own_lobes.Lobe", "!name:torch.nn.GELU", "!new:torch.nn.BatchNorm1d"} <= {*tags}
    assert "own_lobes.Lobe, which is imported and run" in text
    made = load_hyperpyyaml(text)["embedding_model"].audio_encoder
    assert made.conv.out_channels == 6
    assert isinstance(made.activation, torch.nn.GELU)


def _pairs(node):
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        yield key, value
        yield from _pairs(value)
