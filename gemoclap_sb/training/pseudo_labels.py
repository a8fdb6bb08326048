"""Gender-augmented multi-scale pseudo-labels of frames, from the frames of a trained encoder.

    frames of intermediate layers -> k-means at several numbers of clusters -> for each scale
    label = cluster * groups + group

The group is the speaker's gender, or what ``attributes`` name. k-means is fitted on the training
split alone; validation is given the nearest clusters, and the test split is never read. The store
(`gemoclap_sb.data.label_store`) records the encoder, the rows and the settings that it was made
from, and serves no others.

Source: Pan et al., "GMP-TL", arXiv 2405.02151, whose layers and numbers of clusters are not
published; k-means over frames as targets: Hsu et al., "HuBERT", arXiv 2106.07447.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import ddp_barrier
from tqdm import tqdm

from gemoclap_sb.data.label_store import (
    INDEX,
    LabelStore,
    LabelStoreError,
    read_labels,
    write_labels,
)
from gemoclap_sb.files import atomic_path, clear_leftovers, default_mode, write_json
from gemoclap_sb.lobes.encoder_folders import encoder_description
from gemoclap_sb.models.pooled_audio import PooledAudio
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.clustering import fit_clusters, nearest_clusters
from gemoclap_sb.training.frame_features import Block, extract_frames, plan_blocks
from gemoclap_sb.training.processes import on_main
from gemoclap_sb.training.run_folder import read_record
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.shared_evaluation import share_of

FEATURES, RECORD, CENTROIDS = "features", "record.json", "centroids.safetensors"
# Validation is labelled, and not fitted on.
LABELLED = ("train", "valid")
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LabelOptions:
    """Settings of the labels, named as in an experiment's YAML.

    ``label_layers`` are numbers of layers, from 1; ``clusters`` has one number for each scale;
    ``label_attributes`` are those that a cluster is combined with.
    """

    label_layers: Sequence[int]
    clusters: Sequence[int]
    label_attributes: Sequence[str]
    kmeans_passes: int
    block_seconds: float
    seed: int

    @classmethod
    def of(cls, hparams: Mapping[str, Any]) -> LabelOptions:
        """Take them from an experiment's hyperparameters."""
        return cls(**{name: hparams[name] for name in cls.__dataclass_fields__})


