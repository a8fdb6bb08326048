"""Any corpus with one manifest: folds, classes and words follow from it, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import gemoclap_sb.training.cross_validation
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.training import cross_validation, experiment, grid, runs
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.run_folder import recorded_manifest
from gemoclap_sb.training.settings import ExperimentError, read_settings
from tests.run_folders import ROOT, TINY

HPARAMS = ROOT / "hparams"
SIZES = {key: value for key, value in TINY.items() if key != "number_of_folds"}
NAMES = {"ang": "anger", "hap": "joy", "neu": "neutral", "sad": "sadness"}


@pytest.fixture(scope="module")
def manifest(small_manifests, tmp_path_factory) -> Path:
    """The small corpus as somebody's table: emotions of its own, few columns, relative paths."""
    folder = tmp_path_factory.mktemp("own")
    parts = [pd.read_csv(small_manifests[f"{part}_csv"]) for part in ("train", "valid", "test")]
    table = pd.concat(parts).sort_values("ID")
    root = os.path.relpath(small_manifests["data_root"], folder)
    table["wav"] = [wav.replace("$data_root", root) for wav in table["wav"]]
    table["emotion"] = table["emotion"].map(NAMES)
    table["sex"] = table["gender"]
    table[["ID", "wav", "emotion", "spk_id", "session"]].to_csv(folder / "corpus.csv", index=False)
    table.drop(columns="transcript").to_csv(folder / "with_gender.csv", index=False)
    return folder / "corpus.csv"


def absolute(manifest: Path) -> pd.DataFrame:
    """Read a manifest so that it can be written elsewhere."""
    table = pd.read_csv(manifest)
    table["wav"] = [os.path.normpath(manifest.parent / wav) for wav in table["wav"]]
    return table


def command(name: str, manifest: Path, output: Path, **options: object) -> list[str]:
    given = {**SIZES, "number_of_epochs": 1, "manifest": manifest, "output_folder": output}
    known = read_settings(HPARAMS / f"{name}.yaml")
    given = {key: value for key, value in {**given, **options}.items() if key in known}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(HPARAMS / f"{name}.yaml"), "--device", "cpu", *pairs]


def own(manifest: Path, name: str = "emo_scratch", **options: object) -> dict:
    """Settings of an experiment on the manifest."""
    path = str(HPARAMS / f"{name}.yaml")
    return read_settings(path, completed(path, {"manifest": str(manifest), **options}))


def words_of(settings: dict) -> dict:
    [arguments] = settings["prompts"].values()
    return {label: arguments["words"]["emotion"][label] for label in arguments["only"]["emotion"]}


def test_classes_and_folds_are_the_manifests(manifest):
    settings = own(manifest)
    assert settings["number_of_folds"] == 5
    assert list(words_of(settings).items()) == [(name, name) for name in sorted(NAMES.values())]
    assert own(manifest, fold_column="spk_id", number_of_folds=3)["number_of_folds"] == 3
    assert own(manifest, fold_column="emotion")["number_of_folds"] == 4
    assert own(manifest, name="ravdess_cross_entropy")["num_classes"] == 4


def test_known_labels_keep_the_experiments_words(manifest, tmp_path):
    table = pd.read_csv(manifest)
    table["emotion"] = table["emotion"].replace({"anger": "ang", "joy": "01", "sadness": "no"})
    table.to_csv(tmp_path / "a.csv", index=False)
    assert words_of(own(tmp_path / "a.csv")) == {
        "01": "01",
        "ang": "angry",
        "neutral": "neutral",
        "no": "no",
    }


@pytest.mark.parametrize("name", ["emo_scratch", "ravdess_scratch"])
def test_without_a_manifest_nothing_is_changed(name):
    path = str(HPARAMS / f"{name}.yaml")
    assert completed(path, "seed: 3") == {"seed": 3}
    assert completed(path, "") == {}
    with pytest.raises(ExperimentError, match="^--seed is given twice; expected each key once.$"):
        completed(path, "seed: 1\nseed: 2")


def test_corpus_without_gender_trains_emo_clap_and_classifies_with_its_words(
    manifest, tmp_path, capsys
):
    """Words that HyperPyYAML might take for something else, too."""
    words = {"sadness": "(low)", "anger": "no", "joy": "1.0", "neutral": "!ref <seed>"}
    content = {"emotion": words, "templates": {"emotion": ["it is {}", "so {}"]}}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    options = {"words": tmp_path / "words.yaml", "fold": 2, "validation": "speaker"}
    argv = command("emo_scratch", manifest, tmp_path / "run", **options)
    assert experiment.main(None, argv) == 0
    assert "held-out speakers" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    table = pd.read_csv(manifest)
    second = sorted(table["session"].unique())[1]
    assert result["labels"] == list(words)
    assert result["n_test"] == (table["session"] == second).sum()
    # For pictures of the recordings: relative paths start from where the manifest was.
    assert all(Path(row["wav"]).is_file() for row in recorded_manifest(tmp_path / "run").values())
    classifier = GEmoCLAPClassifier.from_pretrained(export(tmp_path / "run", tmp_path / "model"))
    assert classifier.labels == list(words)
    assert classifier.prompts.words["emotion"] == words
    assert classifier.prompts.templates["emotion"] == ["it is {}", "so {}"]
    # Finished: the same command again has nothing to prepare, and refuses other words.
    content["emotion"] = {**words, "joy": "glad"}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert experiment.main(None, argv) == 2
    assert "run begun with other settings: prompts" in capsys.readouterr().err


