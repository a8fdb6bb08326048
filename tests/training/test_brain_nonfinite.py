"""A batch whose loss is no number: left out, named, and no more of them than patience allows."""

from __future__ import annotations

import pytest
import speechbrain as sb
import torch

from gemoclap_sb.training.settings import ExperimentError
from tests.training.test_checkpoint_files import Line, line, trained


def failing(folder, steps, epochs=1, value=float("nan"), **options) -> Line:
    """A brain whose loss is not finite in some steps of each epoch, of which each has four."""
    brain = line(folder, epochs, options=options)
    good = brain.compute_objectives
    brain.weights = []

    def compute_objectives(predictions, batch, stage):
        loss = good(predictions, batch, stage)
        if stage == sb.Stage.TRAIN:
            brain.weights.append(brain.modules.model.weight.item())
            if brain.step in steps:
                # Its gradient would make the weights NaN.
                return loss * value
            brain.finite = [*getattr(brain, "finite", []), loss.item()]
        return loss

    brain.compute_objectives = compute_objectives
    return brain


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batch_leaves_no_trace_but_a_warning_with_its_utterances(tmp_path, caplog, value):
    brain = failing(tmp_path, steps=[1, 3], value=value)
    history, weights, _ = trained(brain)
    # Before the second step as before the first; after the third as before it.
    assert brain.weights[0] == brain.weights[1] != brain.weights[2] == brain.weights[3]
    assert torch.isfinite(weights["weight"]).all()
    assert history[0]["train_loss"] == pytest.approx(sum(brain.finite) / 2)
    warned = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    sampler = brain.train_sampler
    batches = [", ".join(f"u{i}" for i in batch) for batch in sampler.batches(1)]
    assert len(warned) == 2
    for line_, step in zip(warned, (1, 3), strict=True):
        assert f"NaN or infinite in step {step} of epoch 1" in line_
        assert f"for the utterances {batches[step - 1]}: left out" in line_


def test_patience_is_speechbrains(tmp_path):
    brain = failing(tmp_path, steps=[1, 2], nonfinite_patience=1)
    with pytest.raises(ExperimentError) as told:
        trained(brain)
    batch = ", ".join(f"u{i}" for i in brain.train_sampler.batches(1)[1])
    assert f"in step 2 of epoch 1, for the utterances {batch} (2 batches of this epoch" in str(
        told.value
    )
    assert "--nonfinite_patience 1): the training diverged" in str(told.value)
    assert not list(tmp_path.glob("save/CKPT*"))


def test_patience_begins_anew_in_every_epoch(tmp_path):
    history, _, _ = trained(failing(tmp_path, steps=[2], epochs=3, nonfinite_patience=1))
    assert len(history) == 3


def test_epoch_of_nothing_but_such_batches_is_none(tmp_path):
    with pytest.raises(ExperimentError, match="every batch of epoch 1 is NaN or infinite"):
        trained(failing(tmp_path, steps=[1, 2, 3, 4], nonfinite_patience=9))


def test_patience_is_kept_over_an_interruption(tmp_path):
    whole = failing(tmp_path / "whole", steps=[1, 4], nonfinite_patience=1, ckpt_interval_steps=1)
    with pytest.raises(ExperimentError, match="in step 4 of epoch 1"):
        trained(whole)
    # What the fourth step ended is resumed from the third, and has not forgotten the first.
    again = failing(tmp_path / "whole", steps=[4], nonfinite_patience=1, ckpt_interval_steps=1)
    with pytest.raises(ExperimentError, match="in step 4 of epoch 1"):
        trained(again)
    assert len(again.weights) == 1


def test_many_utterances_are_told_in_short(tmp_path):
    brain = line(tmp_path, epochs=1, options={"nonfinite_patience": 0})
    brain.step = brain.epoch = 1
    brain.batch_ids = [f"u{i}" for i in range(100)]
    with pytest.raises(ExperimentError, match=r"utterances u0, u1, .*, u31 and 68 more \("):
        brain.check_loss_isfinite(torch.tensor(float("nan")))


def test_evaluation_names_them_too(tmp_path):
    brain = line(tmp_path, epochs=1)
    good = brain.compute_objectives

    def compute_objectives(predictions, batch, stage):
        loss = good(predictions, batch, stage)
        return loss * (float("nan") if stage == sb.Stage.VALID and "u3" in batch.id else 1.0)

    brain.compute_objectives = compute_objectives
    with pytest.raises(ExperimentError, match=r"VALID: the loss .* for the utterances .*u3"):
        trained(brain)
