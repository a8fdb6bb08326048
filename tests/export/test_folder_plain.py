"""Plain classifiers, linear and of cosines, as folders, against a run's own test and NumPy."""

from __future__ import annotations

import json
import re
import shutil

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from speechbrain.inference.classifiers import EncoderClassifier

from gemoclap_sb.cli.parser import main as gemoclap
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.export import ExportError, export
from gemoclap_sb.export.folder import FILES
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.lobes import AttentiveStatisticsPooling, ResNetEncoder
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.training.experiment import main
from tests.run_folders import LABELS, ROOT, make_run, scratch_model

OPTIONS = {
    "n_mels": 20,
    "channels": [4, 8],
    "strides": [1, 2],
    "frame_size": 16,
    "tta_speeds": [92, 100],
    "number_of_epochs": 1,
    "batch_size": 8,
    "classes": "[ang, hap, neu, sad]",
    "num_classes": 4,
}


@pytest.fixture(scope="module")
def baseline(small_manifests, tmp_path_factory):
    """A baseline that was trained and tested, and its export."""
    folder = tmp_path_factory.mktemp("baseline")
    return trained(ROOT / "hparams/ravdess_cross_entropy.yaml", small_manifests, folder)


def trained(hparams_file, small_manifests, folder):
    """Run and export of an experiment that takes seconds."""
    options = OPTIONS | {f"{of}_csv": small_manifests[f"{of}_csv"] for of in ("train", "valid")}
    options |= {"test_csv": small_manifests["test_csv"], "output_folder": folder / "run"}
    options |= {"data_folder": small_manifests["data_root"]}
    argv = [str(hparams_file), "--device", "cpu"]
    argv += sum(([f"--{key}", str(of)] for key, of in options.items()), [])
    assert main(None, argv) == 0
    return folder / "run", export(folder / "run", folder / "out", license="apache-2.0")


@pytest.fixture(scope="module")
def of_cosines(small_manifests, tmp_path_factory):
    """A classifier of cosines that was trained with a margin and tested, and its export."""
    folder = tmp_path_factory.mktemp("of_cosines")
    text = (ROOT / "hparams/ravdess_cross_entropy.yaml").read_text()
    objective, _, model = text.partition("clap: !new")
    objective = objective.replace("CrossEntropyObjective", "MarginSoftmaxObjective")
    objective = objective.replace("label_smoothing: !ref <label_smoothing>", "scale: 20.0")
    model = model.replace("num_classes: !ref", "cosine_scale: 20.0\n    num_classes: !ref")
    (folder / "cosines.yaml").write_text(f"{objective}clap: !new{model}")
    return trained(folder / "cosines.yaml", small_manifests, folder)


