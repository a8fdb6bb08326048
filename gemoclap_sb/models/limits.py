"""How much a model's description may ask for: numbers, sentences, and tensors at its building.

The weights say how large a model is. What they do not bound (how often a shared layer runs,
how finely audio is cut) has limits here, far from those of any published model, so that no
description fills the memory or keeps a machine busy.
"""

from __future__ import annotations

import inspect
import math
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch.overrides import TorchFunctionMode

from gemoclap_sb.models.errors import ConfigurationError, shortened, shown

# The whole of a description's keys with a number, or a list of them, that weights do not bound.
RANGES: dict[str, tuple[float, float]] = {
    "layers": (1, 200),
    "num_hidden_layers": (1, 200),
    "n_layers": (1, 200),
    "num_hidden_groups": (1, 200),
    "inner_group_num": (1, 200),
    "num_feat_extract_layers": (1, 32),
    "num_attention_heads": (1, 256),
    "n_heads": (1, 256),
    "heads": (1, 256),
    "conv_kernel": (1, 1000),
    "conv_stride": (1, 1000),
    "max_bytes": (1, 65_536),
    "max_bucket_distance": (1, 100_000),
    "sample_rate": (1000, 192_000),
    "n_mels": (1, 256),
    "window_ms": (1, 250),
    "hop_ms": (1, 250),
    "time_masks": (0, 1000),
    "time_mask_ms": (0, 100_000),
    "frequency_masks": (0, 1000),
    "frequency_mask_bands": (0, 1000),
    "trim_db": (0, 300),
    "cosine_scale": (0, 1000),
}
LONGEST_SECONDS = 0.1, 3600.0
SCALES = 1e-6, 1e12
_LONGEST_LIST = 512
_LONGEST = {"tta_speeds": 32, "heads": 64, "target_layers": 64, "unfrozen_layers": 64}
_SAMPLES_PER_FRAME = 80, 3200
_LONGEST_FRAME = 16_000
_SENTENCES, _CHARACTERS, _LONGEST_TEXT = 4096, 500_000, 1000
_MEMBERS = 64


def check_description_bounds(where: str, config: Mapping[str, Any]) -> None:
    """Refuse counts and sizes out of bounds anywhere in a description, by a ConfigurationError."""
    for path, value in _leaves(config, ()):
        key = next((part for part in reversed(path) if isinstance(part, str)), "")
        name = ".".join(map(str, path))
        if isinstance(value, list | dict):
            if len(value) > (most := _LONGEST.get(key, _LONGEST_LIST)):
                raise ConfigurationError(
                    f"{where}: {shortened(name, 80)}: expected at most {most} values, found "
                    f"{len(value):,}."
                )
        elif key in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
            low, high = RANGES[key]
            if not low <= value <= high:
                raise ConfigurationError(
                    f"{where}: {name}: expected {low} to {high:,}, found {shown(value)}."
                )
        if isinstance(value, dict) and isinstance(value.get("conv_stride"), list):
            _check_frames(f"{where}: {name}", value)


def check_members(where: str, count: int) -> None:
    """Refuse an ensemble of more models than anybody averages."""
    if count > _MEMBERS:
        raise ConfigurationError(f"{where}: expected at most {_MEMBERS} members, found {count:,}.")


