"""A folder that SpeechBrain's ``EncoderClassifier.from_hparams`` loads, as modules and their files.

It may be anybody's: its ``hyperparams.yaml`` is read as data, only classes of the modules below are
built, and weights are tensors that ``torch.load(weights_only=True)`` gives. Of what the file
describes, the parts that make an embedding are built and filled; a classifier, its labels and the
``Pretrainer`` are not.
"""

from __future__ import annotations

import functools
import math
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from gemoclap_sb.models.building import CONFIG, built
from gemoclap_sb.models.data_files import check_inside, plain_size
from gemoclap_sb.models.errors import ConfigurationError, shortened, shown
from gemoclap_sb.models.hyperpyyaml_data import HyperPyYAMLData, Named, leaves
from gemoclap_sb.models.limits import RANGES, Budget
from gemoclap_sb.models.speechbrain_weights import fill, read_state
from gemoclap_sb.models.weights import WEIGHTS, WeightsError

HYPERPARAMS = "hyperparams.yaml"
PARTS = ("compute_features", "mean_var_norm", "embedding_model")
SAMPLE_RATE = 16000

# What a file may name, and of these what is built: classes of layers that read and run nothing.
_NAMED = (
    "gemoclap_sb.", "speechbrain.dataio.encoder.", "speechbrain.lobes.", "speechbrain.nnet.",
    "speechbrain.processing.", "torch.nn.", "torchaudio.",
)  # fmt: skip
_NAMED_ALONE = {
    "speechbrain.dataio.preprocess.AudioNormalizer",
    "speechbrain.utils.parameter_transfer.Pretrainer",
}
_BUILT = (
    "gemoclap_sb.lobes.pooling.", "gemoclap_sb.lobes.projection.", "gemoclap_sb.lobes.resnet.",
    "gemoclap_sb.models.towers.PassThrough.", "speechbrain.lobes.features.",
    "speechbrain.lobes.models.CRDNN.CRDNN.", "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN.",
    "speechbrain.lobes.models.ResNet.ResNet.", "speechbrain.lobes.models.Xvector.Xvector.",
    "speechbrain.nnet.", "speechbrain.processing.features.", "torch.nn.modules.",
)  # fmt: skip
_PRETRAINER = {"collect_in", "loadables", "paths"}
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
_RANGES = {
    **RANGES,
    "n_fft": (16, 65_536),
    "n_stft": (1, 32_769),
    "win_length": (1, 10_000),
    "hop_length": (1, 10_000),
    "left_frames": (0, 100),
    "right_frames": (0, 100),
}
_HARMLESS_SIZE = 10**6
# A file in a cache of the hub, to which SpeechBrain makes links in the folder that it collects in.
_BLOB = re.compile(r".*/models--[^/]+/blobs/[0-9a-f]{40,64}")


