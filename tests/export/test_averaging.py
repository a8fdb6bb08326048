"""Several runs as one folder, against the exports of each of them."""

from __future__ import annotations

import json
import re
import shutil

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.classifiers import EncoderClassifier

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.export import ExportError, export
from gemoclap_sb.export.folder import FILES
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.models.configuration import read_config, write_run_config
from gemoclap_sb.models.towers import AudioTower
from tests.run_folders import (
    LABELS,
    make_prompts,
    make_run,
    pretrained_model,
    scratch_model,
    telling_model,
)

HEADS = ("emotion", "gender")
SCALES = (4.0, 6.0, 11.0)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three finished runs that differ by their seed, each with a temperature of its own."""
    folder = tmp_path_factory.mktemp("seeds")
    runs = [make_run(folder / f"seed_{i}", telling_model(HEADS, i)) for i in range(3)]
    for i, (run, scale) in enumerate(zip(runs, SCALES, strict=True)):
        metrics = json.loads((run / "metrics.json").read_text())
        sides = {side: {"ece": 0.1, "nll": 1.0} for side in ("before", "after")}
        metrics |= {"seed": i, "calibration": {"scale": scale, "own_scale": 1.0, **sides}}
        (run / "metrics.json").write_text(json.dumps(metrics))
    return runs


@pytest.fixture(scope="module")
def folders(seeds, tmp_path_factory):
    """The export of all, and that of each."""
    folder = tmp_path_factory.mktemp("exports")
    whole = export(seeds, folder / "whole", license="apache-2.0")
    return whole, [export(run, folder / str(i)) for i, run in enumerate(seeds)]


def classifiers(folders, attribute=None):
    whole, each = folders
    load = GEmoCLAPClassifier.from_pretrained
    options = {"device": "cpu", "attribute": attribute}
    return load(whole, **options), [load(folder, **options) for folder in each]


def mean_cosines(each, audio, texts):
    """What the members' own exports say of recordings and sentences, averaged."""
    cosines = [one.embed_files(audio) @ one.encode_text(texts).T for one in each]
    return np.mean([of.numpy() for of in cosines], axis=0)


def test_cosines_are_the_mean_of_the_exports(folders, tones):
    """With any words, with search, and file by file."""
    whole, each = classifiers(folders)
    sentences = ["this person sounds bored", "this person sounds angry"]
    found = whole.embed_files(tones) @ whole.encode_text(sentences).T
    expected = mean_cosines(each, tones, sentences)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    closest = whole.retrieve(sentences[0], tones, top_k=3)
    best = sorted(expected[:, 0], reverse=True)[:3]
    assert [match.similarity for match in closest] == pytest.approx(best, abs=1e-5)
    alone = whole.classify_file(tones[0], ["bored", "angry"], ["this person sounds {}"])[0]
    together = [*whole.classify_files(tones, ["bored", "angry"], ["this person sounds {}"])][0]
    np.testing.assert_allclose(alone.exp()[0], [*together.probabilities.values()], atol=1e-5)


