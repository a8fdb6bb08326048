"""A recipe's folder holds all that it needs beside the package."""

from __future__ import annotations

import shutil
import sys

import pytest

from gemoclap_sb.training.settings import read_settings
from tests.conftest import ROOT, load_script

RECIPES = sorted(path.parent for path in (ROOT / "recipes").glob("*/*/train.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.parent.name)
def test_a_copied_recipe_works(recipe, tmp_path, monkeypatch):
    """Links stay links in the copy, so that one that leads out of the folder leads nowhere."""
    copy = tmp_path / "somewhere" / "else"
    shutil.copytree(recipe, copy, symlinks=True)
    monkeypatch.syspath_prepend(copy)
    before = set(sys.modules)
    try:
        for script in sorted(copy.glob("*.py")):
            load_script(script)
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]
    experiments = sorted((copy / "hparams").glob("*.yaml"))
    assert experiments
    for path in experiments:
        assert read_settings(path)["experiment"] == path.stem


def test_every_experiment_lies_in_a_recipe_and_is_linked_at_the_top():
    real = {
        path.name: path.resolve() for recipe in RECIPES for path in recipe.glob("hparams/*.yaml")
    }
    linked = {path.name: path for path in (ROOT / "hparams").iterdir()}
    assert {name: path.resolve() for name, path in linked.items()} == real
    assert not any(path.readlink().is_absolute() for path in linked.values())
    assert not any(path.is_symlink() for recipe in RECIPES for path in recipe.rglob("*"))