def is_speechbrain_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder is one of SpeechBrain, and no model of this package."""
    ours = any(os.path.lexists(Path(folder, name)) for name in (CONFIG, WEIGHTS))
    return not ours and os.path.lexists(Path(folder, HYPERPARAMS))


class SpeechBrainFolder:
    """What a folder's ``hyperparams.yaml`` says of an encoder; no weight is read yet.

    Attributes
    ----------
    sample_rate : int
        Of the waveforms, in Hz; 16 kHz where it is not said.
    weights : dict of str to Path
        The file of each of `PARTS` that has one, in the folder itself: of the address that the
        YAML gives, the last part is its name.

    Raises
    ------
    ConfigurationError
        If the file is missing or damaged, names what is not built here, or describes no encoder.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.path = self.folder / HYPERPARAMS
        _check_place(folder, self.path)
        data = HyperPyYAMLData(self.path)
        for tag in sorted(data.tags):
            name = tag.partition(":")[2]
            if not name.startswith(_NAMED) and name not in _NAMED_ALONE:
                raise self._error(
                    f"expected classes of speechbrain.lobes, .nnet and .processing and of torch.nn,"
                    f" found {shortened(tag, 100)}, which was not imported"
                )
        modules = data.get("modules")
        parts = {key: modules.get(key) if isinstance(modules, dict) else None for key in PARTS}
        for key, part in parts.items():
            if not isinstance(part, Named) or not part.is_new:
                raise self._error(
                    f"modules: expected {', '.join(PARTS)}, each a class by !new:, found "
                    f"{shown(part)} for {key}"
                )
        self.parts: dict[str, Named] = parts
        rate = data.get("sample_rate", SAMPLE_RATE)
        low, high = RANGES["sample_rate"]
        if not isinstance(rate, int | float) or not low <= rate <= high or rate != int(rate):
            raise self._error(f"sample_rate: expected {low} to {high:,} Hz, found {shown(rate)}")
        self.sample_rate = int(rate)
        self.weights = self._weights(data)

    def _weights(self, data: HyperPyYAMLData) -> dict[str, Path]:
        pretrainer = data.get("pretrainer")
        given = pretrainer.kwargs if isinstance(pretrainer, Named) else {}
        loadables, paths = given.get("loadables"), given.get("paths") or {}
        both = isinstance(loadables, dict) and isinstance(paths, dict)
        if not both or given.keys() - _PRETRAINER:
            raise self._error(
                f"pretrainer: expected loadables and paths, found {shown(sorted(given))}"
            )
        files = {}
        for key, part in self.parts.items():
            names = [name for name, loadable in loadables.items() if loadable is part]
            if names:
                name = str(paths.get(names[0], f"{names[0]}.ckpt")).rpartition("/")[2]
                if not _PLAIN_NAME.fullmatch(name):
                    raise self._error(
                        f"pretrainer: expected the name of a file, found {shown(name)}"
                    )
                files[key] = self.folder / name
        if "embedding_model" not in files:
            raise self._error(
                "pretrainer: expected the embedding_model among its loadables, found "
                f"{shown(sorted(loadables))}"
            )
        return files

    def checked_weights(self) -> dict[str, Path]:
        """Give `weights`; WeightsError if one is no plain file of the folder."""
        for path in self.weights.values():
            try:
                _check_place(self.folder, path)
                plain_size(path)
            except FileNotFoundError:
                raise WeightsError(
                    f"no file {path} (seen from {Path.cwd()}), whose weights {self.path} asks for. "
                    "Copy or download the whole folder."
                ) from None
            except ConfigurationError as error:
                raise WeightsError(str(error)) from error
        return self.weights

    def _error(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path}: {reason}. This package embeds with SpeechBrain's speaker encoders "
            "(spkrec-ecapa-voxceleb and the like)."
        )

    def load(self) -> dict[str, nn.Module]:
        """Build `PARTS` and fill them, in evaluation mode and without gradients.

        ConfigurationError if that cannot be, WeightsError if a file is missing, damaged, does
        anything but hold tensors, or is of another model.
        """
        states = {key: read_state(path) for key, path in self.checked_weights().items()}
        tensors = [
            one for state in states.values() for one in state.values() if isinstance(one, Tensor)
        ]
        numbers = sum(tensor.numel() for tensor in tensors)
        self._check_sizes(numbers)
        where, made = str(self.path), {}
        with Budget(where, len(tensors), numbers):
            modules = {
                key: built(where, key, _made, part, made) for key, part in self.parts.items()
            }
        for key, module in modules.items():
            if key in states:
                fill(module, states[key], self.weights[key])
            is_global = isinstance(module, InputNormalization) and module.norm_type == "global"
            if is_global and not module.glob_mean.numel():
                raise self._error(f"{key}: expected a file of its statistics, found none")
        return {key: module.eval().requires_grad_(False) for key, module in modules.items()}

    def _check_sizes(self, numbers: int) -> None:
        """Refuse sizes that would fill the memory before anything is built."""
        for key, value in leaves(list(self.parts.values())):
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            most = max(numbers, _HARMLESS_SIZE)
            low, high = _RANGES.get(key, (-most, most))
            if not low <= value <= high or not math.isfinite(value):
                raise self._error(
                    f"{shown(key)}: expected {low:,} to {high:,}, found {shown(value)}"
                )


def _check_place(folder: str | os.PathLike, path: Path) -> None:
    """Refuse a link that points out of a folder, unless to what the hub's cache has."""
    if not _BLOB.fullmatch(Path(os.path.realpath(path)).as_posix()):
        check_inside(folder, path)


def _made(value: Any, made: dict[int, Any]) -> Any:
    """Make objects of what was read, each once; ``made`` holds them by the identity of the read."""
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, Named):
        args, kwargs = _made(value.args, made), _made(value.kwargs, made)
        layer = _layer(value.name)
        if value.is_new:
            found = layer(*args, **kwargs)
        else:
            found = functools.partial(layer, *args, **kwargs) if args or kwargs else layer
    elif isinstance(value, dict):
        found = {key: _made(one, made) for key, one in value.items()}
    elif isinstance(value, list):
        found = [_made(one, made) for one in value]
    else:
        return value
    made[id(value)] = found
    return found


def _layer(name: str) -> type[nn.Module]:
    """Import a class of layers; ConfigurationError for anything else that lies there."""
    module, _, last = name.rpartition(".")
    # Beforehand too: to import a module is to run it.
    is_known = f"{name}.".startswith(("torch.nn.", *_BUILT))
    try:
        found = getattr(import_module(module), last, None) if is_known else None
    except ImportError:
        found = None
    if isinstance(found, type) and issubclass(found, nn.Module):
        # What it is called where it was written: a module also has what it imports.
        own_name = f"{found.__module__}.{found.__qualname__}."
        if own_name.startswith(_BUILT):
            return found
    raise ConfigurationError(
        f"{HYPERPARAMS}: {name} is none of the layers that are built here: those of torch.nn, of "
        "speechbrain.nnet, and of SpeechBrain's encoders (ECAPA_TDNN, Xvector, ResNet, CRDNN)."
    )