def label_record(
    options: LabelOptions, model: PooledAudio, contents: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Say what labels are made from: settings, the encoder, and the digest of each split."""
    record = {
        **asdict(options),
        "trim_db": model.trim_db,
        "lobe": encoder_description(model.audio_encoder),
        "encoder": weights_digest(model.audio_encoder),
        "rows": {split: contents[split]["sha256"] for split in LABELLED},
    }
    # As it will be read again.
    return json.loads(json.dumps(record))


def open_pseudo_labels(folder: str | os.PathLike, record: Mapping[str, Any]) -> LabelStore:
    """Open a store that was made from what ``record`` says; ExperimentError says what to do."""
    try:
        store = read_labels(folder)
    except LabelStoreError as error:
        raise ExperimentError(f"{error} Delete {folder} and run --stage pseudo_labels.") from error
    _check_record(folder, store.record, record)
    return store


def make_pseudo_labels(
    folder: str | os.PathLike,
    model: PooledAudio,
    rows: Mapping[str, Rows],
    datasets: Mapping[str, DynamicItemDataset],
    encoders: Mapping[str, CategoricalEncoder],
    options: LabelOptions,
    record: Mapping[str, Any],
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = "cpu",
) -> None:
    """Write the store, or what is missing of it.

    Several processes share the extraction; one fits and labels. Frames lie in ``folder``
    meanwhile, four bytes a number, and are removed at the end.

    Parameters
    ----------
    folder : str or os.PathLike
        Made if it is missing.
    model : PooledAudio
        Of its audio encoder are the frames.
    rows, datasets : Mapping
        Of each split, ``train`` and ``valid`` among them; only these are read.
    encoders : Mapping[str, CategoricalEncoder]
        Of the attributes that are combined with clusters.
    options : LabelOptions
        The settings.
    record : Mapping[str, Any]
        `label_record`'s.
    batch_size, num_workers, device
        Of the extraction.

    Raises
    ------
    ExperimentError
        If the folder holds labels made from something else, or the settings do not fit the data.
    """
    folder = Path(folder)
    if on_main(_is_made, folder, record):
        return
    seed, seconds = options.seed, options.block_seconds
    blocks = {
        split: plan_blocks(folder / FEATURES, split, rows[split], seconds, seed)
        for split in LABELLED
    }
    groups = Groups(options.label_attributes, encoders)
    with _told():
        for split in LABELLED:
            extract_frames(
                share_of(blocks[split]), datasets[split], rows[split], model,
                options.label_layers, batch_size, num_workers, device,
            )  # fmt: skip
    ddp_barrier()

    def label() -> None:
        centroids = _centroids(folder, blocks["train"], options)
        everything = [(block, rows[split]) for split in LABELLED for block in blocks[split]]
        write_labels(
            folder,
            _labelled(everything, centroids, groups),
            sum(block.count() for block, _ in everything),
            [len(of) * groups.count for of in centroids],
            record,
        )
        _clear(folder)

    with _told():
        on_main(label)


@dataclass(frozen=True)
class Groups:
    """Which group of speakers an utterance is of, by its attributes; without any there is one."""

    attributes: Sequence[str]
    encoders: Mapping[str, CategoricalEncoder]

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(len(self.encoders[name]) for name in self.attributes)

    def of(self, row: Mapping[str, Any]) -> int:
        """Give the number of an utterance's group, from 0."""
        number = 0
        for name in self.attributes:
            encoder = self.encoders[name]
            number = number * len(encoder) + encoder.encode_label(str(row[name]))
        return number


def _labelled(
    blocks: Sequence[tuple[Block, Rows]], centroids: Sequence[np.ndarray], groups: Groups
) -> Iterator[tuple[Sequence[str], Sequence[int], np.ndarray]]:
    for block, rows in tqdm(blocks, desc="labels", unit="block", disable=None):
        frames, lengths = block.read()
        of_utterance = [groups.of(rows[name]) for name in block.ids]
        group = np.repeat(of_utterance, lengths)
        labels = nearest_clusters(frames, centroids) * groups.count + group[:, None]
        yield block.ids, lengths, labels


def _centroids(folder: Path, blocks: Sequence[Block], options: LabelOptions) -> list[np.ndarray]:
    """Fit k-means, or read what was fitted before the run was killed."""
    path = folder / CENTROIDS
    if not path.is_file():
        centroids = fit_clusters(
            lambda number: blocks[number].read()[0],
            len(blocks),
            options.clusters,
            options.kmeans_passes,
            options.seed,
        )
        with atomic_path(path) as temporary:
            save_file({str(scale): of for scale, of in enumerate(centroids)}, temporary)
            default_mode(temporary)
    try:
        with safe_open(path, "numpy") as found:
            return [found.get_tensor(str(scale)) for scale in range(len(options.clusters))]
    except SafetensorError as error:
        raise ExperimentError(f"{path} is damaged ({error}): delete it.") from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what does not fit the data into an ExperimentError."""
    try:
        yield
    except ValueError as error:
        raise ExperimentError(f"pseudo-labels: {error}") from error


def _is_made(folder: Path, record: Mapping[str, Any]) -> bool:
    """Begin a store, or see that what is here is of the same; whether it is whole."""
    if made := (folder / INDEX).is_file():
        open_pseudo_labels(folder, record)
        _clear(folder)
    elif (folder / RECORD).is_file():
        clear_leftovers(folder)
        clear_leftovers(folder / FEATURES)
        _check_record(folder, read_record(folder / RECORD), record)
    else:
        # Of whatever was here before.
        (folder / CENTROIDS).unlink(missing_ok=True)
        _clear(folder)
        write_json(folder / RECORD, record)
    return made


def _clear(folder: Path) -> None:
    """Remove what a store is made of, once it has a record of its own."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder / FEATURES, ignore_errors=True)


def _check_record(
    folder: str | os.PathLike, found: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Refuse labels that were made from something else; ExperimentError names what differs."""
    told = []
    for key in record:
        if found.get(key) == record[key]:
            continue
        if key in ("encoder", "lobe"):
            told.append("another encoder")
        elif key == "rows":
            told.append("other rows of the manifests")
        else:
            told.append(f"{key} {found.get(key)}, now {record[key]}")
    if told:
        raise ExperimentError(
            f"{folder} has frame labels made from {'; '.join(dict.fromkeys(told))}. Delete it and "
            "run --stage pseudo_labels, or give another --labels_folder."
        )
