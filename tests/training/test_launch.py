"""How the processes of torchrun meet."""

from __future__ import annotations

from datetime import timedelta

import pytest
import speechbrain as sb
import torch

from gemoclap_sb.training import launch
from gemoclap_sb.training.launch import join_group
from gemoclap_sb.training.settings import ExperimentError


@pytest.mark.parametrize(
    ("flags", "gpus", "backend"),
    [
        ([], 0, "gloo"),
        (["--device", "cpu"], 2, "gloo"),
        ([], 2, "nccl"),
        (["--device", "cuda:0"], 2, "nccl"),
        (["--distributed_backend", "mpi"], 0, "mpi"),
    ],
)
def test_gloo_where_there_is_no_gpu_unless_asked(flags, gpus, backend, monkeypatch):
    joined = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(
        sb.utils.distributed,
        "ddp_init_group",
        lambda run_opts: joined.append(run_opts["distributed_backend"]),
    )
    run_opts = join_group(sb.parse_arguments(["x.yaml", *flags])[1])
    # A Brain reads only what was given.
    assert joined == [backend] == [run_opts.distributed_backend]
    assert ("distributed_backend" in run_opts.overridden_args) == (backend != "nccl")


def test_more_processes_than_gpus_is_one_line(monkeypatch):
    for name, value in {"RANK": 3, "LOCAL_RANK": 3, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ExperimentError, match="process 3 of 4 .* --nproc_per_node") as told:
        join_group(sb.parse_arguments(["x.yaml"])[1])
    assert "\n" not in str(told.value)


def test_process_that_never_comes_is_not_waited_for(monkeypatch):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    given = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(launch, "PATIENCE", timedelta(seconds=0.2))
    with pytest.raises(ExperimentError, match="process 0 of 2: expected the others .* 0.2 s"):
        join_group(sb.parse_arguments(["x.yaml", "--device", "cpu"])[1])
