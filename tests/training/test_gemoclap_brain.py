"""What a batch becomes: labels with and without words, and rates of the encoders alone."""

from __future__ import annotations

import math

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import AddNoise
from speechbrain.utils.data_pipeline import DynamicItem

from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.objectives import label_matrix
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.settings import ExperimentError
from tests.run_folders import ROOT, TINY


class Observed(torch.nn.Module):
    """An objective that keeps the labels it was given."""

    heads, attributes = ("emotion",), ("spk_id", "frame")

    def forward(self, outputs, labels):
        self.labels = labels
        return outputs["emotion"].audio.sum()


@pytest.fixture
def step(small_manifests, tmp_path):
    """Train one step of the demo's experiment: brain, batch, and the parameters before."""

    def run(objective=None, items=(), **overrides):
        overrides = {**TINY, "batch_size": 6, "output_folder": str(tmp_path), **overrides}
        with open(ROOT / "hparams/demo.yaml", encoding="utf-8") as stream:
            hparams = load_hyperpyyaml(stream, overrides)
        hparams["objective"] = objective or hparams["objective"]
        rows = read_manifest(small_manifests["train_csv"], small_manifests["data_root"])
        columns = needed_labels(hparams["clap"], hparams["objective"], hparams["prompts"])
        columns = [name for name in columns if name != "frame"]
        hparams["label_encoders"] = label_encoders(columns, hparams["prompts"].words, [rows])
        options = {"opt_class": hparams["opt_class"], "run_opts": {"device": "cpu"}}
        brain = GEmoCLAPBrain(hparams["modules"], hparams=hparams, **options)
        dataset = build_dataset(rows, hparams["label_encoders"], items=items)
        loader = brain.make_dataloader(dataset, sb.Stage.TRAIN, **brain.train_loader_options(rows))
        brain.on_fit_start()
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        brain.modules.train()
        before = {name: p.detach().clone() for name, p in brain.model.named_parameters()}
        brain.step = 1
        batch = next(iter(loader))
        brain.fit_batch(batch)
        return brain, batch, before

    return run


def changed(brain, before):
    return {n for n, p in brain.model.named_parameters() if not torch.equal(p, before[n])}


def test_columns_without_words_and_labels_of_frames_reach_the_objective(step):
    objective = Observed()
    frames = DynamicItem(["duration"], lambda d: torch.arange(int(10 * d)), ["frame_encoded"])
    brain, batch, _ = step(objective, [frames])
    encoder = brain.hparams.label_encoders["spk_id"]
    assert len(encoder.lab2ind) == 8
    expected = [encoder.lab2ind[speaker] for speaker in batch.spk_id]
    assert objective.labels["spk_id"].tolist() == expected
    same = torch.tensor([[float(a == b) for b in batch.spk_id] for a in batch.spk_id])
    torch.testing.assert_close(label_matrix(objective.labels["spk_id"]), same)
    assert objective.labels["frame"].dim() == 2
    assert len(objective.labels["frame"]) == len(batch.id)


def test_encoders_can_have_rates_of_their_own(step):
    brain, _, before = step(lr_audio=0.0, lr_text=1e-2)
    rest, audio, text = brain.optimizer.param_groups
    for group, module in ((audio, brain.model.audio_encoder), (text, brain.model.text_encoder)):
        assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]
    assert audio["lr"] == 0.0
    assert text["lr"] == pytest.approx(5 * rest["lr"])
    moved = {name.split(".")[0] for name in changed(brain, before)}
    assert "audio_encoder" not in moved
    assert {"text_encoder", "pooling", "audio_projections"} <= moved


@pytest.mark.parametrize("rate", [-0.1, "high", math.nan])
def test_rate_that_is_none_is_named(step, rate):
    with pytest.raises(ExperimentError, match="lr_text: expected 0 or more, found"):
        step(lr_text=rate)


def test_one_rate_is_one_group(step):
    brain, _, before = step()
    assert len(brain.optimizer.param_groups) == 1
    assert {name.split(".")[0] for name in changed(brain, before)} >= {
        "audio_encoder", "text_encoder"
    }  # fmt: skip


class Heard(torch.nn.Module):
    """A pooling that keeps how many frames of each utterance it was given."""

    def __init__(self, pooling):
        super().__init__()
        self.pooling, self.output_size = pooling, pooling.output_size

    def forward(self, frames, lengths):
        self.lengths = lengths
        return self.pooling(frames, lengths)