def test_a_table_of_many_runs_has_the_manifests_folds(manifest, tmp_path, monkeypatch, capsys):
    asked = []

    def refuse(script, argv, called):
        asked.append(argv)
        raise ExperimentError(called)

    monkeypatch.setattr(runs.cross_validation, "plan", refuse)
    table = grid.Table("t", "T", ("emo", "ml"), ("scratch",), {})
    script = ROOT / "recipes/IEMOCAP/gemoclap/train.py"
    argv = ["--manifest", str(manifest), "--fold_column", "spk_id", "--number_of_folds", "3"]
    argv += ["--output_folder", str(tmp_path), "--seeds", "1"]
    assert grid.main(script, table, [*argv, "--list"]) == 0
    assert capsys.readouterr().out.count("0 of 3 folds") == 2
    # It needs no --data_folder.
    assert grid.main(script, table, argv) == 1
    assert [given[given.index("--manifest") + 1] for given in asked] == [str(manifest)] * 2


def test_heads_are_those_of_the_words(manifest, tmp_path, capsys):
    """Half of the speakers are called young; ML-GEmo-CLAP learns that beside emotion."""
    table = absolute(manifest)
    speakers = sorted(set(table.spk_id))
    table["age"] = ["y" if speakers.index(name) % 2 else "o" for name in table.spk_id]
    table.to_csv(tmp_path / "corpus.csv", index=False)
    content = {
        "emotion": {name: name for name in NAMES.values()},
        "age": {"y": "young", "o": "old"},
    }
    content |= {"heads": ["emotion", "age"]}
    options = {"words": tmp_path / "words.yaml", "alpha_e": 0.75}

    def settings(name):
        (tmp_path / "words.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return own(tmp_path / "corpus.csv", name, **{**options, "words": str(options["words"])})

    assert settings("sl_scratch")["weights"] == {"emotion": 0.75, "gender": 0.0, "age": 0.25}
    with pytest.raises(ExperimentError, match="words.yaml: templates: none for age, a head"):
        settings("ml_scratch")
    content["templates"] = {"age": ["a person who is {}"]}
    assert settings("ml_scratch")["heads"] == ["emotion", "age"]
    three = {"gender": {"F": "woman", "M": "man"}, "heads": ["emotion", "age", "gender"]}
    before, content = content, content | three
    weights = {"emotion": 0.75, "gender": 0.125, "age": 0.125}
    assert settings("ml_scratch")["weights"] == pytest.approx(weights)
    content = before
    options["weights"] = {"emotion": 0.75, "gender": 0.25}
    with pytest.raises(ExperimentError, match="--weights: .*words.yaml has heads"):
        settings("ml_scratch")
    del options["weights"]
    settings("ml_scratch")
    run = tmp_path / "ml"
    for name in ("sl_scratch", "ml_scratch"):
        argv = command(name, tmp_path / "corpus.csv", tmp_path / name[:2], **options)
        assert experiment.main(None, argv) == 0
    export(run, tmp_path / "exported")
    model = GEmoCLAPClassifier.from_pretrained(tmp_path / "exported", device="cpu", attribute="age")
    assert list(model.labels) == ["y", "o"]
    # A column that is not there is named, as gender is.
    absolute(manifest).to_csv(tmp_path / "corpus.csv", index=False)
    argv = command("ml_scratch", tmp_path / "corpus.csv", tmp_path / "none", **options)
    assert experiment.main(None, argv) == 2
    assert "no column age" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sl_scratch", "ml_scratch"])
def test_objective_that_reads_gender(name, manifest, tmp_path, capsys):
    argv = command(name, manifest, tmp_path / "run")
    assert experiment.main(None, argv) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no column gender" in message
    assert "hparams/emo_scratch.yaml" in message
    argv = command(name, manifest.with_name("with_gender.csv"), tmp_path / "run")
    assert experiment.main(None, argv) == 0


def test_gender_cells_that_are_empty_name_their_rows(manifest, tmp_path, capsys):
    table = absolute(manifest.with_name("with_gender.csv"))
    table.loc[3, "gender"] = None
    table.to_csv(tmp_path / "corpus.csv", index=False)
    argv = command("sl_scratch", tmp_path / "corpus.csv", tmp_path / "run")
    assert experiment.main(None, argv) == 2
    message = capsys.readouterr().err
    assert "corpus.csv, row 4 (line 5)" in message
    assert "gender is '', expected one of F, M" in message
    argv = command("emo_scratch", tmp_path / "corpus.csv", tmp_path / "emo", fold=1)
    assert experiment.main(None, argv) == 0


def test_all_folds_are_run_and_a_changed_manifest_is_refused(
    manifest, tmp_path, monkeypatch, capsys
):
    copy = tmp_path / "corpus.csv"
    table = absolute(manifest)
    table.to_csv(copy, index=False)
    asked = []

    def first_fold_only(folds, jobs):
        asked.append((len(folds), folds[0].total))
        if len(folds) == folds[0].total:
            assert experiment.main(None, list(folds[0].command[2:])) == 0
        return {"": 7}

    monkeypatch.setattr(gemoclap_sb.training.cross_validation, "run_folds", first_fold_only)
    argv = command("ravdess_cross_entropy", copy, tmp_path / "cv")
    script = ROOT / "recipes/nEMO/gemoclap/train.py"
    assert cross_validation.main(script, argv) == 7
    assert cross_validation.main(script, argv) == 7
    assert asked == [(5, 5), (4, 5)]
    copy.write_text(copy.read_text().replace("joy", "anger", 1))
    capsys.readouterr()
    assert cross_validation.main(script, argv) == 2
    assert "other settings: manifest (was 'SHA-256 of its rows" in capsys.readouterr().err
    # Moved, it is the same manifest.
    shutil.move(tmp_path / "cv/fold_1", tmp_path / "cv2/fold_1")
    table.to_csv(copy, index=False)
    argv = command("ravdess_cross_entropy", copy, tmp_path / "cv2")
    assert cross_validation.main(script, argv) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"manifest": "nowhere.csv"}, "--manifest: no file nowhere.csv"),
        ({"manifest": ""}, "--fold_column goes with --manifest"),
        ({"train_csv": "a.csv"}, "give --manifest or --train_csv, not both"),
        ({"fold_column": "group"}, "no column group to make folds of .its columns: ID, wav"),
        ({"fold_column": "session", "number_of_folds": 3}, "has 5 values of session, a fold each"),
        ({"number_of_folds": 11}, "expected 2 to 10, for there are 10 values of spk_id; found 11"),
        ({"number_of_folds": "x"}, "found 'x'"),
        ({"words": "nowhere.yaml"}, "nowhere.yaml cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_line(manifest, options, message):
    with pytest.raises(ExperimentError, match=message) as caught:
        own(**{"manifest": manifest, "fold_column": "spk_id", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,wav,emotion,spk_id,session\n", "has no rows below its first line"),
        ("", "missing column ID, wav, emotion"),
        ("ID,wav,spk_id,session\na,a.wav,s,1\n", "missing column emotion"),
        ("ID,wav,emotion,spk_id,session\na,a.wav,,s,1\n", "ID 'a': the emotion is empty"),
        ("ID,wav,emotion,spk_id,session\na,a.wav,joy,s,1\n", "expected two values of session"),
        (
            "ID,wav,emotion,spk_id,session\na,a.wav,joy,s,1\nb,b.wav,joy,t,2\n",
            r"words\['emotion'\]: expected two classes or more, found \['joy'\]",
        ),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "corpus.csv").write_text(text)
    with pytest.raises(ExperimentError, match=message) as caught:
        own(tmp_path / "corpus.csv")
    assert "corpus.csv" in str(caught.value)


def test_words_that_do_not_fit_name_their_file(manifest, tmp_path):
    path = tmp_path / "words.yaml"
    words = {name: f"very {name}" for name in NAMES.values()}
    path.write_text(json.dumps({"emotion": {**words, "fear": "afraid"}}))
    with pytest.raises(ExperimentError, match=r"words.yaml: words for the emotion fear, which no"):
        own(manifest, words=str(path))
    path.write_text(json.dumps({"emotion": {**words, "joy": "very anger"}}))
    with pytest.raises(ExperimentError, match=r"words.yaml: .*two labels share a word"):
        own(manifest, words=str(path))


def test_options_of_a_recipes_own_corpus_are_refused(manifest):
    with pytest.raises(ExperimentError, match="merge_calm is an option of the recipe's own corpus"):
        own(manifest, name="ravdess_scratch", merge_calm=True)


def test_an_option_that_its_yaml_alone_sets_is_replaced(manifest):
    """`protocol` of the recipe for two corpora has a value, whoever asks."""
    assert own(manifest, name="across_scratch")["number_of_folds"] == 5
    with pytest.raises(ExperimentError, match="protocol is an option of the recipe's own corpus"):
        own(manifest, name="across_scratch", protocol="transfer")
