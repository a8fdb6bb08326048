"""A checkpoint is whole or absent, and the history comes back with it."""

from __future__ import annotations

import os
import time

import pytest
import torch

from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History


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


def test_best_and_newest_and_one_to_fall_back_to_are_kept(tmp_path):
    layer = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for uar in (0.4, 0.9, 0.3, 0.5, 0.6):
        torch.nn.init.constant_(layer.weight, uar)
        checkpointer.save_and_keep_only(meta={"uar": uar}, max_keys=["uar"], importance_keys=[])
    assert sorted(c.meta["uar"] for c in checkpointer.list_checkpoints()) == [0.5, 0.6, 0.9]
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


def saving_process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    # SpeechBrain asks the environment which process it is in.
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    checkpointer = AtomicCheckpointer(f"{folder}/save", {"layer": torch.nn.Linear(2, 2)})
    if rank == 0:
        # The main process is slow to rename; the other must not run ahead meanwhile.
        replace = os.replace
        os.replace = lambda *paths: (time.sleep(0.2), replace(*paths))
    for step in range(4):
        checkpointer.save_and_keep_only(
            meta={"uar": -step}, max_keys=["uar"], importance_keys=[], num_to_keep=1
        )
        names = sorted(path.name for path in checkpointer.checkpoints_dir.iterdir())
        seen = [None, None]
        dist.all_gather_object(seen, names)
        assert seen[0] == seen[1]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_about_the_checkpoints(tmp_path):
    context = torch.multiprocessing.spawn(saving_process, (str(tmp_path),), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    assert len(list((tmp_path / "save").glob("CKPT*"))) == 3
