"""What `--model` and `--device` may be."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from argparse import Namespace

import pytest

from gemoclap_sb.cli.errors import UsageError
from tests.cli.printed import one_line
from tests.conftest import ROOT
from tests.data.test_opening import nobody


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:99", "meta", "nonsense", "", "hpu", "privateuseone", "vulkan"]
)
def test_a_device_that_cannot_be_used(device, model, audio, command):
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, out, err = command("classify", audio, "--model", model, "--device", device)
    assert (status, out) == (2, "")
    assert one_line(err).startswith(f"gemoclap classify: --device {device} cannot be used: ")
    assert len(err) < 400


@pytest.mark.parametrize("name", ["classify", "info", "embed", "search"])
def test_a_model_that_is_a_file(name, audio, tmp_path, command):
    os.mkfifo(tmp_path / "fifo")
    for source in (audio / "b.wav", tmp_path / "fifo", "/dev/zero"):
        arguments = {"info": [source], "search": ["a", "x.npy", "--model", source]}
        given = arguments.get(name, [audio, "--model", source])
        if name == "embed":
            given += ["--output", tmp_path / "x.npy"]
        if name == "search":
            (tmp_path / "x.npy").touch()
        status, out, err = command(name, *given)
        assert (status, out) == (2, "")
        if name != "search":
            assert f"--model: expected a folder, found another: {source}" in one_line(err)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def test_the_folder_of_a_run_is_exported_for_the_while(run, model, audio, command, temporary):
    arguments = ["classify", audio, "--format", "csv", "--model"]
    expected = command(*arguments, model)
    status, out, err = command(*arguments, run)
    assert (status, out) == expected[:2]
    assert f"`gemoclap export {run} OUT` keeps it" in one_line(err)
    status, out, _ = command("info", run)
    assert status == 0
    assert out.startswith(f"{run}\n")


def test_a_run_that_cannot_be_exported_says_why(run, audio, tmp_path, command, temporary):
    folder = shutil.copytree(run, tmp_path / "copy")
    for checkpoint in (folder / "save").iterdir():
        shutil.rmtree(checkpoint)
    status, out, err = command("classify", audio, "--model", folder)
    assert (status, out) == (2, "")
    assert "expected a checkpoint" in err.splitlines()[-1]
    status, _, err = command("classify", audio, "--model", tmp_path)
    assert status == 2
    assert f"holds 1 runs; name one of them, such as {folder}" in one_line(err)


def test_a_folder_named_default_is_not_the_model_of_that_name(
    model, audio, tmp_path, command, monkeypatch
):
    arguments = ["classify", audio, "--format", "csv", "--model"]
    expected = command(*arguments, model)[1]
    shutil.copytree(model, tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    assert command(*arguments, "./default")[1] == expected


def test_a_description_that_cannot_be_read(model, audio, tmp_path, command):
    folder = shutil.copytree(model, tmp_path / "copy")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    for name, given in (("classify", [audio, "--model", folder]), ("info", [folder])):
        status, out, err = command(name, *given)
        assert (status, out) == (2, "")
        assert "config.json" in one_line(err)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
@pytest.mark.parametrize("locked", ["parent/model", "parent"])
def test_a_folder_that_may_not_be_looked_into(locked, model, tmp_path, monkeypatch):
    parent = tmp_path / "parent"
    shutil.copytree(model, parent / "model")
    # Beforehand: nobody may import what root has installed.
    from gemoclap_sb.cli.models import load_classifier
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier  # noqa: F401

    monkeypatch.chdir(tmp_path)
    options = Namespace(model="parent/model", device="cpu", attribute=None)
    os.chmod(tmp_path, 0o755)
    os.chmod(locked, 0)
    try:
        with (
            nobody(),
            pytest.raises(UsageError, match="parent/model.* cannot be read: Perm") as said,
        ):
            load_classifier(options)
    finally:
        os.chmod(locked, 0o755)
    assert "\n" not in str(said.value)


def test_the_readme_and_the_help_name_every_command(command):
    readme = (ROOT / "README.md").read_text()
    for name in ("classify", "timeline", "embed", "search", "evaluate", "export", "info", "plot"):
        assert f"\ngemoclap {name} " in readme
        assert f"  gemoclap {name} " in command("--help")[1]
