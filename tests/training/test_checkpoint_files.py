"""A run whose newest checkpoint is damaged ends as an undisturbed one, or says why it cannot."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch import nn

from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import SUMS
from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History, recorded_history
from gemoclap_sb.training.settings import ExperimentError

ROWS = {f"u{i}": {"duration": 1.0, "x": i / 8 - 1} for i in range(16)}
FILES = ("model.ckpt", "optimizer.ckpt", "history.ckpt", "counter.ckpt", "brain.ckpt", "CKPT.yaml")


class Line(ResumableBrain):
    """Learns to double a number, with noise that comes from the step's seed."""

    def compute_forward(self, batch, stage):
        x = batch["x"].data.reshape(-1, 1).float()
        noise = torch.randn_like(x) if stage == sb.Stage.TRAIN else 0.0
        return self.modules.model(x + 0.1 * noise), x

    def compute_objectives(self, predictions, batch, stage):
        out, x = predictions
        return (out - 2 * x).square().mean()


def line(folder: Path, epochs: int, seed: int = 0, options: Mapping | None = None) -> Line:
    """A brain over a folder; its weights at the start follow from the seed."""
    torch.manual_seed(seed)
    model, history, counter = nn.Linear(1, 1), History(), EpochCounter(epochs)
    recoverables = {"model": model, "history": history, "counter": counter}
    return Line(
        {"model": model},
        lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        {
            "seed": 1, "epoch_counter": counter, "history": history, "batch_size": 4,
            "pool_batches": 1, "valid_batch_size": 4, "num_workers": 0,
            "train_logger": FileTrainLogger(str(folder / "log.txt")),
        },
        {"device": "cpu", "noprogressbar": True, **(options or {})},
        AtomicCheckpointer(folder / "save", recoverables),
    )  # fmt: skip


def trained(brain: Line) -> tuple[list[dict], dict[str, torch.Tensor], float]:
    """Train to the end: the history, the weights, and the loss of the best checkpoint."""
    data = sb.dataio.dataset.DynamicItemDataset(ROWS, output_keys=["id", "x"])
    brain.fit(
        brain.hparams.epoch_counter,
        data,
        data,
        train_loader_kwargs=brain.train_loader_options(ROWS),
        valid_loader_kwargs=brain.evaluation_loader_options(ROWS),
    )
    history = list(brain.hparams.history.records)
    weights = {name: of.clone() for name, of in brain.modules.model.state_dict().items()}
    brain.evaluate_best(data, ROWS)
    return history, weights, brain.tested.meta["epoch"]


def newest(folder: Path) -> Path:
    return Checkpointer(folder / "save").find_checkpoint().path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple:
    return trained(line(tmp_path_factory.mktemp("whole"), epochs=5))


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """Three epochs of five."""
    folder = tmp_path_factory.mktemp("begun")
    trained(line(folder, epochs=3))
    return folder


@pytest.fixture
def run(begun, tmp_path) -> Path:
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Change a byte in the middle, as a disk does: the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


WAYS = (truncate, empty, flip, garbage, os.unlink)


def assert_same(one: tuple, other: tuple) -> None:
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert all(torch.equal(of, other[1][name]) for name, of in one[1].items())


@pytest.mark.parametrize("name", [*FILES, SUMS])
@pytest.mark.parametrize("way", WAYS)
def test_run_falls_back_and_ends_as_an_undisturbed_one(
    name: str, way: Callable, run, undisturbed, caplog
):
    damaged = newest(run)
    way(damaged / name)
    with caplog.at_level(logging.WARNING):
        # Other weights at the start: what is not loaded is seen.
        found = trained(line(run, epochs=5, seed=9))
    assert_same(found, undisturbed)
    said = [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()]
    # Without the sums the files are only read, and they can be.
    assert len(said) == (0 if (name, way) == (SUMS, os.unlink) else 1)
    for line_said in said:
        assert str(damaged) in line_said and "is used instead" in line_said
        assert "\n" not in line_said and "weights_only" not in line_said


@pytest.mark.parametrize("way", ["emptied", "file", "no meta"])
def test_a_folder_that_is_no_checkpoint_any_more_is_told(way, run, undisturbed, caplog):
    damaged = newest(run)
    if way == "no meta":
        (damaged / SUMS).unlink()
        (damaged / "CKPT.yaml").unlink()
    else:
        shutil.rmtree(damaged)
        damaged.mkdir() if way == "emptied" else damaged.touch()
    with caplog.at_level(logging.WARNING):
        assert_same(trained(line(run, epochs=5, seed=9)), undisturbed)
    assert f"{damaged} is damaged" in caplog.text


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("way", [truncate, empty, os.unlink])
def test_checkpoints_of_before_there_were_sums(name, way, run, undisturbed):
    for sums in run.glob(f"save/CKPT*/{SUMS}"):
        sums.unlink()
    way(newest(run) / name)
    assert_same(trained(line(run, epochs=5, seed=9)), undisturbed)


def test_checkpoint_amid_an_epoch_leaves_no_place_behind(run, undisturbed):
    """Its dataloader's place would be taken over into the epoch that is begun again."""
    brain = line(run, epochs=5, options={"ckpt_interval_steps": 3})
    save = brain._save_intra_epoch_ckpt
    brain._save_intra_epoch_ckpt = lambda: (save(), (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trained(brain)
    for sums in run.glob(f"save/CKPT*/{SUMS}"):
        sums.unlink()
    assert (newest(run) / "dataloader-TRAIN.ckpt").read_text() == "3"
    truncate(newest(run) / "optimizer.ckpt")
    assert_same(trained(line(run, epochs=5, seed=9)), undisturbed)


def test_if_none_can_be_loaded_nothing_is_trained(run):
    for path in run.glob("save/CKPT*"):
        empty(path / "model.ckpt")
    names = sorted(path.name for path in run.glob("save/*"))
    with pytest.raises(ExperimentError, match="none of its . checkpoints can be loaded") as told:
        trained(line(run, epochs=5))
    assert "Put one back" in str(told.value) and "\n" not in str(told.value)
    assert sorted(path.name for path in run.glob("save/*")) == names


def test_best_that_is_gone_is_no_result_of_another(run):
    """The checkpoint of the first epoch is deleted by the second, since the losses fall."""
    brain = line(run, epochs=3)
    brain.checkpointer.recover_if_possible()
    brain.hparams.history.records[0]["valid_loss"] = 0.0
    with pytest.raises(ExperimentError, match="checkpoint of epoch 1, the best by loss, is gone"):
        brain.evaluate_best(
            sb.dataio.dataset.DynamicItemDataset(ROWS, output_keys=["id", "x"]), ROWS
        )


def test_history_is_read_past_a_damaged_checkpoint(run):
    assert [record["epoch"] for record in recorded_history(run / "save")] == [1, 2, 3]
    empty(newest(run) / "history.ckpt")
    assert [record["epoch"] for record in recorded_history(run / "save")] == [1, 2]


def test_nothing_that_is_pickled_is_run(run, tmp_path, undisturbed):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    damaged = newest(run)
    torch.save({"weight": Evil()}, damaged / "model.ckpt")
    (damaged / SUMS).unlink()
    assert_same(trained(line(run, epochs=5, seed=9)), undisturbed)
    assert not (tmp_path / "pwned").exists()
