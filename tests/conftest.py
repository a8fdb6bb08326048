"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gemoclap_sb.synthetic.corpus import make_demo_corpus
from tests.small_models import FAMILIES, save_small_roberta, save_small_ssl

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Nothing here may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)


def load_script(path: Path) -> ModuleType:
    """Import a script of a recipe, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def iemocap_prepare() -> ModuleType:
    return load_script(ROOT / "recipes/IEMOCAP/gemoclap/iemocap_prepare.py")


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic corpus, small: ten speakers with eleven utterances each."""
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    return make_demo_corpus(folder, utterances_per_speaker=11, progress=False)


@pytest.fixture(scope="session")
def small_manifests(small_corpus, iemocap_prepare, tmp_path_factory) -> dict:
    """Manifests of the small corpus's first fold."""
    folder = tmp_path_factory.mktemp("manifests")
    return iemocap_prepare.prepare_iemocap(small_corpus, folder, fold=1)


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small saved models by family name, and a small RoBERTa under ``text``."""
    folder = tmp_path_factory.mktemp("encoders")
    saved = {family: save_small_ssl(folder / family, family, "layer") for family in FAMILIES}
    return {**saved, "text": save_small_roberta(folder / "text")}