@pytest.mark.parametrize("attribute", HEADS)
def test_posteriors_have_the_mean_temperature(folders, tones, attribute):
    whole, each = classifiers(folders, attribute)
    # That of a head that was not calibrated is the model's own.
    own = [telling_model(HEADS, i).audio_scales["gender"]().item() for i in range(3)]
    scale = np.mean(SCALES if attribute == "emotion" else own)
    classes = [one.mods.classifier.classes.numpy() for one in each]
    audio = [one.embed_files(tones).numpy() for one in each]
    cosines = np.mean([a @ c.T for a, c in zip(audio, classes, strict=True)], axis=0)
    expected = np.exp(scale * cosines)
    expected /= expected.sum(axis=1, keepdims=True)
    found = [[*row.probabilities.values()] for row in whole.classify_files(tones)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01


def test_timeline_is_the_mean_of_the_exports(folders, tones):
    whole, each = classifiers(folders)
    labels = ["ang", "sad"]
    found = whole.timeline(tones[1], 0.5, 0.25, labels, progress=False).probabilities
    logits = []
    for one, scale in zip(each, SCALES, strict=True):
        of_one = one.timeline(tones[1], 0.5, 0.25, labels, progress=False).probabilities
        logits.append(np.log(of_one[:, 0] / of_one[:, 1]) / scale)
    expected = 1 / (1 + np.exp(-np.mean(SCALES) * np.mean(logits, axis=0)))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


def test_stock_speechbrain_says_the_same(folders, tones):
    whole, _ = classifiers(folders)
    stock = EncoderClassifier.from_hparams(source=str(folders[0]))
    for tone in tones[:3]:
        expected = whole.classify_file(tone)
        found = stock.classify_file(str(tone))
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
        assert found[3] == expected[3]
    ours = GEmoCLAPClassifier.from_hparams(source=str(folders[0]))
    words = {"labels": ["bored", "afraid"]}
    found, expected = (one.classify_file(tones[0], **words)[0] for one in (ours, whole))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_frozen_in_another_recipe(folders, tones):
    folder, each = folders
    tower = AudioTower(config=str(folder / "config.json"), freeze=True)
    tower.load_weights(folder / "embedding_model.ckpt")
    wav = torch.from_numpy(soundfile.read(tones[1], dtype="float32")[0])[None]
    parts = []
    for path in each:
        one = AudioTower(config=path / "config.json", freeze=True)
        one.load_weights(path / "embedding_model.ckpt")
        parts.append(one(wav)[0, 0].numpy())
    np.testing.assert_allclose(tower.train()(wav)[0, 0], np.concatenate(parts) / 3**0.5, atol=1e-6)


def test_folder_says_what_it_is(folders):
    folder = folders[0]
    assert {path.name for path in folder.iterdir()} == set(FILES)
    config = read_config(folder / "config.json")
    assert len(config["model"]["members"]) == 3
    assert config["calibration"] == {"emotion": pytest.approx(7.0)}
    assert [run["seed"] for run in config["runs"]] == [0, 1, 2]
    assert config["runs"][0]["uar"] == pytest.approx((1 + 1 + 1 + 2 / 3) / 4)
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    assert load_hyperpyyaml(text)["embedding_size"] == 72
    audio = [
        {k: v for k, v in m.items() if k != "text_encoder"} for m in config["model"]["members"]
    ]
    found = yaml.safe_load(re.sub(r"!\S+:\S+|!ref ", "", text))
    assert found["embedding_model"]["config"] == {"members": audio}
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None
    assert "The average of 3 models" in card.text
    assert "| demo | 2 | 1 | 6 | 83.33 % | 91.67 % |" in card.text
    assert "of different folds" not in card.text
    assert "Embeddings of size 72" in card.text


def test_runs_of_several_folds_and_runs_without_a_result(seeds, tmp_path):
    other, untested = (tmp_path / name for name in ("other", "untested"))
    shutil.copytree(seeds[0], other)
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(
        json.dumps({**metrics, "fold": 3, "validation": "untested"})
    )
    card = (export([other, seeds[1]], tmp_path / "folds") / "README.md").read_text()
    assert "of different folds" in card
    # What was no test is not told as one.
    assert card.count("No test: all speakers were trained on") == 1

    shutil.copytree(seeds[2], untested)
    (untested / "metrics.json").unlink()
    folder = export([seeds[0], untested], tmp_path / "half")
    card = (folder / "README.md").read_text()
    assert "| – | – | – | – | – |" in card
    assert "of different folds" not in card
    scale = GEmoCLAPClassifier.from_pretrained(folder).mods.classifier.scale.item()
    own = [telling_model(HEADS, i).audio_scales["emotion"]().item() for i in (0, 2)]
    assert scale == pytest.approx(np.mean(own))
    assert "calibration" not in read_config(folder / "config.json")


def test_a_list_of_one_is_that_run(seeds, folders, tmp_path):
    folder = export(seeds[:1], tmp_path / "0")
    for name in FILES:
        assert (folder / name).read_bytes() == (folders[1][0] / name).read_bytes(), name
    with pytest.raises(ExportError, match="found none"):
        export([], tmp_path / "none")


def rewritten(folder, change):
    prompts = make_prompts().to_config()
    change(prompts)
    model = telling_model(HEADS, 1)
    make_run(folder, model)
    write_run_config(folder, model, Prompts(**prompts))
    return folder


def reordered(prompts):
    prompts["words"]["emotion"] = dict(reversed(prompts["words"]["emotion"].items()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["words"]["emotion"].update(ang="furious"), "the same words, found.*furious"),
        (lambda p: p["words"]["emotion"].pop("neu"), "the same labels"),
        (reordered, "the same labels"),
        (lambda p: p["templates"]["emotion"].pop(), "the same templates"),
    ],
)
def test_other_prompts_are_refused(seeds, tmp_path, change, message):
    other = rewritten(tmp_path / "other", change)
    with pytest.raises(ExportError, match=f"seed_0 and .*other cannot be averaged.*{message}"):
        export([seeds[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_averaged_is_refused(seeds, tmp_path):
    copied = shutil.copytree(seeds[0], tmp_path / "copied")
    for twice in ([seeds[0], seeds[1], seeds[0]], [seeds[1], seeds[0], copied]):
        with pytest.raises(ExportError, match="hold the same model"):
            export(twice, tmp_path / "out")
    one_head = make_run(tmp_path / "one_head", telling_model())
    with pytest.raises(ExportError, match=r"the same heads, found \['emotion', 'gender'\] and"):
        export([seeds[0], one_head], tmp_path / "out")
    rate = make_run(tmp_path / "rate", telling_model(HEADS, 1))
    write_run_config(rate, telling_model(HEADS, 1), make_prompts(), sample_rate=8000)
    with pytest.raises(ExportError, match="the same sample_rate, found 16000 and 8000"):
        export([seeds[0], rate], tmp_path / "out")
    with pytest.raises(ExportError, match=r"no file .*missing"):
        export([seeds[0], tmp_path / "missing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_record_of_runs_is_refused(folders, tmp_path):
    config = json.loads((folders[0] / "config.json").read_text())
    for runs in ([{"uar": "high"}], [{"code": 1}], "abc"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "runs": runs}))
        with pytest.raises(ConfigurationError, match="runs"):
            read_config(tmp_path / "config.json")


def test_encoders_of_several_kinds_and_their_tokenizer(tmp_path, tones):
    """The tokenizer is that of all; a text encoder of one's own needs none."""
    pretrained = pretrained_model(tmp_path / "a")
    runs = [
        make_run(tmp_path / "scratch", scratch_model()),
        make_run(tmp_path / "pretrained", pretrained),
    ]
    folder = export(runs, tmp_path / "out")
    whole = GEmoCLAPClassifier.from_pretrained(folder)
    assert "ResNetEncoder and wavlm (audio)" in (folder / "README.md").read_text()
    each = [
        GEmoCLAPClassifier.from_pretrained(export(run, tmp_path / f"out_{run.name}"))
        for run in runs
    ]
    sentences = ["so sad", "so happy"]
    found = whole.embed_files(tones[:3]) @ whole.encode_text(sentences).T
    np.testing.assert_allclose(found, mean_cosines(each, tones[:3], sentences), atol=1e-5)
    assert whole.labels == LABELS

    other = shutil.copytree(runs[1], tmp_path / "other")
    make_run(other, pretrained_model(tmp_path / "b", seed=1))
    (other / "tokenizer" / "more.txt").write_text("another")
    with pytest.raises(ExportError, match=r"tokenizer/ differ"):
        export([runs[1], other], tmp_path / "no")
