"""Settings are read without building anything."""

from __future__ import annotations

import pytest

from gemoclap_sb.training.settings import ExperimentError, read_settings, told_permissions

YAML = """
seed: 1
alpha_e: 0.9
weights: {emotion: !ref <alpha_e>, gender: !ref 1 - <alpha_e>}
output_folder: !ref results/<seed>
prompts: !new:does.not.Exist {templates: ["so {}"]}
"""


@pytest.fixture
def hparams(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


def test_references_and_overrides_are_resolved(hparams):
    settings = read_settings(hparams, "alpha_e: 0.8\nseed: 7")
    assert settings["weights"]["emotion"] == 0.8
    assert settings["weights"]["gender"] == pytest.approx(0.2)
    assert settings["output_folder"] == "results/7"
    assert settings["prompts"] == {"!new:does.not.Exist": {"templates": ["so {}"]}}


def test_unknown_override_names_the_keys(hparams):
    with pytest.raises(
        ExperimentError, match="--alpha is no key of this file. Its keys: seed, alpha_e"
    ):
        read_settings(hparams, "alpha: 0.8")


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "weights: {emotion: 0.9", "extra"])
def test_slips_of_the_command_line_are_one_line(hparams, text):
    with pytest.raises(ExperimentError, match="seed is given twice|expected --key value, each key"):
        read_settings(hparams, text)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ExperimentError, match="no hyperparameter file .*none.yaml"):
        read_settings(tmp_path / "none.yaml")


def test_keys_that_lead_back_to_themselves_are_one_line(tmp_path):
    (tmp_path / "x.yaml").write_text("a: !ref <b[c]>\nb:\n    c: !ref <a>\n    d: !ref 1 - <a>\n")
    with pytest.raises(ExperimentError, match="x.yaml: .*lead back to themselves"):
        read_settings(tmp_path / "x.yaml")


def test_what_may_not_be_looked_at_is_named():
    with (
        pytest.raises(ExperimentError, match=r"^/a/b may not be read \(No\). Name"),
        told_permissions(),
    ):
        raise PermissionError(13, "No", "/a/b")


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "1e-4",
        "null",
        "a: b",
        "two  spaces " * 20,
        "ü\n",
        "",
        None,
        True,
        1e-5,
        [1, {"a": "1"}],
    ],
    ids=repr,
)
def test_an_override_is_the_value_that_was_given(hparams, value):
    found = read_settings(hparams, {"seed": value})["seed"]
    assert found == value and type(found) is type(value)


def test_a_reference_may_be_an_override(hparams):
    assert read_settings(hparams, "seed: !ref <alpha_e>")["seed"] == 0.9


def test_what_a_caller_changes_is_read_as_it_was(hparams):
    read_settings(hparams)["weights"]["emotion"] = 0
    assert read_settings(hparams)["weights"]["emotion"] == 0.9
    hparams.write_text(YAML.replace("0.9", "0.7"))
    assert read_settings(hparams)["weights"]["emotion"] == 0.7


def test_what_a_function_says_is_asked_anew(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text("folder: !applyref:os.getcwd\n")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert read_settings(tmp_path / "x.yaml")["folder"] == str(tmp_path / name)


def test_another_folder_has_another_file_to_include(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "part.yaml").write_text(f"size: {number}\n")
        (folder / "x.yaml").write_text("model: !include:part.yaml\n")
        assert read_settings(folder / "x.yaml")["model"] == {"size": number}
    # And another one when it has changed.
    (folder / "part.yaml").write_text("size: 3\n")
    assert read_settings(folder / "x.yaml")["model"] == {"size": 3}