def test_training_hears_crops_and_evaluation_whole_utterances(step):
    brain, batch, _ = step(crop_seconds=0.5, trim_db=None, speeds=[100])
    brain.model.pooling = heard = Heard(brain.model.pooling)
    # Half a second has 32 frames of 16 ms, which two strides of two halve twice.
    brain.compute_forward(batch, sb.Stage.TRAIN)
    assert heard.lengths.max() == 8
    brain.compute_forward(batch, sb.Stage.VALID)
    longest = torch.tensor(batch.sig.data.shape[1])
    assert heard.lengths.max() == brain.model.audio_encoder.frame_lengths(longest) > 8


@pytest.mark.parametrize("concat_original", [False, True])
def test_labels_and_sentences_follow_what_an_augmenter_makes(step, concat_original):
    augmenter = Augmenter(
        concat_original=concat_original,
        min_augmentations=1,
        max_augmentations=1,
        augmentations=[AddNoise(snr_low=10, snr_high=10)],
    )
    brain, batch, _ = step(crop_seconds=None, trim_db=None, speeds=[100])
    brain.hparams.wav_augment = augmenter
    heard = []
    brain.model.audio_encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    outputs, labels = brain.compute_forward(batch, sb.Stage.TRAIN)
    times, clean = 1 + concat_original, batch.sig.data
    text = outputs["emotion"].text
    assert len(text) == times * len(clean)
    assert torch.equal(text, text[: len(clean)].repeat(times, 1))
    assert torch.equal(labels["emotion"], batch.emotion_encoded.data.flatten().repeat(times))
    [wavs] = heard
    noisy = wavs[-len(clean) :]
    assert not torch.equal(noisy, clean)
    # Each is like the utterance whose label it has.
    alike = torch.nn.functional.normalize(noisy) @ torch.nn.functional.normalize(clean).T
    assert alike.argmax(dim=1).tolist() == list(range(len(clean))) and alike.diagonal().min() > 0.8
    if concat_original:
        assert torch.equal(wavs[: len(clean)], clean)
    heard.clear()
    brain.compute_forward(batch, sb.Stage.VALID)
    assert torch.equal(heard[0], clean)


def test_waveforms_are_resampled_in_float32_whatever_the_precision(step):
    brain, batch, _ = step(speeds=[50])
    brain.model.audio_encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    for options in ({"enabled": False}, {"dtype": torch.bfloat16}):
        heard = []
        with torch.autocast("cpu", **options):
            brain.compute_forward(batch, sb.Stage.TRAIN)
        assert heard[0].dtype == torch.float32
        # Rounded to half precision nothing would change any more.
        assert not torch.equal(heard[0], heard[0].bfloat16().float())


@torch.no_grad()
def test_training_is_watched_at_one_speed_and_tested_at_all(step):
    with torch.enable_grad():
        brain, batch, _ = step()
    brain.model.tta_speeds = [90, 100, 110]
    heard = []
    brain.model.audio_encoder.register_forward_hook(lambda *_: heard.append(1))
    for stage, times in ((sb.Stage.TRAIN, 1), (sb.Stage.VALID, 1), (sb.Stage.TEST, 3)):
        heard.clear()
        brain.on_stage_start(stage, 1)
        brain.model.train(stage == sb.Stage.TRAIN)
        brain.compute_forward(batch, stage)
        assert len(heard) == times
    brain.on_stage_start(sb.Stage.VALID, 1)
    brain.evaluate_batch(batch, sb.Stage.VALID)
    brain.test_is_logged = False
    brain.on_stage_end(sb.Stage.TEST, 1.0)
    assert brain.model.hears_once is False


def test_mixup_reaches_the_loss_of_training_alone(step):
    brain, batch, _ = step(mixup=2.0, speeds=[100])
    predictions = brain.compute_forward(batch, sb.Stage.TRAIN)
    mixup, objective = brain.mixup, brain.hparams.objective
    loss = brain.compute_objectives(predictions, batch, sb.Stage.TRAIN)
    torch.testing.assert_close(loss, mixup.of_loss(objective, *predictions))
    assert not torch.isclose(loss, objective(*predictions))
    brain.on_stage_start(sb.Stage.VALID)
    brain.compute_objectives(brain.compute_forward(batch, sb.Stage.VALID), batch, sb.Stage.VALID)
    assert brain.mixup is None
