"""Folders as a finished run leaves them, without the training, and a training of seconds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.files import write_json
from gemoclap_sb.lobes import (
    AttentiveStatisticsPooling,
    ByteTextEncoder,
    ResNetEncoder,
    SSLEncoder,
    TextEncoder,
)
from gemoclap_sb.models.configuration import write_run_config
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.training import experiment, runs
from gemoclap_sb.training.checkpoints import AtomicCheckpointer
from gemoclap_sb.training.cross_validation import Plan
from gemoclap_sb.training.fold_processes import Fold
from tests.small_models import save_small_roberta, save_small_ssl

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000
LABELS = ["ang", "hap", "neu", "sad"]

TINY = {
    "n_mels": 20,
    "channels": [4, 8],
    "strides": [1, 2],
    "text_size": 16,
    "embedding_size": 8,
    "batch_size": 8,
    "number_of_epochs": 2,
    "number_of_folds": 2,
}


def tiny_run(output: Path, *flags: str, **options: object) -> list[str]:
    """Command line of a training that takes seconds."""
    given = {"output_folder": output, **TINY, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(ROOT / "hparams/sl_scratch.yaml"), "--device", "cpu", *pairs, *flags]


def own_manifests(manifests: dict, output: Path, *flags: str, **options: object) -> list[str]:
    """Command line of a tiny run on three manifests."""
    given = {f"{split}_csv": manifests[f"{split}_csv"] for split in ("train", "valid", "test")}
    given |= {"data_folder": manifests["data_root"], **options}
    return tiny_run(output, *flags, **given)


class Runs:
    """Takes the place of many cross-validations; `train` does all folds of one, in this process.

    ``argv`` has what each was asked for, ``jobs`` how many folds at a time.
    """

    def __init__(self, monkeypatch):
        self.argv, self.jobs = [], None
        monkeypatch.setattr(runs.cross_validation, "plan", self._plan)
        monkeypatch.setattr(runs, "run_folds", self._run_folds)

    def train(self, argv: list[str]) -> int:
        """Write the folds' results, as a subclass does; the first exit status but 0, or 0."""
        return 0

    def summarize(self, argv: list[str]) -> None:
        """What follows when all folds of a run are there."""

    def _plan(self, train_script, argv, called):
        self.argv.append(argv)
        folder = Path(argv[argv.index("--output_folder") + 1])
        finished = (folder / "fold_2/metrics.json").exists()
        folds = [] if finished else [Fold(1, 1, folder, tuple(argv), called)]
        return Plan(folds, lambda: self.summarize(argv))

    def _run_folds(self, folds, jobs, finished):
        self.jobs = jobs
        return _one_by_one(folds, finished, self.train)


def trained_here(prepare: Callable) -> Callable[..., dict[str, int]]:
    """Takes the place of `run_folds`: real trainings, in this process, which has torch loaded."""

    def train(command):
        python, script, *argv = command
        assert python == sys.executable and Path(script).name == "train.py"
        assert Path(script).is_file()
        return experiment.main(prepare, argv)

    def run_folds(folds, jobs, finished=lambda fold: None):
        return _one_by_one(folds, finished, train)

    return run_folds


def _one_by_one(folds, finished, train) -> dict[str, int]:
    failed = {}
    for fold in folds:
        if status := train(list(fold.command)):
            failed[fold.run] = status
        else:
            finished(fold)
    return failed


