"""The brain's steps in micro-batches, from an experiment's YAML and from the command line."""

from __future__ import annotations

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml

from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.training.experiment import main
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.settings import ExperimentError
from tests.run_folders import ROOT, TINY, own_manifests
from tests.small_models import FAMILIES
from tests.training.test_gradient_cache import assert_same, gradients


@pytest.fixture
def trained_step(small_manifests, small_encoders, tmp_path):
    """Gradients of one step of an experiment, and the brain."""

    def run(experiment: str, **overrides):
        overrides = {"batch_size": 10, "output_folder": str(tmp_path), **overrides}
        if "scratch" in experiment or experiment == "demo":
            overrides = {**TINY, **overrides}
        else:
            family = experiment.split("_")[1]
            overrides |= {
                "audio_source": str(small_encoders[family]),
                "text_source": str(small_encoders["text"]),
                "pretrained_folder": str(tmp_path / "cache"),
                "embedding_size": 16,
            }
        with open(ROOT / f"hparams/{experiment}.yaml", encoding="utf-8") as stream:
            hparams = load_hyperpyyaml(stream, overrides)
        rows = read_manifest(small_manifests["train_csv"], small_manifests["data_root"])
        columns = needed_labels(hparams["clap"], hparams["objective"], hparams["prompts"])
        hparams["label_encoders"] = label_encoders(columns, hparams["prompts"].words, [rows])
        options = {"opt_class": hparams["opt_class"], "run_opts": {"device": "cpu"}}
        brain = GEmoCLAPBrain(hparams["modules"], hparams=hparams, **options)
        brain.check_options()
        # The very utterances, however training would batch them.
        items = {name: rows[name] for name in list(rows)[:10]}
        dataset = build_dataset(items, hparams["label_encoders"])
        loader = brain.make_dataloader(dataset, sb.Stage.TRAIN, batch_size=10)
        brain.on_fit_start()
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        brain.modules.eval()
        brain.model.hears_once = True
        brain.step = 1
        brain.optimizers_step, brain.train_sampler = lambda: None, [0]
        loss = brain.fit_batch(next(iter(loader)))
        return gradients(brain.model), loss, brain

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(trained_step, family):
    expected, loss, _ = trained_step(f"sl_{family}")
    found, cached_loss, _ = trained_step(f"sl_{family}", micro_batch_size=3)
    torch.testing.assert_close(cached_loss, loss)
    assert_same(found, expected)


@pytest.mark.parametrize(
    "overrides", [{"crop_seconds": 0.5, "speeds": [88, 100]}, {"mixup": 0.4, "speeds": [100]}]
)
def test_what_training_hears_is_drawn_for_the_whole_batch(trained_step, overrides):
    expected, loss, _ = trained_step("demo", **overrides)
    found, cached_loss, brain = trained_step("demo", micro_batch_size=4, **overrides)
    torch.testing.assert_close(cached_loss, loss)
    assert_same(found, expected)
    assert (brain.mixup is None) == ("mixup" not in overrides)


def test_batch_norm_is_warned_of_and_other_values_are_refused(trained_step, caplog):
    trained_step("sl_wavlm", micro_batch_size=3)
    assert "normalise by the batch" not in caplog.text
    trained_step("demo", micro_batch_size=3)
    assert "layers of the model (first a BatchNorm2d) normalise by the batch" in caplog.text
    with pytest.raises(ExperimentError, match="micro_batch_size: expected null or"):
        trained_step("demo", micro_batch_size=0)


def test_batches_are_drawn_at_random(trained_step):
    _, _, brain = trained_step("sl_wavlm", micro_batch_size=4)
    rows = {str(i): {"duration": 1.0 + i} for i in range(640)}
    sampler = brain.train_loader_options(rows)["batch_sampler"]
    spans = [max(batch) - min(batch) for batch in sampler.batches(1)]
    brain.hparams.micro_batch_size = None
    pooled = brain.train_loader_options(rows)["batch_sampler"].batches(1)
    assert min(spans) > 250 > 100 > max(max(batch) - min(batch) for batch in pooled)


@pytest.mark.slow
def test_experiment_from_the_command_line(small_manifests, tmp_path, capsys):
    argv = own_manifests(small_manifests, tmp_path / "run", micro_batch_size=3)
    assert main(None, argv) == 0
    assert (tmp_path / "run/metrics.json").is_file()
    argv[argv.index("--micro_batch_size") + 1] = "x"
    assert main(None, argv) == 2
    assert "micro_batch_size: expected null or a whole number" in capsys.readouterr().err