def _check_frames(where: str, config: Mapping[str, Any]) -> None:
    """Refuse a convolutional front end with frames that are too many, too few or too long."""
    strides, kernels = config["conv_stride"], config.get("conv_kernel")
    if not isinstance(kernels, list) or not all(isinstance(n, int) for n in strides + kernels):
        raise ConfigurationError(f"{where}: expected whole numbers in conv_kernel and conv_stride.")
    low, high = _SAMPLES_PER_FRAME
    hop = math.prod(strides)
    frame = 1 + sum(
        (kernel - 1) * math.prod(strides[:i]) for i, kernel in enumerate(kernels[: len(strides)])
    )
    if not low <= hop <= high or frame > _LONGEST_FRAME:
        raise ConfigurationError(
            f"{where}: conv_stride and conv_kernel: expected a frame every {low} to {high} samples "
            f"that sees {_LONGEST_FRAME} at most, found one every {hop:,} that sees {frame:,}."
        )


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Walk plain data: each value with its place, containers included."""
    yield path, value
    items = value.items() if isinstance(value, Mapping) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from _leaves(inner, (*path, key))


def check_sentences(
    where: str, words: Mapping[str, Mapping[str, str]], templates: Mapping[str, Sequence[str]]
) -> None:
    """Refuse empty and endless texts, and templates that multiply into too many sentences.

    A template has a sentence for each word of each attribute that it names.
    """
    texts = [*words, *(text for of in words.values() for pair in of.items() for text in pair)]
    texts += [text for of in templates.values() for text in of]
    for text in texts:
        if not text.strip() or len(text) > _LONGEST_TEXT:
            raise ConfigurationError(
                f"{where}: expected labels, words and templates of 1 to {_LONGEST_TEXT} "
                f"characters, found {shown(text, 40)} of {len(text):,}."
            )
    count = characters = 0
    for attribute, of in templates.items():
        for template in of:
            names = {
                name or attribute
                for _, name, _, _ in Formatter().parse(template)
                if name is not None
            }
            number = math.prod(len(words[name]) for name in names)
            longest = len(template) + sum(max(map(len, words[name].values())) for name in names)
            count, characters = count + number, characters + number * longest
    if count > _SENTENCES or characters > _CHARACTERS:
        raise ConfigurationError(
            f"{where}: words and templates: expected at most {_SENTENCES:,} sentences of "
            f"{_CHARACTERS:,} characters together, found {count:,} of {characters:,}."
        )


def check_arguments(cls: type, config: Mapping[str, Any]) -> None:
    """Compare a description's values with the annotations of a constructor; TypeError names one.

    A ``"no"`` that Python takes for true would else build another model without a word.

    Examples
    --------
    >>> from gemoclap_sb.lobes.text import ByteTextEncoder
    >>> check_arguments(ByteTextEncoder, {"layers": "2"})
    Traceback (most recent call last):
    TypeError: layers: expected int, found '2'
    """
    hints = _hints(cls)
    for name, value in config.items():
        if name in hints and not _fits(value, hints[name]):
            expected = inspect.formatannotation(hints[name])
            raise TypeError(f"{name}: expected {expected}, found {shown(value, 80)}")


def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls.__init__)


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a value of JSON is what an annotation says; lists and objects count as theirs."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if hint in (Any, object):
        return True
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    return isinstance(value, int | float if hint is float else hint)


class Budget(TorchFunctionMode):
    """While it is entered, no more tensors and numbers are made than a file of weights explains.

    ``tensors`` and ``numbers`` are those of the file. What is made beside the weights (tables
    of positions, filters) fits into the allowance. ConfigurationError by the call that goes
    beyond, before it allocates.

    Examples
    --------
    >>> with Budget("config.json", tensors=2, numbers=6):
    ...     torch.nn.Linear(10**6, 10**6)
    Traceback (most recent call last):
    gemoclap_sb.models.errors.ConfigurationError: config.json: ...
    """

    def __init__(self, where: str, tensors: int, numbers: int) -> None:
        super().__init__()
        self.where, self.of_file = where, (tensors, numbers)
        self.tensors, self.numbers = 2 * tensors + 200, 2 * numbers + 2**24

    def __torch_function__(
        self, func: Any, kinds: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what a factory of torch is asked for, then call it."""
        kwargs = kwargs or {}
        if func in _FACTORIES:
            size = kwargs.get("size", args)
            size = size[0] if len(size) == 1 and isinstance(size[0], list | tuple) else size
            self.tensors -= 1
            self.numbers -= math.prod(side for side in size if isinstance(side, int))
            if min(self.tensors, self.numbers) < 0:
                tensors, numbers = self.of_file
                raise ConfigurationError(
                    f"{self.where}: model: expected one of about the {tensors:,} tensors and "
                    f"{numbers:,} numbers of its weights, found a larger one. The weights belong "
                    f"to another {os.path.basename(self.where)}."
                )
        return func(*args, **kwargs)


_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}
