"""Weights to and from safetensors, a format that holds tensors and nothing that could run.

The file is compared with the module by its header, before a tensor is read: names,
shapes and kinds of numbers must be the module's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"
_FLOATS = {"F16", "BF16", "F32", "F64"}
_PICKLES = (b"PK\x03\x04", b"\x80")


class WeightsError(ValueError):
    """A file of weights that is damaged, of another format, or of another model."""


def save_weights(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors by name as safetensors, with one word about them in its header.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "layer.safetensors"
    >>> save_weights(nn.Linear(2, 3).state_dict(), path)
    >>> load_weights(nn.Linear(2, 3), path)
    """
    # Copies, because safetensors refuses tensors that share memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    # One word only: safetensors writes several in any order, and equal files would differ.
    save_file(plain, str(path), metadata=metadata or {"format": "pt"})
    # safetensors writes for the owner's eyes only; a model is for others too.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def load_weights(module: nn.Module, path: str | os.PathLike, others: bool = False) -> None:
    """Load a module's parameters and buffers from safetensors.

    With ``others`` the file may hold more than the module's, as one of a whole model does
    for the module of one tower. WeightsError as `check_weights` raises it.
    """
    with opened(path) as file:
        _compare(module, file, path, others)
        module.load_state_dict({name: file.get_tensor(name) for name in module.state_dict()})


def check_weights(module: nn.Module, path: str | os.PathLike, others: bool = False) -> None:
    """Compare a file's header with a module, which may lie on the meta device.

    WeightsError if the file is missing, is not (or no longer) safetensors, or differs from
    the module in its names, shapes or kinds of numbers.
    """
    with opened(path) as file:
        _compare(module, file, path, others)


def count_weights(path: str | os.PathLike) -> int:
    """Count the numbers that a file holds, by its header."""
    with opened(path) as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _compare(module: nn.Module, file: safe_open, path: str | os.PathLike, others: bool) -> None:
    expected = module.state_dict()
    found = set(file.keys())
    missing = sorted(set(expected) - found)
    unknown = [] if others else sorted(found - set(expected))
    if missing or unknown:
        raise WeightsError(
            f"{path}: expected the weights of this model, found none for {_few(missing)} and "
            f"unknown ones {_few(unknown)}. The file belongs to another config.json."
        )
    for name, tensor in expected.items():
        part = file.get_slice(name)
        shape, kind = list(part.get_shape()), part.get_dtype()
        if shape != list(tensor.shape) or tensor.is_floating_point() != (kind in _FLOATS):
            raise WeightsError(
                f"{path}: {name}: expected {tensor.dtype} {list(tensor.shape)}, found {kind} "
                f"{shape}. The file belongs to another config.json."
            )


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[safe_open]:
    """Open safetensors; WeightsError if a file is missing, a pickle, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"no file {path} (seen from {Path.cwd()}). `gemoclap export RUN OUT` writes it."
        )
    with path.open("rb") as stream:
        start = stream.read(9)
    # safetensors begins with the length of its header, which can be any number, and a brace.
    if start.startswith(_PICKLES) and not start.endswith(b"{"):
        raise WeightsError(
            f"{path}: expected safetensors, found a pickle, which could run code. It was not "
            "opened; ask its author for an export of this package."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: expected safetensors, found a file that is damaged or of another format "
            f"({error}). Copy or download it again."
        ) from error


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3]) or 'none'}{f' and {len(names) - 3} more' * (len(names) > 3)}"
