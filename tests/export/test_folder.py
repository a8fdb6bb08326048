from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.metrics import log_loss
from speechbrain.inference.classifiers import EncoderClassifier

from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.export.folder import FILES, export
from gemoclap_sb.export.trained import ExportError
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.models.configuration import read_config, write_run_config
from gemoclap_sb.models.gemoclap import GEmoCLAP
from tests.run_folders import (
    LABELS,
    make_prompts,
    make_run,
    scratch_model,
    write_tone,
)

KINDS = ("scratch", "pretrained")


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    return write_tone(tmp_path_factory.mktemp("audio") / "tone.flac", 0.8)


def expected_log_posteriors(model, path):
    """What the model says of a file, put together from the model's own methods by hand."""
    import soundfile

    samples, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        audio = model.encode_audio(torch.from_numpy(samples)[None], torch.ones(1))
        classes = model.encode_classes(make_prompts().class_sentences("emotion"))
        logits = model.audio_scales["emotion"]() * audio @ classes.T
    return logits - logits.exp().sum(dim=1, keepdim=True).log()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stock_speechbrain_loads_it_elsewhere_offline(exported, models, tone, tmp_path, kind):
    """A fresh process that names nothing of this package and may open no connection."""
    script = textwrap.dedent(
        """
        import json, socket, sys

        def refuse(*args, **kwargs):
            raise AssertionError("tried to use the network")

        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from speechbrain.inference.classifiers import EncoderClassifier

        classifier = EncoderClassifier.from_hparams(source=sys.argv[1])
        out_prob, score, index, label = classifier.classify_file(sys.argv[2])
        wavs = classifier.load_audio(sys.argv[2]).unsqueeze(0).repeat(2, 1)
        batch = classifier.classify_batch(wavs)
        embeddings = classifier.encode_batch(wavs, normalize=True)
        print(json.dumps({
            "out_prob": out_prob.tolist(), "score": score.tolist(), "index": index.tolist(),
            "label": label, "batch": batch[0].tolist(), "shape": list(embeddings.shape),
            "norms": embeddings.norm(dim=-1).flatten().tolist(),
        }))
        """
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "empty"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", script, str(exported[kind]), str(tone)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    expected = expected_log_posteriors(models[kind], tone)
    torch.testing.assert_close(torch.tensor(found["out_prob"]), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        torch.tensor(found["batch"]), expected.repeat(2, 1), rtol=0, atol=1e-4
    )
    best = int(expected.argmax())
    assert found["index"] == [best]
    assert found["label"] == [LABELS[best]]
    assert found["score"] == pytest.approx([float(expected.max())], abs=1e-4)
    assert found["shape"] == [2, 1, 24]
    assert found["norms"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert "expect_len was never called" not in process.stderr
    assert os.listdir(tmp_path) in ([], ["empty"])


def test_stock_speechbrain_with_a_savedir(exported, models, tone, tmp_path):
    classifier = EncoderClassifier.from_hparams(
        source=str(exported["scratch"]), savedir=str(tmp_path / "saved")
    )
    found = classifier.classify_file(str(tone))[0]
    torch.testing.assert_close(
        found, expected_log_posteriors(models["scratch"], tone), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_folder_holds_no_pickle_and_no_path(exported, kind):
    folder = exported[kind]
    names = {path.name for path in folder.iterdir()}
    assert names == set(FILES) | ({"tokenizer"} if kind == "pretrained" else set())
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80")), path
        assert b"/tmp" not in content and b"/somewhere" not in content, path


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_best_checkpoints(exported, models, kind):
    tensors = load_file(exported[kind] / "model.safetensors")
    state = models[kind].state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    same = (exported[kind] / "embedding_model.ckpt").read_bytes()
    assert same == (exported[kind] / "model.safetensors").read_bytes()


def test_newest_of_equally_good_checkpoints_wins(tmp_path):
    from gemoclap_sb.training.checkpoints import AtomicCheckpointer

    older, newer = scratch_model(seed=1), scratch_model(seed=2)
    run = make_run(tmp_path / "run", older)
    AtomicCheckpointer(run / "save", {"clap": newer}).save_checkpoint(
        meta={"epoch": 9, "uar": 0.7}, name="later"
    )
    tensors = load_file(export(run, tmp_path / "out") / "model.safetensors")
    name = "text_projection.layers.0.weight"
    torch.testing.assert_close(tensors[name], newer.state_dict()[name])


def test_config_describes_the_run(exported, models):
    config = read_config(exported["scratch"] / "config.json")
    assert config["labels"]["emotion"] == LABELS
    assert config["sample_rate"] == 16000
    assert config["metrics"]["war"] == pytest.approx(5 / 6)
    assert config["metrics"]["uar"] == pytest.approx((1 + 1 + 1 + 2 / 3) / 4)
    assert "hparams_file" not in config["metrics"]
    scale = models["scratch"].audio_scales["emotion"]().item()
    assert config["temperatures"]["emotion"]["audio"] == pytest.approx(scale)


@pytest.fixture(scope="module")
def calibrated(small_run, tmp_path_factory):
    """The export of a run that was trained and tested."""
    return export(small_run[0], tmp_path_factory.mktemp("calibrated") / "model")


def test_exported_model_gives_the_probabilities_of_the_test(calibrated, small_run, small_manifests):
    """By each way of loading it; and the temperature is the one that validation asks for."""
    classifier = GEmoCLAPClassifier.from_pretrained(calibrated, device="cpu")
    stock = EncoderClassifier.from_hparams(source=str(calibrated))
    test = read_manifest(small_manifests["test_csv"], small_manifests["data_root"])
    expected = Predictions.read(small_run[0] / "predictions.csv")
    assert list(expected.ids) == [*test]
    paths = [row["wav"] for row in test.values()]
    found = [[*row.probabilities.values()] for row in classifier.classify_files(paths)]
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    for path, probabilities in zip(paths[:2], expected.probabilities, strict=False):
        posteriors = stock.classify_file(path)[0].exp()[0]
        np.testing.assert_allclose(posteriors, probabilities, atol=1e-5)

    valid = read_manifest(small_manifests["valid_csv"], small_manifests["data_root"])
    embeddings = classifier.embed_files([row["wav"] for row in valid.values()])
    scores = (embeddings @ classifier.mods.classifier.classes.T).numpy()
    targets = [LABELS.index(row["emotion"]) for row in valid.values()]
    scale = json.loads((small_run[0] / "metrics.json").read_text())["calibration"]["scale"]

    def loss(scale):
        return log_loss(targets, softmax(scale * scores, axis=1), labels=range(4))

    # From all but equal probabilities to all but certain ones.
    grid = np.geomspace(0.01, 50, 100) / np.ptp(scores, axis=1).max()
    assert loss(scale) <= min(map(loss, grid)) + 1e-6


def test_words_of_ones_own_have_the_same_temperature(calibrated, small_run):
    scale = json.loads((small_run[0] / "metrics.json").read_text())["calibration"]["scale"]
    assert read_config(calibrated / "config.json")["calibration"] == {"emotion": scale}
    classifier = GEmoCLAPClassifier.from_pretrained(calibrated, device="cpu")
    wavs, words = torch.randn(1, 8000), ["bored", "afraid"]
    found = classifier.classify_batch(wavs, labels=words, templates=["so {}"])[0]
    cosines = classifier.encode_batch(wavs)[0] @ classifier.encode_text(["so bored", "so afraid"]).T
    torch.testing.assert_close(found.exp(), (scale * cosines).softmax(dim=-1))


def test_card_states_calibration_and_intervals(calibrated, small_run):
    metrics = json.loads((small_run[0] / "metrics.json").read_text())
    card = (calibrated / "README.md").read_text()
    after = metrics["calibration"]["after"]
    for text in (
        f"expected calibration error {100 * after['ece']:.2f} %",
        f"negative log-likelihood {after['nll']:.3f}",
        "interval over 2 speakers",
        "UAR of women",
    ):
        assert text in card


@pytest.mark.parametrize("scale", [-1.0, 0, "high", None])
def test_calibration_that_is_none_is_refused(calibrated, tmp_path, scale):
    config = json.loads((calibrated / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "calibration": {"emotion": scale}}))
    with pytest.raises(ConfigurationError, match="calibration"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("kind", KINDS)
def test_yaml_holds_the_same_values_as_the_config(exported, kind):
    """Both read by YAML's rules of today and of 1.1, in which 1e-05 is a word."""
    folder = exported[kind]
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    config = read_config(folder / "config.json")
    audio = {key: value for key, value in config["model"].items() if key != "text_encoder"}
    plain = re.sub(r"!\S+:\S+|!ref ", "", text)
    assert yaml.safe_load(plain)["embedding_model"]["config"] == audio
    hparams = load_hyperpyyaml(text)
    assert hparams["words"] == config["words"]
    assert hparams["templates"] == config["templates"]
    assert hparams["label_encoder"].expected_len == 4


def test_labels_that_yaml_could_mistake(tmp_path):
    from gemoclap_sb.data.prompts import Prompts

    words = {"no": "on", "1": "1e5", "null": "~", "é <x>": "!ref: {a}\nb"}
    prompts = Prompts({"emotion": words}, {"emotion": ["is: {} # {{}}"]})
    run = make_run(tmp_path / "run", scratch_model())
    write_run_config(run, scratch_model(), prompts)
    folder = export(run, tmp_path / "out")
    hparams = load_hyperpyyaml((folder / "hyperparams.yaml").read_text(encoding="utf-8"))
    assert hparams["words"] == {"emotion": words}
    classifier = EncoderClassifier.from_hparams(source=str(folder))
    assert classifier.hparams.label_encoder.decode_ndim(range(4)) == [*words]


def test_overwriting_is_asked_for(runs, tmp_path):
    out = tmp_path / "out"
    export(runs["scratch"], out)
    with pytest.raises(ExportError, match="may be overwritten"):
        export(runs["scratch"], out)
    (out / "README.md").write_text("stale")
    export(runs["scratch"], out, overwrite=True)
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert "stale" not in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["notes.md", ".git/config", "tokenizer/mine.pt", "tokenizer/a/b"])
def test_overwriting_loses_no_file_of_somebody_else(runs, tmp_path, name):
    out = export(runs["pretrained"], tmp_path / "out")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = sorted(path for path in out.rglob("*"))
    # What can be told apart is named: a file, or the folder that holds it.
    mine = {".git/config": ".git", "tokenizer/a/b": "tokenizer/a"}.get(name, name)
    with pytest.raises(ExportError, match=rf"no export has written: {re.escape(mine)}\."):
        export(runs["pretrained"], out, overwrite=True)
    assert sorted(path for path in out.rglob("*")) == before
    assert (out / name).read_text() == "mine"


def test_what_appears_while_the_export_is_made_stays(runs, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def slow_card(*args, **kwargs):
        out.mkdir()
        (out / "notes.md").write_text("mine")
        return "card"

    monkeypatch.setattr("gemoclap_sb.export.folder.model_card", slow_card)
    with pytest.raises(ExportError, match="is not an export"):
        export(runs["scratch"], out)
    assert [path.name for path in out.iterdir()] == ["notes.md"]


@pytest.mark.parametrize("target", ["export", "empty", "nothing"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_not_replaced(runs, tmp_path, target, overwrite):
    if target == "export":
        export(runs["scratch"], tmp_path / target)
    if target == "empty":
        (tmp_path / target).mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    with pytest.raises(ExportError, match=rf"link is a link to .*{target}"):
        export(runs["scratch"], link, overwrite=overwrite)
    assert link.is_symlink()


def test_links_in_an_export_are_not_replaced(runs, tmp_path):
    out = export(runs["scratch"], tmp_path / "out")
    shutil.move(out / "README.md", tmp_path / "card.md")
    (out / "README.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(ExportError, match=r"no export has written: README\.md"):
        export(runs["scratch"], out, overwrite=True)
    assert (out / "README.md").is_symlink()


@pytest.mark.parametrize("name", ["", ".", "..", "inner/.."])
def test_the_folder_that_one_stands_in_is_not_replaced(runs, tmp_path, monkeypatch, name):
    (tmp_path / "a" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(ExportError, match="this command runs in"):
        export(runs["scratch"], name)


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_never_replaced(runs, tmp_path, overwrite):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ExportError, match="is not an export"):
        export(runs["scratch"], tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_failed_export_leaves_nothing(runs, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("gemoclap_sb.export.folder.model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        export(runs["scratch"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_run_that_cannot_be_exported_says_why(tmp_path):
    class OwnModel(GEmoCLAP):
        pass

    model = scratch_model()
    model.__class__ = OwnModel
    write_run_config(tmp_path / "run", model, make_prompts())
    with pytest.raises(ExportError, match="OwnModel is a model of one's own"):
        export(tmp_path / "run", tmp_path / "out")


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(ExportError, match=r"no file .*config\.json"):
        export(tmp_path / "nothing", tmp_path / "out")
    write_run_config(tmp_path / "run", scratch_model(), make_prompts())
    with pytest.raises(ExportError, match="expected a checkpoint"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "run" / "save").exists()


def test_checkpoint_of_another_model_is_refused(tmp_path):
    run = make_run(tmp_path / "run", scratch_model(heads=("emotion", "gender")))
    write_run_config(run, scratch_model(), make_prompts())
    with pytest.raises(ExportError, match=r"clap\.ckpt: these are not the weights"):
        export(run, tmp_path / "out")


def test_diverged_checkpoint_is_refused(tmp_path):
    model = scratch_model()
    with torch.no_grad():
        model.text_projection.layers[0].bias[3] = float("nan")
    run = make_run(tmp_path / "run", model)
    with pytest.raises(ExportError, match="text_projection.layers.0.bias.*diverged"):
        export(run, tmp_path / "out")


def test_pickle_in_the_run_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    run = make_run(tmp_path / "run", scratch_model())
    [checkpoint] = (run / "save").glob("CKPT*/clap.ckpt")
    torch.save({"x": Evil()}, checkpoint)
    (checkpoint.parent / "files.json").unlink()
    with pytest.raises(ExportError, match="weights are damaged, or hold more than tensors"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
