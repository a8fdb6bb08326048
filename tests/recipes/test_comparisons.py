"""The comparisons on RAVDESS: what each row trains, and one of them run for real."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile
from hyperpyyaml import load_hyperpyyaml

from gemoclap_sb.files import read_json
from gemoclap_sb.training import comparisons, runs
from gemoclap_sb.training.runs import overrides
from gemoclap_sb.training.settings import read_settings
from tests.conftest import load_script
from tests.run_folders import ROOT, TINY, trained_here

RECIPE = ROOT / "recipes/RAVDESS/gemoclap"


@pytest.fixture(scope="module")
def script():
    return load_script(RECIPE / "comparisons.py")


@pytest.fixture(scope="module")
def settings(script):
    """The resolved settings of each row."""
    return {
        (group.title, row.label): read_settings(
            RECIPE / f"hparams/{row.yaml}.yaml", overrides(row.options)
        )
        for group in script.COMPARISONS.groups
        for row in group.rows
    }


def objective_of(settings):
    [(kind, arguments)] = settings["objective"].items()
    return kind.rpartition(".")[2], arguments


def test_the_rows_are_what_they_are_called(settings):
    kinds = {
        label: objective_of(of) for (group, label), of in settings.items() if group == "objective"
    }
    assert {label: kind for label, (kind, _) in kinds.items()} == {
        "cross-entropy": "CrossEntropyObjective",
        "Emo-CLAP": "SoftLabelObjective",
        "ML-GEmo-CLAP": "MultiTaskObjective",
        "SL-GEmo-CLAP": "SoftLabelObjective",
        "joint": "SoftLabelObjective",
    }
    assert kinds["Emo-CLAP"][1]["weights"] == {"emotion": 1.0, "gender": 0.0}
    assert kinds["SL-GEmo-CLAP"][1]["weights"]["emotion"] == 0.9
    assert kinds["ML-GEmo-CLAP"][1]["weights"]["emotion"] == 0.9
    weights = {label: of.get("cross_entropy_weight") for label, (_, of) in kinds.items()}
    assert weights.pop("joint") == 0.5 and set(weights.values()) == {0.0, None}

    softmax = settings["target", "softmax"]
    assert (objective_of(softmax)[1]["target"], softmax["logit_scale"]) == ("softmax", 1.0)
    assert objective_of(settings["target", "normalized"])[1]["target"] == "normalized"
    for label in ("cross", "both"):
        assert objective_of(settings["similarity", label])[1]["similarity"] == label
    for label in ("0.5", "0.8", "0.9", "1.0"):
        assert objective_of(settings["alpha_e", label])[1]["weights"]["emotion"] == float(label)
    learnt = {
        label: settings["temperature", label]["learn_logit_scale"] for label in ("learnt", "fixed")
    }
    assert learnt == {"learnt": True, "fixed": False}

    own = settings["training", "as it is"]
    changed = {
        label: {
            key
            for key, of in settings["training", label].items()
            # Objects have the same keys as arguments.
            if of != own[key] and not isinstance(of, dict)
        }
        for group, label in settings
        if group == "training"
    }
    assert changed == {
        "as it is": set(),
        "windows of 25 ms, 64 bands": {"window_ms", "n_mels"},
        "silence kept": {"trim_db"},
        "whole utterances": {"crop_seconds"},
        "one speed": {"speeds"},
        "tested at one speed": {"tta_speeds"},
        "weight decay 0.01": {"weight_decay"},
        "mixup": {"mixup"},
        "utterances centred": {"center_utterances"},
    }


def test_prompts_with_the_gender(settings, script):
    [group] = [group for group in script.COMPARISONS.groups if group.title == "prompts"]
    said = {}
    for row in group.rows:
        text = (RECIPE / f"hparams/{row.yaml}.yaml").read_text()
        start = text.index("emotion_templates:")
        piece = "classes: null\n" + text[start : text.index("# What training hears")]
        prompts = load_hyperpyyaml(piece, dict(row.changes))["prompts"]
        labels = {"emotion": ["ang", "ang"], "gender": ["F", "M"]}
        said[row.label] = (
            prompts.sentences("emotion", labels),
            prompts.class_sentences("emotion")[4],
        )
    assert said["without gender"] == (
        ["this person sounds angry"] * 2,
        ["this person sounds angry"],
    )
    both = ["a woman who sounds angry", "a man who sounds angry"]
    assert said["with gender"] == (both, both)


def test_seeds_are_three_for_objectives_and_two_for_the_rest(script):
    groups = {group.title: tuple(group.seeds) for group in script.COMPARISONS.groups}
    assert groups.pop("objective") == (1, 2, 3)
    assert groups.pop("training") == (1,)
    assert set(groups.values()) == {(1, 2)}
    assert list(groups) == ["target", "similarity", "alpha_e", "prompts", "temperature"]


def test_the_default_is_trained_once(script, capsys):
    assert (
        comparisons.main(RECIPE / "train.py", script.COMPARISONS, ["--list", "--seeds", "1"]) == 0
    )
    names = [line.split("  ")[-2].strip() for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names)) == 19
    rows = sum(len(group.rows) for group in script.COMPARISONS.groups)
    # SL stands in all seven groups, and Emo-CLAP in two.
    assert rows - len(names) == 6 + 1


@pytest.fixture
def corpus(tmp_path):
    """Two folds of RAVDESS: names of four actors each, and noise."""
    rng = np.random.default_rng(1)
    for actor in (2, 5, 14, 15, 3, 6, 7, 18):
        folder = tmp_path / f"RAVDESS/Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for emotion in range(1, 9):
            noise = rng.normal(0, 0.1, 4800)
            soundfile.write(folder / f"03-01-{emotion:02d}-01-01-01-{actor:02d}.wav", noise, 16000)
    return tmp_path / "RAVDESS"


@pytest.mark.slow
def test_a_row_for_real(script, corpus, tmp_path, monkeypatch):
    """Two folds, on held-out speakers of the training side."""
    prepare = load_script(RECIPE / "ravdess_prepare.py").prepare_ravdess
    monkeypatch.setattr(runs, "run_folds", trained_here(prepare))
    out = tmp_path / "out"
    given = ["--data_folder", str(corpus), "--output_folder", str(out), "--seeds", "1"]
    given += ["--only", "prompts_with_gender", "--validation", "development"]
    small = {**TINY, "number_of_epochs": 1}
    given += [part for key, of in small.items() for part in (f"--{key}", str(of))]
    assert comparisons.main(RECIPE / "train.py", script.COMPARISONS, given) == 0
    text = (out / "comparisons.md").read_text()
    assert "For choosing settings: tested on held-out speakers" in text
    with (out / "comparisons.csv").open() as stream:
        rows = {(row["group"], row["row"]): row for row in csv.DictReader(stream)}
    folder = out / "prompts_with_gender/seed_1"
    uars = [read_json(folder / f"fold_{fold}/metrics.json")["uar"] for fold in (1, 2)]
    found = float(rows["prompts", "with gender"]["uar_percent"])
    assert found == pytest.approx(50 * sum(uars), abs=1e-4)
    assert float(rows["prompts", "with gender"]["seconds_a_fold"]) > 0
    assert rows["objective", "ML-GEmo-CLAP"]["uar_percent"] == ""
    config = read_json(folder / "fold_1/config.json")
    assert config["templates"]["emotion"] == ["a {gender} who sounds {}"]
    assert (out / "comparisons.png").read_bytes().startswith(b"\x89PNG")
