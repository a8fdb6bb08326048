"""Work on a manifest in shares: which one this process has, and who hands them out."""

from __future__ import annotations

import importlib.util
import os
import re
from argparse import ArgumentTypeError, Namespace

from gemoclap_sb.cli import inputs
from gemoclap_sb.cli.errors import UsageError

RAY, ENGINES = "ray", ("local", "ray")
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_RANK, _RANKS = "RANK", "WORLD_SIZE"


def add_arguments(add, actors: str) -> None:
    """Add the options to a parser or a group, by its ``add_argument``."""
    help = "only the K-th of N shares, for one of N jobs (default: all; under torchrun its rank's)"
    add("--shard", type=_shard, metavar="K/N", help=help)
    help = "local: this process (default). ray: actors, on the cluster of RAY_ADDRESS or here"
    add("--engine", choices=ENGINES, help=help)
    help = f"with --engine ray (default: {actors})"
    add("--actors", type=inputs.count, metavar="N", help=help)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise ArgumentTypeError(f"expected K/N with K from 1 to N, such as 3/64, found {text}")
    return number, of


def checked_share(options: Namespace) -> tuple[int, int]:
    """Check what is installed and asked for together; give the share as K of N."""
    needed = {"pyarrow": "parquet"} | ({"ray": "ray"} if options.engine == RAY else {})
    for module, extra in needed.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"{module} is needed and not installed. Install it with "
                f"`pip install 'gemoclap_sb[{extra}]'`."
            )
    if options.engine == RAY:
        if options.shard is not None:
            raise UsageError("--shard: Ray divides the work itself; leave it out.")
        if _rank() != (1, 1):
            raise UsageError("--engine ray: divides the work itself; start it without torchrun.")
        return 1, 1
    if options.actors is not None:
        raise UsageError("--actors: goes with --engine ray.")
    if options.shard is not None and _TORCHRUN in os.environ and _rank() != (1, 1):
        raise UsageError("--shard: torchrun's processes have their shares; leave it out.")
    return options.shard or _rank()


def _rank() -> tuple[int, int]:
    """Give the share of a process of torchrun, or of whoever sets the same variables."""
    rank, ranks = os.environ.get(_RANK, ""), os.environ.get(_RANKS, "")
    if not (rank.isdecimal() and ranks.isdecimal()):
        return 1, 1
    if int(rank) >= int(ranks):
        raise UsageError(
            f"{_RANK}={rank} and {_RANKS}={ranks} are set, which is no rank of so many. Unset "
            "both, or give --shard 1/1 for all."
        )
    return int(rank) + 1, int(ranks)
