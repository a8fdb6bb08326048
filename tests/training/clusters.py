"""Clusters of a small corpus's speakers, and tiny runs of pretraining over them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow as pa

from gemoclap_sb.data.speaker_clusters import (
    clusters_file,
    clusters_schema,
    write_clusters_file,
)
from gemoclap_sb.files import write_json
from gemoclap_sb.training.cluster_pretraining import main
from tests.run_folders import ROOT

YAML = ROOT / "recipes/pretrain/intra_speaker_clusters/hparams/clusters_scratch.yaml"
TINY = {
    "n_mels": 16,
    "channels": [4, 8],
    "strides": [1, 2],
    "frame_size": 8,
    "embedding_size": 6,
    "speakers_per_batch": 2,
    "utterances_per_cluster": 2,
    "valid_share": 0.4,
    "crop_seconds": 0.5,
    "number_of_epochs": 2,
    "batches_per_epoch": 4,
    "seed": 3,
}


def write_clusters(
    folder: Path, csv: Path, of: Collection[str] | None = None, mark: str = "one"
) -> Path:
    """Put each speaker's utterances into two clusters, one after the other; speakers by name."""
    table = pd.read_csv(csv, dtype=str)
    rows = []
    for speaker, found in table.groupby("spk_id"):
        if of is None or speaker in of:
            found = found.assign(cluster=[place % 2 for place in range(len(found))])
            rows.append(found.sort_values("cluster", kind="stable"))
    columns = pd.concat(rows)[["ID", "wav", "spk_id", "cluster"]]
    arrow = pa.Table.from_pandas(columns, preserve_index=False).cast(clusters_schema())
    write_clusters_file(clusters_file(folder, 0, 1), arrow.replace_schema_metadata())
    record = {"files": 1, "path": str(csv), "embeddings": {"manifest": mark}}
    write_json(folder / "clusters.json", record)
    return folder


def command(folder: Path, clusters: Path, root: str, *flags: str, **options: object) -> list[str]:
    given = {"output_folder": folder, "clusters_folder": clusters, "data_folder": root}
    given |= {**TINY, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(YAML), "--device", "cpu", *pairs, *flags]


def run(*arguments: object, **options: object) -> int:
    return main(command(*arguments, **options))


def main_of(prepare: None, argv: list[str]) -> int:
    """Run a pretraining, with the arguments of the other trainings."""
    return main(argv)
