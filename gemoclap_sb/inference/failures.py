"""What is said of a recording that a model could not take."""

from __future__ import annotations

import os

import torch

from gemoclap_sb.data.opening import shown

_NO_MEMORY = ("not enough memory", "allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is a lack of memory, in whatever words an allocator says so.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _NO_MEMORY)


def in_one_line(error: BaseException) -> str:
    """Write an error with its type in one line, without the full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def not_embedded(path: str | os.PathLike, error: BaseException, device: torch.device | str) -> str:
    """Say why a model failed on a recording that was given to it alone."""
    if is_out_of_memory(error):
        return (
            f"Audio file {shown(path)} does not fit into the memory of {device}, even alone. Free "
            "some, use fewer workers, or another device."
        )
    return f"Audio file {shown(path)} cannot be embedded: {in_one_line(error)}."


def not_finite(path: str | os.PathLike, peak: float | None = None) -> str:
    """Say that a model answered NaN or infinity; ``peak`` is the recording's largest sample."""
    found = "" if peak is None else f" of samples up to {peak:.2g}"
    return (
        f"Audio file {shown(path)}: the model makes NaN or infinity{found}; expected float audio "
        "in [-1, 1]."
    )