def make_prompts() -> Prompts:
    return Prompts(
        words={
            "emotion": {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"},
            "gender": {"F": "female", "M": "male"},
        },
        templates={
            "emotion": ["this person sounds {}", "a {gender} speaker sounds {}"],
            "gender": ["a {} speaker"],
        },
    )


def scratch_model(seed: int = 0, heads: tuple[str, ...] = ("emotion",)) -> GEmoCLAP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lobe = ResNetEncoder(n_mels=20, channels=[4, 8], strides=[1, 2], output_size=48)
        model = GEmoCLAP(
            lobe,
            ByteTextEncoder(hidden_size=16, heads=2),
            embedding_size=24,
            hidden_size=20,
            heads=heads,
            pooling=AttentiveStatisticsPooling(lobe.output_size, attention_channels=12),
        )
        _spread(model)
    return model.eval()


def pretrained_model(folder: Path, seed: int = 0, **ssl_options: object) -> GEmoCLAP:
    """WavLM and RoBERTa, loaded from folders that may be deleted afterwards."""
    audio, text = save_small_ssl(folder / "wavlm"), save_small_roberta(folder / "roberta")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GEmoCLAP(
            SSLEncoder(audio, folder / "cache", **ssl_options),
            TextEncoder(str(text), str(folder / "cache")),
            embedding_size=24,
        )
    return model.eval()


def _spread(model: GEmoCLAP) -> None:
    """Move the running statistics too, so that none can be left out unnoticed."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for scales in (model.audio_scales, model.text_scales):
            for scale in scales.values():
                scale.log_scale.add_(torch.rand(()))


def make_run(folder: Path, model: GEmoCLAP, worse: GEmoCLAP | None = None) -> Path:
    """Write a run's folder; with ``worse``, an earlier and a later epoch scored lower."""
    write_run_config(folder, model, make_prompts())
    for epoch, (candidate, uar) in enumerate(
        [(worse, 0.4), (model, 0.7), (worse, 0.5)] if worse is not None else [(model, 0.7)]
    ):
        AtomicCheckpointer(folder / "save", {"clap": candidate}).save_checkpoint(
            meta={"epoch": epoch, "uar": uar}, name=f"epoch{epoch}"
        )
    metrics = classification_metrics([0, 1, 2, 3, 3, 3], [0, 1, 2, 3, 3, 0], LABELS)
    extra = {"fold": 2, "seed": 7, "hparams_file": "/somewhere/else/sl.yaml", "experiment": "demo"}
    extra |= {"epoch": 1, "validation": "random"}
    write_json(folder / "metrics.json", metrics.to_dict() | extra)
    return folder


def make_models(encoders: Path) -> dict[str, GEmoCLAP]:
    """A model from scratch and one over pretrained encoders, whose folders are gone."""
    models = {
        "scratch": telling_model(heads=("emotion", "gender")),
        "pretrained": pretrained_model(encoders),
    }
    shutil.rmtree(encoders)
    return models


def telling_model(heads: tuple[str, ...] = ("emotion",), seed: int = 0) -> GEmoCLAP:
    """A small untrained model that tells recordings apart.

    Random weights put all recordings, and all sentences, almost in one direction: such a
    model answers the same whatever it hears, and a test that compares answers shows little.
    Here the common direction is taken out, so that labels and probabilities vary.
    """
    model = scratch_model(seed, heads)
    seconds = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.01, (40, RATE))
    pitches = np.linspace(80, 1500, 40)[:, None]
    tones = 0.3 * np.sin(2 * np.pi * pitches * seconds * (1 + 0.2 * seconds)) + noise
    wavs = torch.from_numpy(tones.astype(np.float32))
    sentences = sum((sum(make_prompts().class_sentences(head), []) for head in heads), [])
    with torch.no_grad():
        pooled = model.pool(wavs, torch.ones(len(wavs)))
        for head in heads:
            _centre(model.audio_projections[head], pooled)
        _centre(model.text_projection, model.text_encoder(sentences))
    return model


def _centre(projection: torch.nn.Module, inputs: torch.Tensor) -> None:
    last = [module for module in projection.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.bias -= projection(inputs).mean(dim=0)


def write_tones(folder: Path) -> list[Path]:
    """Ten recordings of different lengths, in no order."""
    seconds = [0.5, 2.0, 0.3, 1.1, 0.9, 0.31, 1.7, 0.6, 0.45, 1.3]
    return [write_tone(folder / f"{i}.wav", s, 100 + 37 * i) for i, s in enumerate(seconds)]


def write_tone(
    path: Path, seconds: float, pitch: float = 220.0, rate: int = RATE, channels: int = 1
) -> Path:
    """Write a gliding tone in noise, different for every pitch."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(int(pitch)).normal(0, 0.01, time.size)
    wav = 0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time / max(seconds, 1e-3))) + noise
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(wav[:, None], channels, axis=1), rate)
    return path