def plain_model(seed=0, cosine_scale=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lobe = ResNetEncoder(n_mels=20, channels=[4, 8], strides=[1, 2], output_size=24)
        pooling = AttentiveStatisticsPooling(lobe.output_size, attention_channels=12)
        return AudioClassifier(lobe, pooling, num_classes=4, cosine_scale=cosine_scale).eval()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Finished runs of two seeds, with fitted temperatures 2 and 4; and the average's export."""
    folder = tmp_path_factory.mktemp("seeds")
    runs = [make_run(folder / f"seed_{i}", plain_model(i)) for i in range(2)]
    for run, scale in zip(runs, (2.0, 4.0), strict=True):
        metrics = json.loads((run / "metrics.json").read_text())
        sides = {side: {"ece": 0.1, "nll": 1.0} for side in ("before", "after")}
        metrics |= {"calibration": {"scale": scale, "own_scale": 1.0, **sides}}
        (run / "metrics.json").write_text(json.dumps(metrics))
    return runs, export(runs, folder / "whole")


def logits_of(model, path):
    samples, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        return model(torch.from_numpy(samples)[None], torch.ones(1))["emotion"].logits[0].numpy()


@pytest.mark.parametrize("kind", ["baseline", "of_cosines"])
def test_every_way_of_loading_gives_the_probabilities_of_the_test(kind, small_manifests, request):
    run, folder = request.getfixturevalue(kind)
    expected = Predictions.read(run / "predictions.csv")
    test = read_manifest(small_manifests["test_csv"], small_manifests["data_root"])
    assert list(expected.ids) == [*test]
    paths = [row["wav"] for row in test.values()]
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = [[*row.probabilities.values()] for row in classifier.classify_files(paths)]
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    assert classifier.labels == LABELS
    for load in (EncoderClassifier.from_hparams, GEmoCLAPClassifier.from_hparams):
        stock = load(source=str(folder))
        for path, probabilities in zip(paths[:2], expected.probabilities, strict=False):
            out_prob, _, _, label = stock.classify_file(path)
            np.testing.assert_allclose(out_prob.exp()[0], probabilities, atol=1e-5)
            assert label == [LABELS[int(probabilities.argmax())]]


def test_commands_take_it(baseline, small_manifests, tmp_path, capsys):
    run, folder = baseline
    of_model = ["--model", str(folder), "--device", "cpu"]
    manifest, root = str(small_manifests["test_csv"]), str(small_manifests["data_root"])
    command = ["evaluate", manifest, *of_model, "--data-root", root, "--format", "json"]
    assert gemoclap(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["confusion"] == json.loads((run / "metrics.json").read_text())["confusion"]
    path = next(iter(read_manifest(manifest, root).values()))["wav"]
    assert gemoclap(["timeline", path, *of_model, "--window", "0.5"]) == 0
    assert gemoclap(["embed", path, *of_model, "--output", str(tmp_path / "e.npy")]) == 0
    assert np.load(tmp_path / "e.npy").shape == (1, 32)
    assert gemoclap(["info", str(folder)]) == 0
    assert "encoders: ResNetEncoder (audio)\n" in capsys.readouterr().out
    for words in (["--labels", "bored", "afraid"], ["--templates", "so {}"]):
        assert gemoclap(["classify", path, *of_model, *words]) == 2
        error = capsys.readouterr().err
        assert "a plain classifier, without a text tower" in error
        assert error.count("\n") == 1


def test_cosines_of_the_export_are_the_models_own(of_cosines, tones, tmp_path, capsys):
    run, folder = of_cosines
    weights = load_file(folder / "model.safetensors")
    assert "classifier.bias" not in weights
    assert json.loads((folder / "config.json").read_text())["model"]["cosine_scale"] == 20.0
    of_model = ["--model", str(folder), "--device", "cpu"]
    assert gemoclap(["embed", str(tones[0]), *of_model, "--output", str(tmp_path / "e.npy")]) == 0
    [embedding] = np.load(tmp_path / "e.npy")
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
    directions = weights["classifier.weight"].numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scale = json.loads((run / "metrics.json").read_text())["calibration"]["scale"]
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = classifier.classify_file(tones[0])[0].exp()[0]
    np.testing.assert_allclose(found, softmax(scale * 20.0 * directions @ embedding), atol=1e-5)
    assert gemoclap(["info", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "emotion: 4 classes\n" in told
    assert "embeddings of size 32," in told
    assert re.search(r"\n  classifier +128\n", told)


@pytest.mark.parametrize("load", [GEmoCLAPClassifier.from_pretrained, None])
def test_words_are_refused(baseline, tones, load):
    load = load or GEmoCLAPClassifier.from_hparams
    classifier = load(str(baseline[1]))
    for ask in (
        lambda: classifier.classify_file(tones[0], labels=["ang", "sad"]),
        lambda: classifier.classify_files(tones, templates=["so {}"]),
        lambda: classifier.timeline(tones[0], labels={"a": "angry", "b": "bored"}),
        lambda: classifier.encode_text(["so sad"]),
        lambda: classifier.retrieve("so sad", tones),
    ):
        with pytest.raises(ValueError, match="a plain classifier, without a text tower"):
            ask()


def test_card_and_files_fit(baseline):
    folder = baseline[1]
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert json.loads((folder / "config.json").read_text())["templates"] == {}
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert "zero-shot-audio-classification" not in card.data.tags
    assert "GEmoCLAPClassifier.from_pretrained" in card.text
    for word in ("sentences |", "zero-shot", "labels=", "contrast of", "tokenizer/"):
        assert word not in card.text, word


def test_logits_of_runs_are_averaged(seeds, tones):
    """And the temperature is the mean of the fitted ones, as of a GEmo-CLAP's."""
    runs, folder = seeds
    logits = np.mean([[logits_of(plain_model(i), tone) for tone in tones] for i in (0, 1)], axis=0)
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = [[*row.probabilities.values()] for row in classifier.classify_files(tones)]
    np.testing.assert_allclose(found, softmax(3.0 * logits, axis=1), atol=1e-5)
    stock = EncoderClassifier.from_hparams(source=str(folder)).classify_file(str(tones[0]))[0]
    np.testing.assert_allclose(stock.exp()[0], found[0], atol=1e-5)
    assert "logits, are the mean of theirs" in (folder / "README.md").read_text()


@pytest.mark.parametrize("scales", [(30.0, 10.0), (30.0, None)], ids=["cosines", "mixed"])
def test_logits_of_classifiers_of_cosines_are_averaged(tmp_path, tones, scales):
    models = [plain_model(i, scale) for i, scale in enumerate(scales)]
    runs = [make_run(tmp_path / f"seed_{i}", model) for i, model in enumerate(models)]
    folder = export(runs, tmp_path / "whole")
    logits = np.mean([[logits_of(model, tone) for tone in tones[:3]] for model in models], axis=0)
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = [[*row.probabilities.values()] for row in classifier.classify_files(tones[:3])]
    np.testing.assert_allclose(found, softmax(logits, axis=1), atol=1e-5)
    stock = EncoderClassifier.from_hparams(source=str(folder)).classify_file(str(tones[0]))[0]
    np.testing.assert_allclose(stock.exp()[0], found[0], atol=1e-5)


def test_cosines_of_a_long_recording_are_of_its_mean_direction(tmp_path, tones):
    model = plain_model(cosine_scale=30.0)
    folder = export(make_run(tmp_path / "run", model), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"longest_seconds": 0.5}))
    samples, _ = soundfile.read(tones[1], dtype="float32")
    with torch.no_grad():
        parts = [
            model.pool(torch.from_numpy(of)[None], torch.ones(1)) for of in np.split(samples, 4)
        ]
    unit = torch.nn.functional.normalize
    direction = unit(torch.cat([unit(part) for part in parts]).mean(dim=0), dim=0)
    logits = 30.0 * unit(model.classifier.weight.detach()) @ direction
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = classifier.classify_file(tones[1])[0].exp()[0]
    np.testing.assert_allclose(found, softmax(logits.numpy()), atol=1e-4)


def test_pieces_of_a_long_recording_are_averaged(tmp_path, tones):
    """By length: the mean of the pieces' logits."""
    run = make_run(tmp_path / "run", plain_model())
    folder = export(run, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"longest_seconds": 0.5}))
    samples, rate = soundfile.read(tones[1], dtype="float32")
    parts = []
    for i, piece in enumerate(np.split(samples, 4)):
        soundfile.write(tmp_path / f"{i}.wav", piece, rate, subtype="FLOAT")
        parts.append(logits_of(plain_model(), tmp_path / f"{i}.wav"))
    classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    found = classifier.classify_file(tones[1])[0].exp()[0]
    np.testing.assert_allclose(found, softmax(np.mean(parts, axis=0)), atol=1e-4)


