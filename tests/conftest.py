"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gemoclap_sb.export import export
from gemoclap_sb.synthetic.corpus import make_demo_corpus
from gemoclap_sb.training.experiment import main
from tests.run_folders import ROOT, make_models, make_run, scratch_model, tiny_run, write_tones
from tests.small_models import FAMILIES, save_small_roberta, save_small_ssl
from tests.speaker_folders import save_ecapa, save_xvector

SHARED = ROOT.parent / "shared"

# A shell starts its background jobs, and so all that they start, with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Nothing here may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Send what was captured as UTF-8, which names of files need not be, between processes."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def _no_log_into_a_closed_stream():
    """Forget the handlers that a training has left, with the stream of a test that is over."""
    yield
    known = logging.Logger.manager.loggerDict.values()
    for logger in (logging.getLogger(), *(of for of in known if isinstance(of, logging.Logger))):
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


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
def small_run(small_corpus, iemocap_prepare, tmp_path_factory) -> tuple[Path, str]:
    """A fold that was trained and tested, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "fold_1"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert (
            main(iemocap_prepare.prepare_iemocap, tiny_run(folder, data_folder=small_corpus)) == 0
        )
    return folder, printed.getvalue()


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small saved models by family name, and a small RoBERTa under ``text``."""
    folder = tmp_path_factory.mktemp("encoders")
    saved = {family: save_small_ssl(folder / family, family, "layer") for family in FAMILIES}
    return {**saved, "text": save_small_roberta(folder / "text")}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Small models by kind: ``scratch`` (two heads) and ``pretrained``."""
    return make_models(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def runs(models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's folder for each of `models`; that of ``scratch`` has worse checkpoints too."""
    worse = {"scratch": scratch_model(seed=1, heads=("emotion", "gender")), "pretrained": None}
    return {
        kind: make_run(tmp_path_factory.mktemp("run") / kind, model, worse[kind])
        for kind, model in models.items()
    }


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The export of each run, moved since."""
    moved = {}
    for kind, run in runs.items():
        folder = export(run, tmp_path_factory.mktemp("first") / "model", license="apache-2.0")
        moved[kind] = tmp_path_factory.mktemp("moved") / "model"
        shutil.move(folder, moved[kind])
    return moved


@pytest.fixture(scope="session")
def speaker_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small speaker encoders of SpeechBrain: ``ecapa`` and ``xvector``; not to be changed."""
    folder = tmp_path_factory.mktemp("speakers")
    return {"ecapa": save_ecapa(folder / "ecapa"), "xvector": save_xvector(folder / "xvector")}


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten recordings of different lengths, in no order."""
    return write_tones(tmp_path_factory.mktemp("tones"))
