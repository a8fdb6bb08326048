"""Several processes: what ``torchrun`` starts, and how they meet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import speechbrain as sb
import torch
from speechbrain.utils.run_opts import RunOptions
from torch.distributed import TCPStore

from gemoclap_sb.training.settings import ExperimentError

# Between the first process that is there and the last: to import may take long on a slow disk.
PATIENCE = timedelta(minutes=5)


class JoinError(ExperimentError):
    """A process cannot join the others, to whom that need not happen."""


def join_group(run_opts: RunOptions) -> RunOptions:
    """Meet the other processes of ``torchrun``, on a CPU by gloo, which nccl does not serve."""
    on_cpu = run_opts.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and "distributed_backend" not in run_opts.overridden_args:
        given = run_opts.overridden_args | {"distributed_backend"}
        run_opts = replace(run_opts, distributed_backend="gloo", overridden_args=given)
    _await_others()
    try:
        sb.utils.distributed.ddp_init_group(run_opts)
    except (ValueError, RuntimeError) as error:
        raise JoinError(
            f"torchrun: process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} cannot "
            f"join by {run_opts.distributed_backend} ({' '.join(str(error).split())}): give "
            f"--nproc_per_node as many GPUs as there are ({torch.cuda.device_count()}), or "
            "--device cpu."
        ) from error
    return run_opts


def _await_others() -> None:
    """Wait for all processes that torchrun starts; SpeechBrain would wait for two hours."""
    given = os.environ
    if given.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    here = f"gemoclap_sb/here/{given.get('TORCHELASTIC_RESTART_COUNT')}"
    try:
        address = given["MASTER_ADDR"], int(given["MASTER_PORT"])
        store = TCPStore(*address, is_master=False, timeout=PATIENCE)
        store.set(f"{here}/{given['RANK']}", "")
        store.wait([f"{here}/{rank}" for rank in range(int(given["WORLD_SIZE"]))], PATIENCE)
    except RuntimeError as error:
        raise JoinError(
            f"torchrun: process {given['RANK']} of {given['WORLD_SIZE']}: expected the others at "
            f"{address[0]}:{address[1]} within {PATIENCE.total_seconds():g} s, and some are "
            "missing. Look at what their commands say, and start all of them."
        ) from error


def without_launch_flag(argv: Sequence[str] | None) -> list[str]:
    """Accept ``--distributed_launch``, which SpeechBrain 1.1 has replaced by torchrun."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--distributed_launch" in argv:
        if "RANK" not in os.environ:
            raise ExperimentError(
                "--distributed_launch needs torchrun: "
                "torchrun --nproc_per_node=N train.py hparams/x.yaml ..."
            )
        argv.remove("--distributed_launch")
    return argv
