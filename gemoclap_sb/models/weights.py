"""Weights to and from safetensors, a format that holds tensors and nothing that could run.

The file is compared with the module by its header, before a tensor is read: names,
shapes and kinds of numbers must be the module's own. Numbers that are none are refused too: a
model with them answers with NaN, or with the same class whatever it hears.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gemoclap_sb.files import default_mode
from gemoclap_sb.models.data_files import plain_size
from gemoclap_sb.models.errors import ConfigurationError, shortened

WEIGHTS = "model.safetensors"
_FLOATS = {"F16", "BF16", "F32", "F64"}
# Enough for tens of thousands of tensors. The reader of safetensors takes 100 MB.
_HEADER_BYTES = 4 * 2**20
_PICKLES = (b"PK\x03\x04", b"\x80")


class WeightsError(ValueError):
    """A file of weights that is damaged, of another format, of another model, or not finite."""


class WeightsSize(NamedTuple):
    """How much a file holds, by its header."""

    tensors: int
    numbers: int


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
    default_mode(path)


def load_weights(module: nn.Module, path: str | os.PathLike, others: bool = False) -> None:
    """Load a module's parameters and buffers from safetensors.

    With ``others`` the file may hold more than the module's, as one of a whole model does
    for the module of one tower. WeightsError as `check_weights` raises it.
    """
    with opened(path) as file:
        _compare(module, file, path, others)
        module.load_state_dict({name: file.get_tensor(name) for name in module.state_dict()})
    # After the conversion to the module's precision, which is narrower than that of some files.
    floats = {n: tensor for n, tensor in module.state_dict().items() if tensor.is_floating_point()}
    for name, is_finite in zip(floats, _are_finite([*floats.values()]), strict=True):
        if not is_finite:
            raise WeightsError(
                f"{path}: {name}: expected finite numbers, found NaN or infinite ones. The "
                "training diverged or the file is damaged; take another export of the model."
            )


def check_weights(module: nn.Module, path: str | os.PathLike, others: bool = False) -> None:
    """Compare a file's header with a module, which may lie on the meta device.

    WeightsError if the file is missing, is not (or no longer) safetensors, or differs from
    the module in its names, shapes or kinds of numbers.
    """
    with opened(path) as file:
        _compare(module, file, path, others)


def weights_size(path: str | os.PathLike, prefix: str = "") -> WeightsSize:
    """Count what a file holds, by its header, of names that begin with ``prefix``.

    WeightsError as `check_weights` raises it.
    """
    with opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        return WeightsSize(len(names), numbers)


def _are_finite(tensors: list[Tensor]) -> list[bool]:
    """Say of each tensor whether all of it is finite, in one pass over the weights."""
    # In double precision no sum of finite weights overflows.
    sums = [tensor.sum(dtype=torch.float64) for tensor in tensors]
    return torch.stack(sums).isfinite().tolist() if sums else []


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
    try:
        size = plain_size(path)
        with path.open("rb") as stream:
            start = stream.read(9)
    except FileNotFoundError:
        raise WeightsError(
            f"no file {path} (seen from {Path.cwd()}). `gemoclap export RUN OUT` writes it."
        ) from None
    except ConfigurationError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}. Give yourself the right to read it."
        ) from error
    # safetensors begins with the length of its header, which can be any number, and a brace.
    if start.startswith(_PICKLES) and not start.endswith(b"{"):
        raise WeightsError(
            f"{path}: expected safetensors, found a pickle, which could run code. It was not "
            "opened; ask its author for an export of this package."
        )
    header = int.from_bytes(start[:8], "little")
    if _HEADER_BYTES < header < size:
        raise WeightsError(
            f"{path}: expected a header of at most {_HEADER_BYTES:,} bytes, found one of "
            f"{header:,}. It is no file that the export of this package has written."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError, MemoryError) as error:
        raise WeightsError(
            f"{path}: expected safetensors, found a file that is damaged or of another format "
            f"({shortened(str(error))}). Copy or download it again."
        ) from error


def _few(names: list[str]) -> str:
    first = ", ".join(shortened(name, 80) for name in names[:3])
    return f"{first or 'none'}{f' and {len(names) - 3} more' * (len(names) > 3)}"
