"""A checkpoint is whole or absent, and the history comes back with it."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.checkpoints import AtomicCheckpointer, History


class DiesWhileSaving(torch.nn.Module):
    """Stands for a process that is killed halfway through a checkpoint."""


def die(obj: torch.nn.Module, path: str) -> None:
    raise KeyboardInterrupt


def test_interrupted_checkpoint_is_not_found(tmp_path):
    layer = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    whole = checkpointer.save_checkpoint(meta={"uar": 0.5})
    checkpointer.add_recoverable("victim", DiesWhileSaving(), custom_save_hook=die)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint(meta={"uar": 0.9})

    again = AtomicCheckpointer(tmp_path, {"layer": layer})
    assert [c.path for c in again.list_checkpoints()] == [whole.path]
    assert again.recover_if_possible(max_key="uar").path == whole.path
    assert {path.name for path in tmp_path.iterdir()} == {whole.path.name}


def test_stock_checkpointer_reads_ours(tmp_path):
    from speechbrain.utils.checkpoints import Checkpointer

    layer = torch.nn.Linear(2, 2)
    AtomicCheckpointer(tmp_path, {"layer": layer}).save_checkpoint()
    other = torch.nn.Linear(2, 2)
    assert Checkpointer(tmp_path, {"layer": other}).recover_if_possible() is not None
    torch.testing.assert_close(other.weight, layer.weight)


def test_best_and_newest_are_kept(tmp_path):
    layer = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for uar in (0.4, 0.9, 0.6):
        torch.nn.init.constant_(layer.weight, uar)
        checkpointer.save_and_keep_only(meta={"uar": uar}, max_keys=["uar"], importance_keys=[])
    assert sorted(c.meta["uar"] for c in checkpointer.list_checkpoints()) == [0.6, 0.9]
    checkpointer.recover_if_possible(max_key="uar")
    assert layer.weight[0, 0].item() == pytest.approx(0.9)


def test_custom_names_and_overwriting(tmp_path):
    layer = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    first = checkpointer.save_checkpoint(name="best")
    torch.nn.init.ones_(layer.weight)
    second = checkpointer.save_checkpoint(name="best")
    assert first.path == second.path
    torch.nn.init.zeros_(layer.weight)
    checkpointer.recover_if_possible()
    assert layer.weight.min() == 1.0
    assert second.paramfiles["layer"].is_file()


def test_history_is_recovered(tmp_path):
    history = History()
    checkpointer = AtomicCheckpointer(tmp_path, {"history": history})
    history.append({"epoch": 1, "valid_uar": 0.25})
    checkpointer.save_checkpoint()
    history.append({"epoch": 2, "valid_uar": 0.5})
    checkpointer.recover_if_possible()
    assert history.records == [{"epoch": 1, "valid_uar": 0.25}]
