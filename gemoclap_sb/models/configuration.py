"""``config.json``: a model's description, its prompts and its waveforms, as plain data.

It is written when a run starts, travels with the exported model, and is all that is
needed to build the model again without the encoder's hub page or folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger
from torch import nn

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.files import write_json
from gemoclap_sb.lobes.text import TextEncoder
from gemoclap_sb.models.building import (
    CONFIG,
    ConfigurationError,
    built,
    check_keys,
    is_count,
    model_config,
)

logger = get_logger(__name__)

TOKENIZER = "tokenizer"
FORMAT, FORMAT_VERSION = "gemoclap_sb", 1

_REQUIRED = ("format", "format_version", "sample_rate", "model", "words", "templates", "labels")
_OPTIONAL = ("temperatures", "metrics", "longest_seconds")


def run_config(model: nn.Module, prompts: Prompts, sample_rate: int = 16000) -> dict[str, Any]:
    """Describe a model, its prompts and its waveforms: what ``config.json`` holds.

    Parameters
    ----------
    model : nn.Module
        See `gemoclap_sb.models.building.model_config`.
    prompts : Prompts
        The labels and the sentences that say them.
    sample_rate : int
        Rate of the waveforms that the model sees, in Hz.

    Returns
    -------
    dict
        Plain data, ready for JSON.

    Raises
    ------
    ConfigurationError
        As `gemoclap_sb.models.building.model_config` raises it.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": sample_rate,
        "model": model_config(model),
        **prompts.to_config(),
        # Readers of JSON need not keep the order of words, and it is that of the classes.
        "labels": prompts.classes,
    }


def write_run_config(
    folder: str | os.PathLike, model: nn.Module, prompts: Prompts, sample_rate: int = 16000
) -> Path:
    """Write ``config.json``, and ``tokenizer/`` where the text lobe has one, into a run's folder.

    A model that cannot be described (a lobe from elsewhere, or the cross-entropy
    baseline) trains all the same: its ``config.json`` then holds the reason, which
    the export repeats. Call it on the main process only.

    Parameters
    ----------
    folder : str or os.PathLike
        The run's folder.
    model, prompts, sample_rate
        See `run_config`.

    Returns
    -------
    Path
        Of ``config.json``.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ScratchEncoder
    >>> from gemoclap_sb.models.gemoclap import GEmoCLAP
    >>> folder = getfixture("tmp_path")
    >>> prompts = Prompts({"emotion": {"ang": "angry", "sad": "sad"}}, {"emotion": ["so {}"]})
    >>> clap = GEmoCLAP(ScratchEncoder(channels=16), ByteTextEncoder(hidden_size=16, heads=2))
    >>> read_config(write_run_config(folder, clap, prompts))["labels"]
    {'emotion': ['ang', 'sad']}
    """
    path = Path(folder) / CONFIG
    try:
        config = run_config(model, prompts, sample_rate)
    except ConfigurationError as error:
        logger.info("This run can be trained but not exported: %s", error)
        write_json(
            path, {"format": FORMAT, "format_version": FORMAT_VERSION, "unsupported": str(error)}
        )
        return path
    if isinstance(model.text_encoder, TextEncoder):
        with replaced_folder(Path(folder) / TOKENIZER) as temporary:
            model.text_encoder.save_tokenizer(temporary)
    write_json(path, config)
    return path


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check a ``config.json``.

    Parameters
    ----------
    path : str or os.PathLike
        The file, of a run or of an exported model.

    Returns
    -------
    dict
        What the file holds, ``words`` in the order of ``labels``. The model's own
        part is checked by `gemoclap_sb.models.building.build_model`.

    Raises
    ------
    ConfigurationError
        If the file is missing, is no JSON, is of another format, holds unknown keys
        or lacks some, or gives the reason why its model cannot be described.
    """
    path = Path(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"no file {path} (seen from {Path.cwd()}). Expected the folder of a run of this "
            "package, or one that its export has written."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: expected JSON: {error}.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ConfigurationError(
            f'{path}: expected a description with "format": "{FORMAT}", found another file. '
            "Export a run to get a folder that can be loaded."
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise ConfigurationError(
            f"{path}: expected format_version {FORMAT_VERSION}, found "
            f"{config.get('format_version')!r}. It was written by another version of gemoclap_sb; "
            "install that one, or export the run again."
        )
    if "unsupported" in config:
        raise ConfigurationError(f"{path}: {config['unsupported']}.")
    check_keys(str(path), config, _REQUIRED, _OPTIONAL)
    if not is_count(config["sample_rate"]):
        raise ConfigurationError(
            f"{path}: sample_rate: expected a number of Hz, found {config['sample_rate']!r}."
        )
    labels, words = config["labels"], config["words"]
    agree = (
        isinstance(labels, dict)
        and isinstance(words, dict)
        and all(isinstance(of, list) for of in labels.values())
        and all(isinstance(of, dict) for of in words.values())
        and {name: sorted(map(str, of)) for name, of in labels.items()}
        == {name: sorted(of) for name, of in words.items()}
    )
    if not agree:
        raise ConfigurationError(
            f"{path}: expected a word for each of the labels and no other, found the labels "
            f"{labels!r} and the words {words!r}."
        )
    config["words"] = {name: {key: words[name][key] for key in of} for name, of in labels.items()}
    build_prompts(config, str(path))
    return config


def build_prompts(config: Mapping[str, Any], where: str = CONFIG) -> Prompts:
    """Make the prompts that a configuration describes.

    Parameters
    ----------
    config : Mapping
        What `read_config` returned.
    where : str
        The file's name, for errors.

    Returns
    -------
    Prompts
    """
    return built(where, "words and templates", Prompts, config["words"], config["templates"])


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``folder`` if all goes well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{folder.name}")
    temporary.mkdir()
    try:
        yield temporary
        old = None
        if folder.exists():
            old = temporary.with_name(temporary.name + "-old")
            os.replace(folder, old)
        os.replace(temporary, folder)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
