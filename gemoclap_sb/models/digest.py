"""What a model is told by: a digest of what decides its embeddings."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gemoclap_sb.files import file_digest
from gemoclap_sb.models.building import CONFIG
from gemoclap_sb.models.configuration import read_config
from gemoclap_sb.models.speechbrain_folder import SpeechBrainFolder, is_speechbrain_folder
from gemoclap_sb.models.weights import WEIGHTS

_OF_THE_AUDIO = ("model", "sample_rate", "longest_seconds")


def model_digest(folder: str | os.PathLike) -> str:
    """Digest of a model's weights, and of what they are weights of; hexadecimal.

    Of a folder of SpeechBrain, its ``hyperparams.yaml`` and the weights that an embedding takes.
    ConfigurationError if the folder has no description, WeightsError if weights are missing.
    """
    folder = Path(folder)
    if is_speechbrain_folder(folder):
        return _of_files(SpeechBrainFolder(folder))
    config = read_config(folder / CONFIG)
    parts = [file_digest(folder / WEIGHTS), [config.get(key) for key in _OF_THE_AUDIO]]
    return _of(parts)


def _of_files(found: SpeechBrainFolder) -> str:
    parts = {key: file_digest(path) for key, path in found.checked_weights().items()}
    return _of([file_digest(found.path), parts])


def _of(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