def test_kinds_are_not_mixed(seeds, tmp_path):
    other = make_run(tmp_path / "clap", scratch_model())
    with pytest.raises(ExportError, match="the same kind of model, found AudioClassifier and GE"):
        export([seeds[0][0], other], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3}, "num_classes: expected as many as there are labels"),
        ({"num_classes": "4"}, "num_classes"),
        ({"embedding_size": 7}, "embedding_size: expected 48, the size of the pooled"),
        ({"heads": ["emotion", "gender"]}, "one head"),
        ({"heads": ["age"]}, "expected some for 'age'"),
        ({"hidden_size": 3}, "unknown keys"),
        ({"cosine_scale": 30.0}, "classifier.bias"),
    ],
)
def test_damaged_description_is_refused(seeds, tmp_path, change, message):
    run = seeds[0][0]
    folder = export(run, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        GEmoCLAPClassifier.from_pretrained(folder)


def test_labels_of_other_classes_are_refused(seeds, tmp_path):
    folder = export(seeds[0][0], tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["labels"]["emotion"].pop()
    config["words"]["emotion"].pop("sad")
    (folder / "config.json").write_text(json.dumps(config))
    message = r"num_classes: expected as many .* \(ang, hap, neu\), found 4"
    with pytest.raises(ConfigurationError, match=message):
        GEmoCLAPClassifier.from_pretrained(folder)


def test_more_classes_than_labels_are_refused(tmp_path):
    """Cross-entropy trains all the same with outputs that no label has."""
    run = make_run(tmp_path / "run", plain_model())
    config = json.loads((run / "config.json").read_text())
    config["model"]["num_classes"] = 9
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="num_classes: expected as many as there are labels"):
        export(run, tmp_path / "out")


def test_run_of_an_earlier_version_is_told_what_to_do(tmp_path):
    run = shutil.copytree(make_run(tmp_path / "made", plain_model()), tmp_path / "run")
    config = {"format": "gemoclap_sb", "format_version": 1, "unsupported": "no text tower"}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="no text tower. If .*the run's own command again"):
        export(run, tmp_path / "out")


def test_members_of_two_kinds_are_refused(seeds, tmp_path):
    config = json.loads((seeds[1] / "config.json").read_text())
    config["model"]["members"][1] = json.loads(
        (make_run(tmp_path / "clap", scratch_model()) / "config.json").read_text()
    )["model"]
    shutil.copytree(seeds[1], tmp_path / "out")
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="members of one kind"):
        GEmoCLAPClassifier.from_pretrained(tmp_path / "out")
