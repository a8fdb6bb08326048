"""The model in the package answers, offline, and says that it is the one that does."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest
import yaml

from gemoclap_sb.cli.parser import main
from gemoclap_sb.inference import GEmoCLAPClassifier, loading
from gemoclap_sb.models.building import ConfigurationError
from tests.run_folders import ROOT, write_tone

FILES = {"config.json", "model.safetensors", "classifier.ckpt", "README.md", "LICENSE"}
CLASSES = {"neu", "hap", "sad", "ang", "fea", "dis", "sur"}


@pytest.fixture
def recording(tmp_path):
    return str(write_tone(tmp_path / "a.wav", 0.8))


def test_classify_without_a_model_says_which_one_answers(recording, capsys):
    assert main(["classify", recording, "--format", "json"]) == 0
    printed = capsys.readouterr()
    [answer] = json.loads(printed.out)
    assert answer["label"] in CLASSES
    assert set(answer["probabilities"]) == CLASSES
    assert "model: default" in printed.err and "CC BY-NC-SA 4.0" in printed.err
    assert "model: default" not in printed.out


def test_by_name(recording, capsys):
    classifier = GEmoCLAPClassifier.from_pretrained("default", device="cpu")
    assert "model: default" in capsys.readouterr().err
    assert set(classifier.labels) == CLASSES
    [found] = classifier.classify_files([recording], progress=False)
    assert found.label in CLASSES and found.error is None
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_no_other_model_says_so(exported, recording, capsys):
    assert main(["classify", recording, "--model", str(exported["scratch"])]) == 0
    assert "model: default" not in capsys.readouterr().err


def test_info(capsys):
    assert main(["info", "default"]) == 0
    printed = capsys.readouterr().out
    assert "No test: all speakers were trained on" in printed


def test_a_package_without_it_says_what_to_do(tmp_path, monkeypatch, recording, capsys):
    monkeypatch.setattr(loading, "DEFAULT_FOLDER", tmp_path / "default_model")
    with pytest.raises(ConfigurationError, match="make_default.py"):
        GEmoCLAPClassifier.from_pretrained("default")
    assert main(["classify", recording]) == 2
    assert "or name another (--model)" in capsys.readouterr().err


def test_it_is_small_and_holds_nothing_else():
    sizes = {path.name: path.stat().st_size for path in loading.DEFAULT_FOLDER.iterdir()}
    assert set(sizes) == FILES
    assert sum(sizes.values()) <= 8 * 2**20


def test_its_card_and_licence():
    text = (loading.DEFAULT_FOLDER / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-nc-sa-4.0"
    assert front["language"] == ["en", "pl"]
    assert front["datasets"] == ["RAVDESS", "nEMO"]
    for said in ("Livingstone", "Christop", "## Measured figures", "## Limits", "make_default.py"):
        assert said in body
    config = json.loads((loading.DEFAULT_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert [run["validation"] for run in config["runs"]] == ["untested"] * 2
    # Nothing of the machine that made it.
    said = text + json.dumps(config)
    assert str(ROOT) not in said and tempfile.gettempdir() not in said
    notice = (loading.DEFAULT_FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution-NonCommercial-ShareAlike 4.0" in notice and "Apache-2.0" in notice


@pytest.mark.slow
def test_what_is_installed_has_it(tmp_path):
    """By the step of a wheel's making that collects its files, from those that git knows."""
    project, built = tmp_path / "project", tmp_path / "built"
    copy = ["git", "-C", str(ROOT), "checkout-index", "-a", f"--prefix={project}/"]
    if subprocess.run(copy).returncode:
        pytest.skip("needs a checkout of the repository")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(build, cwd=project, check=True)
    names = {path.name for path in (built / "gemoclap_sb/inference/default_model").iterdir()}
    assert names == FILES
