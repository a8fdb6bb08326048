"""What an exported model is told by: a digest of what decides its embeddings."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from gemoclap_sb.files import file_digest
from gemoclap_sb.models.building import CONFIG
from gemoclap_sb.models.configuration import read_config
from gemoclap_sb.models.weights import WEIGHTS

_OF_THE_AUDIO = ("model", "sample_rate", "longest_seconds")


def model_digest(folder: str | os.PathLike) -> str:
    """Digest of a model's weights, and of what they are weights of; hexadecimal.

    ConfigurationError if the folder has no description.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    parts = [file_digest(folder / WEIGHTS), [config.get(key) for key in _OF_THE_AUDIO]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
