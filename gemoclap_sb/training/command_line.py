"""The command line of an experiment: its YAML, keys of it, and SpeechBrain's own options.

SpeechBrain's reader writes the keys and values as YAML, and on its way takes every ``=`` for the
end of a key, ``#`` for a comment and ``2024-01-01`` for a date. Names and paths are quoted before
it sees them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.training.keys import AS_TYPED, KEYS, Kind, choice, number, refusal, whole
from gemoclap_sb.training.settings import ExperimentError, read_overrides

_PRECISION = choice("fp32", "fp16", "bf16")
RUN_OPTIONS: dict[str, Kind] = {
    **dict.fromkeys(("debug_batches", "debug_epochs", "grad_accumulation_factor"), whole(1)),
    **dict.fromkeys(("nonfinite_patience", "ckpt_interval_steps"), whole(0)),
    "ckpt_interval_minutes": number(0),
    "max_grad_norm": number(0),
    "optimizer_step_limit": Kind(
        whole(1).expected, lambda value: value is None or whole(1).takes(value)
    ),
    **dict.fromkeys(("precision", "eval_precision"), _PRECISION),
    "distributed_backend": choice("nccl", "gloo", "mpi"),
    "compile_mode": choice("default", "reduce-overhead", "max-autotune"),
    "profile_warmup": whole(0),
    "profile_steps": whole(1),
}
_NO_YAML = "expected the YAML of an experiment first, as in {}; found none."
_OPTIONS = frozenset(field.name for field in dataclasses.fields(RunOptions))


def parse_arguments(argv: Sequence[str]) -> tuple[str, RunOptions, dict[str, Any]]:
    """Read a command line: the YAML's path, SpeechBrain's options, and the keys that were given.

    ExperimentError for what cannot be, in one line.

    >>> path, _, given = parse_arguments(["x.yaml", "--seed", "2", "--data_folder", "/a=b #1"])
    >>> path, given
    ('x.yaml', {'seed': 2, 'data_folder': '/a=b #1'})
    """
    if is_help(argv):
        print(f"{_usage()}, where the keys are those of the YAML. SpeechBrain's own options:\n")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            hparams_file, run_opts, overrides = sb.parse_arguments(_quoted(argv))
    except SystemExit as error:
        if not error.code:
            raise
        # The last line says what; before it stand all options there are.
        *_, line = printed.getvalue().strip().splitlines()
        if "param_file" in line:
            raise ExperimentError(_NO_YAML.format(_usage())) from error
        raise ExperimentError(line.partition("error: ")[2] or line) from error
    return hparams_file, checked_run_options(run_opts), read_overrides(overrides)


def is_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks what there is to ask."""
    return not {"-h", "--help"}.isdisjoint(argv)


def checked_run_options(run_opts: RunOptions, settings: Mapping[str, Any] = {}) -> RunOptions:
    """Refuse SpeechBrain's own options where they cannot be; ``settings`` may hold some too.

    An option of the command line comes before a key of that name, as in SpeechBrain.
    """
    found = {
        name: run_opts[name]
        if name in run_opts.overridden_args
        else settings.get(name, run_opts[name])
        for name in _OPTIONS
    }
    limit = found["optimizer_step_limit"]
    if isinstance(limit, str) and limit.isdecimal():
        # SpeechBrain leaves it text.
        found["optimizer_step_limit"] = int(limit)
        run_opts = dataclasses.replace(run_opts, optimizer_step_limit=int(limit))
    for name, kind in RUN_OPTIONS.items():
        if not kind.takes(found[name]):
            raise ExperimentError(f"--{name}: {refusal(kind.expected, found[name])}.")
    if found["ckpt_interval_minutes"] and found["ckpt_interval_steps"]:
        raise ExperimentError("give --ckpt_interval_minutes or --ckpt_interval_steps, not both.")
    on_gpu = _check_device(found["device"])
    if not on_gpu and "fp16" in (found["precision"], found["eval_precision"]):
        raise ExperimentError("--precision fp16 needs a GPU: give bf16, or leave it out.")
    if found["data_parallel_backend"] and not on_gpu:
        raise ExperimentError("--data_parallel_backend needs a GPU: leave it out.")
    return run_opts


def _usage() -> str:
    return f"{Path(sys.argv[0]).name} hparams/FILE.yaml [--key value ...]"


def _check_device(name: Any) -> bool:
    """Refuse a device that is not there; whether it is one with half precision, a GPU."""
    if name is None:
        return torch.cuda.is_available()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ExperimentError(
            f"--device: expected cpu, cuda or cuda:N, found {str(name)!r}."
        ) from error
    if device.type == "cpu":
        return False
    there = device.type == "cuda" and torch.cuda.is_available()
    there = there or (device.type == "mps" and torch.backends.mps.is_available())
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not there or (device.index or 0) >= count:
        found = f"{count} of that kind" if there else "none of that kind that it could train on"
        raise ExperimentError(
            f"--device {name}: torch finds {found} here. Give --device cpu, or leave it out."
        )
    return True


def _quoted(argv: Sequence[str]) -> list[str]:
    """Put names and paths in quotes, so that SpeechBrain and YAML leave them as they are."""
    quoted, key, named = [], None, is_help(argv)
    for argument in map(os.fspath, argv):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            _check_value(key)
            _check_option(name)
            key = name if name not in _OPTIONS and not equals else None
            if equals and name not in _OPTIONS:
                argument = f"--{name}={_value(name, value)}"
        elif key is not None:
            if not named:
                # SpeechBrain would take the value for the YAML.
                break
            argument, key = _value(key, argument), None
        else:
            named = True
        quoted.append(argument)
    if not named:
        raise ExperimentError(_NO_YAML.format(_usage()))
    _check_value(key)
    return quoted


def _check_value(waiting: str | None) -> None:
    """Refuse a key that still waits for its value; it would be null."""
    if waiting not in (None, "help"):
        unknown = (
            "" if waiting in KEYS else "no option of SpeechBrain's, and as a key of the YAML: "
        )
        raise ExperimentError(f"--{waiting}: {unknown}expected a value after it, found none.")


def _value(key: str, value: str) -> str:
    """Give a value as SpeechBrain may read it."""
    is_yaml = value in ("null", "~") or value.startswith(('"', "'", "!"))
    if key in AS_TYPED and not is_yaml:
        # Not as ASCII: YAML knows no pairs of surrogates.
        return json.dumps(value, ensure_ascii=False).replace("=", "\\x3d")
    if "=" in value:
        raise ExperimentError(
            f"--{key}: SpeechBrain's command line takes an = in a value apart; set it in the YAML, "
            f"or write it as \\x3d in double quotes. Found {value!r}."
        )
    return value


def _check_option(name: str) -> None:
    """Refuse the beginning of an option, which argparse would take and SpeechBrain not heed."""
    if name not in _OPTIONS and (whole := [one for one in _OPTIONS if one.startswith(name)]):
        raise ExperimentError(f"--{name}: write the option out: --{' or --'.join(sorted(whole))}.")
