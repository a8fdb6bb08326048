"""Measurements in processes of their own, so that each has its own peak memory.

Every measurement starts from a fork of a server that has imported the libraries and has
run nothing: no weights, threads or memory of the measurement before it are left.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
import transformers

MEBIBYTE = 1024**2
_PRELOADED = [
    "gemoclap_sb.lobes",
    "gemoclap_sb.models.gemoclap",
    "gemoclap_sb.data.samplers",
    "speechbrain.integrations.huggingface.hubert",
    "speechbrain.integrations.huggingface.textencoder",
    "speechbrain.integrations.huggingface.wavlm",
    "transformers.models.data2vec.modeling_data2vec_audio",
    "transformers.models.hubert.modeling_hubert",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.wav2vec2.modeling_wav2vec2",
]


class OutOfMemory(RuntimeError):
    """The device's memory did not suffice."""


class MeasurementError(RuntimeError):
    """A measurement failed."""


def in_child(function: Callable, *arguments: object) -> object:
    """Call a function in a fresh process and return what it returns.

    Parameters
    ----------
    function : Callable
        Importable by its module's name.
    *arguments
        Passed on; must be picklable.

    Returns
    -------
    object

    Raises
    ------
    OutOfMemory
        If the accelerator's memory did not suffice.
    MeasurementError
        If the function raised anything else, or the process died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        outcome, value = receiver.recv()
    except EOFError:
        process.join()
        raise MeasurementError(
            f"the measuring process ended with code {process.exitcode} and no result; -9 is what "
            "a lack of memory looks like: use a smaller --size, --duration-scale or --batch-size"
        ) from None
    process.join()
    if outcome == "out of memory":
        raise OutOfMemory(value)
    if outcome == "error":
        raise MeasurementError(f"the measuring process failed:\n{value}")
    return value


def _report(sender: Connection, function: Callable, arguments: tuple) -> None:
    # The stock path's deprecation notes would stand between the tables.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    try:
        result = ("result", function(*arguments))
    except torch.OutOfMemoryError as error:
        result = ("out of memory", str(error))
    except Exception:
        result = ("error", traceback.format_exc())
    sender.send(result)


class PeakMemory:
    """Peak memory of this process from now on.

    On a GPU the allocator's peak, `torch.cuda.max_memory_allocated`. On the CPU the peak of
    the resident set (`ru_maxrss`) less what it was at the start; it only ever rises, so a
    process measures once.

    Parameters
    ----------
    device : str
        `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            # The statistics exist once the driver has been started.
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        self.start = 0.0 if device == "cuda" else _peak_resident()

    def read(self) -> float:
        """MiB since the start."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / MEBIBYTE
        return _peak_resident() - self.start


def _peak_resident() -> float:
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
