"""Several processes: what ``torchrun`` starts, and how they meet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import speechbrain as sb
import torch
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.training.run_folder import ExperimentError


class JoinError(ExperimentError):
    """A process cannot join the others, to whom that need not happen."""


def join_group(run_opts: RunOptions) -> RunOptions:
    """Meet the other processes of ``torchrun``, on a CPU by gloo, which nccl does not serve."""
    on_cpu = run_opts.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and "distributed_backend" not in run_opts.overridden_args:
        given = run_opts.overridden_args | {"distributed_backend"}
        run_opts = replace(run_opts, distributed_backend="gloo", overridden_args=given)
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
