"""What to do about a batch that does not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gemoclap_sb.inference.failures import is_out_of_memory


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn what torch says when memory runs out into a RuntimeError of one line, with advice.

    Examples
    --------
    >>> import torch
    >>> with memory_advice("Lower batch_size."):
    ...     raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    Traceback (most recent call last):
    RuntimeError: a batch does not fit into memory. Lower batch_size. (CUDA out of memory.)
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        said = f" ({reason}.)" if reason else ""
        raise RuntimeError(f"a batch does not fit into memory. {advice}{said}") from error
