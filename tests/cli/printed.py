"""Reading what a command printed, and what the classes answer instead."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch

from tests.run_folders import LABELS

PROBABILITIES = [f"probability_{label}" for label in LABELS]


def names(audio: Path) -> list[str]:
    return [str(audio / name) for name in ("a, b.FLAC", "b.wav", "deep/er/c.ogg")]


def answers(classifier, paths, **options) -> tuple[list[str], np.ndarray]:
    """What `classify_file` says of each file."""
    found = [classifier.classify_file(path, **options) for path in paths]
    return [labels[0] for *_, labels in found], torch.cat([f[0] for f in found]).exp().numpy()


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def one_line(err: str) -> str:
    """What was told, which must be one line, and no traceback."""
    (line,) = err.splitlines()
    return line
