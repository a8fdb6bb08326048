"""Free vectors in place of the text tower: what they are, and two folds trained with them."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.files import read_json
from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
from gemoclap_sb.models import GEmoCLAP
from gemoclap_sb.training import cross_validation
from tests.conftest import load_script
from tests.recipes.corpora import write_corpora
from tests.run_folders import ROOT

RECIPE = ROOT / "recipes/RAVDESS/gemoclap"


@pytest.fixture
def script(monkeypatch):
    # For the time of a test: other recipes have a module of that name.
    monkeypatch.setitem(sys.modules, "ravdess_prepare", None)
    load_script(RECIPE / "ravdess_prepare.py")
    return load_script(RECIPE / "class_vectors.py")


def test_each_sentence_has_a_vector_of_its_own_and_nothing_else(script):
    prompts = Prompts(
        {"emotion": {"ang": "angry", "sad": "sad"}, "gender": {"F": "female", "M": "male"}},
        {"emotion": ["a {gender} who sounds {}", "sounds {}"], "gender": ["a {} speaker"]},
    )
    clap = GEmoCLAP(
        ResNetEncoder(channels=[4], strides=[2]),
        ByteTextEncoder(hidden_size=16, heads=2),
        embedding_size=8,
        heads=["emotion", "gender"],
    )
    script.replace_text_tower(clap, prompts)
    weight = clap.text_encoder.vectors.weight
    # Four of emotion with a gender, two without, two of gender.
    assert weight.shape == (8, 8)
    text = {name for name, _ in clap.named_parameters() if name.startswith("text_")}
    assert text == {
        "text_encoder.vectors.weight",
        "text_scales.emotion.log_scale",
        "text_scales.gender.log_scale",
    }
    asked = ["sounds sad", "a male speaker", "sounds sad"]
    found = clap.encode_text(asked)
    rows = [clap.text_encoder.rows[sentence] for sentence in asked]
    torch.testing.assert_close(found, F.normalize(weight[rows], dim=-1))
    (found * torch.randn_like(found)).sum().backward()
    moved = weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert sorted(moved) == sorted(set(rows))
    with pytest.raises(KeyError, match="sounds bored"):
        clap.encode_text(["sounds bored"])


@pytest.mark.slow
def test_two_folds(script, tmp_path, capfd):
    corpus, out = write_corpora(tmp_path)["ravdess_folder"], tmp_path / "out"
    given = [str(RECIPE / "hparams/ravdess_scratch.yaml"), "--data_folder", str(corpus)]
    given += ["--number_of_folds", "2", "--number_of_epochs", "1"]
    given += ["--channels", "[4]", "--strides", "[2]", "--experiment", "ravdess_scratch"]
    for fold in ("1", "2"):
        # As cross-validation starts a fold, in this process.
        own = ["--fold", fold, "--output_folder", str(out / f"fold_{fold}")]
        assert script.main([*given, *own]) == 0
        assert "ClassVectors" in read_json(out / f"fold_{fold}/config.json")["unsupported"]
        assert read_json(out / f"fold_{fold}/metrics.json")["experiment"] == "class_vectors"
    whole = [*given, "--output_folder", str(out)]
    assert script.main(whole) == 0
    assert "python class_vectors.py" in (out / "cv_report.md").read_text()

    # The experiment with the tower does not take these folds for its own.
    assert cross_validation.main(RECIPE / "train.py", whole) == 2
    assert "experiment (was 'class_vectors'" in capfd.readouterr().err
    other = ["--output_folder", str(tmp_path / "other"), "--valid_speakers", "99"]
    assert script.main([*given, "--fold", "1", *other]) == 2
    assert "error: " in capfd.readouterr().err


def test_an_experiment_without_a_text_tower_is_refused(script, tmp_path, capsys):
    given = [str(RECIPE / "hparams/ravdess_cross_entropy.yaml"), "--data_folder", str(tmp_path)]
    given += ["--fold", "1", "--output_folder", str(tmp_path / "out")]
    assert script.main(given) == 2
    assert "expected a model with a text tower" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "error: expected the YAML of an experiment first"),
        (["--data_folder", "x"], "error: expected the YAML of an experiment first"),
        (["none.yaml", "--experiment"], "error: no hyperparameter file none.yaml"),
        (["{}", "--data_folder", "none"], "error: --data_folder: no folder none"),
        (["{}", "--data_folder", "none", "--fold=1"], "error: --data_folder: no folder none"),
    ],
)
def test_what_cannot_run_is_one_line(script, argv, said, capsys):
    yaml = str(RECIPE / "hparams/ravdess_scratch.yaml")
    assert script.main([argument.format(yaml) for argument in argv]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(said) and printed.err.count("\n") == 1 and not printed.out
