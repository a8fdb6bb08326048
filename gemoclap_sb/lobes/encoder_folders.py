"""An audio encoder alone in a folder, so that another training can begin from it.

An `SSLEncoder` lies there in transformers' own format, which stock transformers reads, and so does
`SSLEncoder` by its ``source``. Any other lobe of the package has its class and arguments in
``config.json`` and its weights in ``model.safetensors``; `load_encoder` fills a lobe from them.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gemoclap_sb.files import atomic_folder, default_mode, read_json, write_json
from gemoclap_sb.lobes.configured import Configured
from gemoclap_sb.lobes.run_encoders import CONFIG, WEIGHTS, encoder_folder
from gemoclap_sb.lobes.ssl_options import SAMPLE_RATE

if TYPE_CHECKING:
    from gemoclap_sb.lobes.ssl import SSLEncoder

_SHOWN = 3


class EncoderFolderError(ValueError):
    """A folder holds no encoder, a damaged one, or another than is wanted."""


def write_encoder(lobe: nn.Module, folder: str | os.PathLike) -> None:
    """Write an audio encoder into a folder, whole or not at all; one that stood there goes.

    Of an `SSLEncoder` with ``layers: weighted`` the model is written, the weights of its layers
    are not: they belong to what reads the frames.

    Parameters
    ----------
    lobe : nn.Module
        An `SSLEncoder`, or a lobe described by its arguments, such as `ResNetEncoder`.
    folder : str or os.PathLike
        For others to name as ``audio_source``.

    Raises
    ------
    ValueError
        If the lobe has an adapter, lacks layers that its configuration has, or is another's.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ResNetEncoder
    >>> folder = getfixture("tmp_path") / "encoder"
    >>> one, other = (ResNetEncoder(channels=[4], strides=[2]) for _ in range(2))
    >>> write_encoder(one, folder)
    >>> load_encoder(other, folder)
    >>> torch.equal(one.stem.weight, other.stem.weight)
    True
    """
    if isinstance(lobe, Configured):
        config = {"class": type(lobe).__name__, "config": lobe.to_config()}
        with atomic_folder(folder) as temporary:
            write_json(temporary / CONFIG, config)
            save_file(_plain(lobe), temporary / WEIGHTS, metadata={"format": "pt"})
            default_mode(temporary / WEIGHTS)
        return
    # Takes transformers along, which is longer to import than all the rest.
    from gemoclap_sb.lobes.ssl import SSLEncoder

    if type(lobe) is not SSLEncoder:
        raise ValueError(
            f"{type(lobe).__name__}: expected an audio encoder of this package (SSLEncoder, "
            "ResNetEncoder), which others can begin from; save this one as its own package does"
        )
    _write_transformers(lobe, folder)


def encoder_description(lobe: nn.Module) -> dict[str, Any]:
    """Say what a lobe computes beside what its weights say: its class, and arguments that matter.

    >>> from gemoclap_sb.lobes import ResNetEncoder
    >>> encoder_description(ResNetEncoder(hop_ms=20, time_masks=0))["hop_ms"]
    20
    """
    kind = {"class": type(lobe).__name__}
    if isinstance(lobe, Configured):
        config = json.loads(json.dumps(lobe.to_config()))
        return kind | {key: of for key, of in config.items() if key not in lobe.TRAINING_ONLY}
    options = getattr(lobe, "options", {})
    return kind | {key: options[key] for key in ("normalize_wav", "layers") if key in options}


def load_encoder(lobe: nn.Module, source: str | os.PathLike) -> None:
    """Fill a lobe that is no `SSLEncoder` with the weights of an encoder that another run trained.

    SpecAugment and whatever else concerns training alone may differ.

    Parameters
    ----------
    lobe : nn.Module
        The lobe, of the class and the arguments of that encoder.
    source : str or os.PathLike
        What `encoder_folder` takes.

    Raises
    ------
    EncoderFolderError
        If there is no such folder, its encoder is another, or it is damaged.
    """
    if not isinstance(lobe, Configured):
        raise EncoderFolderError(
            f"expected a model whose audio encoder is one of this package, to begin from {source}; "
            f"found {type(lobe).__name__}"
        )
    folder = Path(encoder_folder(source))
    _check_config(lobe, folder)
    path = folder / WEIGHTS
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EncoderFolderError(
            f"{path}: expected the encoder's weights, found none or a damaged file "
            f"({' '.join(str(error).split())}); write it again or copy it again"
        ) from error
    own = lobe.state_dict()
    wrong = sorted(own.keys() ^ found.keys())
    wrong += [name for name in own.keys() & found.keys() if own[name].shape != found[name].shape]
    if wrong:
        raise EncoderFolderError(
            f"{path}: expected the weights that its {CONFIG} describes; missing, unknown or of "
            f"another shape: {', '.join(wrong[:_SHOWN])}{', ...' * (len(wrong) > _SHOWN)}"
        )
    lobe.load_state_dict(found)


def _check_config(lobe: Configured, folder: Path) -> None:
    """Compare what a folder's configuration describes with a lobe."""
    path = folder / CONFIG
    if not path.is_file():
        raise EncoderFolderError(
            f"expected a run that has an encoder/ folder, or that folder itself; found no {path}"
        )
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise EncoderFolderError(f"{path} is damaged ({error}); copy it again") from error
    expected = {"class": type(lobe).__name__, "config": lobe.to_config()}
    if not (isinstance(found, Mapping) and isinstance(found.get("config"), Mapping)):
        kind = found.get("model_type") if isinstance(found, Mapping) else None
        told = f"transformers' {kind}" if kind else "another file"
        raise EncoderFolderError(
            f"{path}: expected the class and the arguments of a {expected['class']}, as a run's "
            f"encoder/ has them; found {told}"
        )
    if found.get("class") != expected["class"]:
        raise EncoderFolderError(
            f"{path}: expected a {expected['class']}, which the model has; found a "
            f"{found.get('class')}"
        )
    was, now = found["config"], json.loads(json.dumps(expected["config"]))
    told = [
        f"{key} (there {was.get(key)!r}, here {now.get(key)!r})"
        for key in _differing(was, now)
        if key not in lobe.TRAINING_ONLY
    ]
    if told:
        raise EncoderFolderError(
            f"{path}: expected an encoder made as the model's, found other arguments: "
            f"{', '.join(told)}"
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the keys whose values differ, or that one of the two lacks."""
    missing = object()
    keys = dict.fromkeys([*one, *other])
    return [key for key in keys if one.get(key, missing) != other.get(key, missing)]


def _write_transformers(lobe: SSLEncoder, folder: str | os.PathLike) -> None:
    """Write transformers' own model with a lobe's weights, and its preprocessor."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    config = copy.deepcopy(lobe.config)
    if lobe.options["adapter"]:
        raise ValueError(
            "adapter: an encoder with LoRA is not transformers' model any more, and cannot be "
            "written for others to begin from; train it without an adapter"
        )
    if lobe.depth < config.num_hidden_layers:
        raise ValueError(
            f"layers: an encoder with {lobe.depth} of its {config.num_hidden_layers} layers cannot "
            "be written for others to begin from; train it with layers: last or weighted"
        )
    # The random weights that these replace are never made, and nobody's random state moves.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModel.from_config(config)
    try:
        model.load_state_dict(_plain(lobe.model), assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"expected a lobe with the weights of {type(model).__name__}; "
            f"{' '.join(str(error).split())}"
        ) from error
    preprocessor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE,
        do_normalize=lobe.options["normalize_wav"],
        return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer",
    )
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        preprocessor.save_pretrained(temporary)
        for path in temporary.iterdir():
            default_mode(path)


def _plain(module: nn.Module) -> dict[str, Tensor]:
    """Copy a module's weights to where any reader has them: on the CPU, in their usual order."""
    # Copies, because safetensors refuses tensors that share memory.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
