"""A manifest of speakers with embeddings, as `gemoclap embed` leaves them, without a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.inference.shards import EmbeddingJob, Failure

MODEL = "0123456789ab" * 5


class Embedded(NamedTuple):
    csv: Path
    folder: Path
    vectors: dict[str, np.ndarray]
    """By ID."""
    speakers: dict[str, str]


def blobs(sizes: Collection[int], seed: int = 0, size: int = 8, noise: float = 0.05) -> np.ndarray:
    """Unit vectors around as many directions as there are sizes, in random order."""
    rng = np.random.default_rng(seed)
    centres, _ = np.linalg.qr(rng.normal(size=(size, size)))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), list(sizes)))
    vectors = centres[labels] + noise * rng.normal(size=(len(labels), size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_embedded(
    folder: Path,
    vectors: Mapping[str, np.ndarray],
    rows_per_part: int = 7,
    without: Mapping[str, int] | None = None,
    order: int = 0,
    column: str = "spk_id",
) -> Embedded:
    """Write a manifest of each speaker's vectors in random order, and their embeddings.

    ``without`` says how many utterances of a speaker could not be embedded, besides.
    """
    rows = [(f"{name}/{i}", name, of) for name in vectors for i, of in enumerate(vectors[name])]
    rows += [(f"{name}/x{i}", name, None) for name, n in (without or {}).items() for i in range(n)]
    rows = [rows[i] for i in np.random.default_rng(order).permutation(len(rows))]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'"{name}","{name}.wav","{speaker}",secret\n' for name, speaker, _ in rows]
    (folder / "all.csv").write_text("".join([f"ID,wav,{column},emotion\n", *lines]))
    manifest = cut_manifest(folder / "all.csv", rows_per_part=rows_per_part)
    job = EmbeddingJob(manifest, str(folder / "embeddings"), MODEL, "emotion")
    job.open_folder()
    for part in manifest.parts:
        start = part.number * rows_per_part
        of_part = rows[start : start + part.rows]
        kept = [(name, of) for name, _, of in of_part if of is not None]
        failed = [
            Failure(name, f"{name}.wav", "unreadable") for name, _, of in of_part if of is None
        ]
        size = len(next(iter(vectors.values()))[0])
        stacked = np.array([of for _, of in kept], np.float32).reshape(-1, size)
        job.write(part, [name for name, _ in kept], stacked, failed)
    embedded = {name: of for name, _, of in rows if of is not None}
    return Embedded(
        folder / "all.csv", folder / "embeddings", embedded, {name: who for name, who, _ in rows}
    )
