"""The embeddings of the classes' texts that an export stores beside its weights.

With them a model answers in its own classes without its text tower, whose library takes longer to
import than the rest of a short command. A digest in the file's header says what they were computed
from: the text tower, its tokenizer and the sentences. Where that is no longer so, the text tower
is asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gemoclap_sb.models.configuration import TOKENIZER, build_prompts
from gemoclap_sb.models.data_files import check_inside, read_bytes
from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.weights import WEIGHTS, WeightsError, load_weights, opened, save_weights

CLASSIFIER = "classifier.ckpt"
_DIGEST = "texts"
_LARGEST_FILE = 2**27
_READ = re.compile(r"(members\.\d+\.)?(text_encoder|text_projection|audio_scales)\.")


def texts_digest(folder: str | os.PathLike, config: Mapping[str, Any], head: str) -> str:
    """Sum up what the embeddings of a head's classes are computed from: SHA-256, in hexadecimal.

    ``config`` is the folder's ``config.json``. WeightsError if there are no weights to be read,
    ConfigurationError for a file of the tokenizer that is a link out of the folder, or endless.
    """
    sentences = build_prompts(config).class_sentences(head)
    # Without a fitted temperature, the one that is stored is the weights' own.
    is_calibrated = head in (config.get("calibration") or {})
    parts = [config["model"], sentences, is_calibrated]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    tokenizer = Path(folder) / TOKENIZER
    for path in sorted(tokenizer.iterdir()) if tokenizer.is_dir() else ():
        digest.update(f"{path.name}\0{path.is_file()}".encode(errors="surrogateescape"))
        if path.is_file():
            check_inside(folder, path)
            digest.update(read_bytes(path, _LARGEST_FILE))
    with opened(Path(folder) / WEIGHTS) as file:
        for name in sorted(file.keys()):
            part = file.get_slice(name)
            digest.update(json.dumps([name, part.get_dtype(), part.get_shape()]).encode())
            if _READ.match(name):
                digest.update(file.get_tensor(name).reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_classes(
    folder: str | os.PathLike, config: Mapping[str, Any], head: str, classes: Tensor, scale: float
) -> None:
    """Write ``classifier.ckpt``, which stock SpeechBrain reads too, into an export's folder."""
    save_weights(
        {"classes": classes, "scale": torch.tensor(scale)},
        Path(folder) / CLASSIFIER,
        {_DIGEST: texts_digest(folder, config, head)},
    )


def load_classes(
    folder: str | os.PathLike, config: Mapping[str, Any], head: str, into: torch.nn.Module
) -> str | None:
    """Fill a `ClassTexts` of a head from a folder; returns the digest of what they belong to.

    None, and nothing is filled in, if there are none, or not of this head, text tower and
    sentences. Whoever then asks the text tower is told what is wrong with the folder.
    """
    path = Path(folder) / CLASSIFIER
    try:
        with opened(path) as file:
            stored = (file.metadata() or {}).get(_DIGEST)
            finite = all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
        if not finite or stored is None or stored != texts_digest(folder, config, head):
            return None
        load_weights(into, path)
    except (WeightsError, ConfigurationError, OSError, RecursionError):
        return None
    return stored
