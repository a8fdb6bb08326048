"""What a command line leaves to be derived, and what it may not say, before anything is made."""

from __future__ import annotations

import pytest

from gemoclap_sb.training import cross_validation, experiment
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.settings import ExperimentError, read_settings
from tests.run_folders import ROOT, tiny_run

RAVDESS = ROOT / "hparams/ravdess_cross_entropy.yaml"
EIGHT = ["neu", "cal", "hap", "sad", "ang", "fea", "dis", "sur"]


@pytest.mark.parametrize(
    ("options", "classes", "count"),
    [
        ({}, None, 8),
        ({"classes": ["ang", "sad"]}, ["ang", "sad"], 2),
        ({"merge_calm": True}, [name for name in EIGHT if name != "cal"], 7),
        ({"merge_calm": True, "classes": ["neu", "cal", "sad"]}, ["neu", "sad"], 2),
        ({"classes": ["ang", "sad"], "num_classes": 2}, ["ang", "sad"], 2),
    ],
)
def test_the_classes_say_how_many_there_are(options, classes, count):
    settings = read_settings(RAVDESS, completed(RAVDESS, options))
    assert settings["classes"] == settings["prepare_options"]["classes"] == classes
    [prompts], [model] = settings["prompts"].values(), settings["clap"].values()
    assert prompts["only"]["emotion"] == classes
    assert settings["num_classes"] == model["num_classes"] == count


def test_another_number_of_classes_is_refused():
    with pytest.raises(ExperimentError, match="--num_classes 5: the experiment has 8 classes"):
        completed(RAVDESS, {"num_classes": 5})


@pytest.mark.parametrize("name", ["ravdess_scratch", "across_scratch"])
def test_calm_is_merged_without_being_named_twice(name):
    path = ROOT / f"hparams/{name}.yaml"
    settings = read_settings(path, completed(path, {"merge_calm": True, "classes": EIGHT}))
    assert settings["classes"] == [name for name in EIGHT if name != "cal"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("emo_wavlm", {"freeze_audio": "no"}, "--freeze_audio: expected True or False"),
        ("ravdess_scratch", {"number_of_folds": 10}, "--number_of_folds: expected 5 or fewer"),
        ("ravdess_scratch", {"fold": 9}, "--fold: expected 1 to 5, found 9"),
        ("emo_scratch", {"validation": "foo"}, "--validation: expected one of random, speaker"),
        ("emo_scratch", {"number_of_epochs": 0}, "--number_of_epochs: expected 1 or more"),
        ("emo_scratch", {"batch_size": 1}, "--batch_size: expected 2 or more, found 1"),
        ("emo_scratch", {"batch_size": "x"}, "--batch_size: expected a whole number"),
        ("emo_scratch", {"objective": "x"}, "--objective: expected an object"),
        ("emo_scratch", {"prompts": None}, "--prompts: expected an object"),
        (
            "emo_scratch",
            {"train_csv": "a.csv", "validation": "random"},
            "--validation: --train_csv and its like are the split already",
        ),
    ],
)
def test_what_cannot_be(name, options, said):
    with pytest.raises(ExperimentError) as raised:
        completed(ROOT / f"hparams/{name}.yaml", options)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


def test_one_utterance_for_each_of_several_processes_is_a_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    completed(ROOT / "hparams/emo_scratch.yaml", {"batch_size": 1})


@pytest.mark.parametrize("end", ["train", "cross-validate"])
def test_nothing_is_made_before(tmp_path, capsys, end):
    argv = tiny_run(tmp_path / "run", data_folder=tmp_path, skip_bad_audio="no", lr="fast")
    status = experiment.main(None, argv) if end == "train" else cross_validation.main(None, argv)
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--skip_bad_audio: expected True or False, found 'no'; --lr: expected a number" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: [1", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"- 1\n- 2\n", "expected a YAML of keys and values"),
        (b"", "expected a YAML of keys and values"),
        (b"a: !ref <b>\n", "x.yaml: "),
        (b"a: !include:none.yaml\n", "x.yaml: "),
        (b"seed: -1\n", "seed: expected a whole number"),
        (b"experiment: 2024-01-01\n", "experiment: expected text, found the date 2024-01-01"),
        (b"seed: 1\noutput_folder: out\n", "has no objective, prompts"),
        (None, "no hyperparameter file"),
    ],
)
def test_a_yaml_that_is_none(tmp_path, capsys, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    assert experiment.main(None, [str(path)]) == 2
    out, err = capsys.readouterr()
    assert said in err and (out, err.count("\n")) == ("", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize("jobs", ["0", "x", "-1", "1.5"])
def test_jobs(tmp_path, capsys, jobs):
    assert cross_validation.main(None, [*tiny_run(tmp_path / "run"), "--jobs", jobs]) == 2
    out, err = capsys.readouterr()
    assert "--jobs: " in err and (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("value", ["abc", 2])
def test_what_is_wrong_by_another_key_is_told_once(value, tmp_path):
    path = tmp_path / "own.yaml"
    text = (ROOT / "hparams/sl_scratch.yaml").read_text()
    with pytest.raises(ExperimentError, match=r"^--alpha_e: expected [^;]*\.$"):
        completed(ROOT / "hparams/sl_scratch.yaml", {"alpha_e": value})
    path.write_text(text.replace("alpha_e: 0.9", f"alpha_e: {value}"))
    with pytest.raises(ExperimentError, match=r"^.*own.yaml: alpha_e: expected [^;]*\.$"):
        completed(path, {})
