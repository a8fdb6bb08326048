"""Pretraining on speech without emotion labels: contrast between the clusters of each speaker.

    clusters of speakers -> batches -> ClusterEncoder -> encoder/ for audio_source

The clusters are those of ``gemoclap cluster``, a folder. What is left of a run is the audio
encoder: ``encoder/``, from which any experiment begins that names the run as its ``audio_source``,
``audio_encoder.ckpt`` for a ``pretrainer``, and ``pretraining.json``, written last.

A recipe's ``train.py`` calls `main`.

Source: Ulgen et al., arXiv 2401.11017.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.cluster_dataset import ClusterDataset
from gemoclap_sb.data.cluster_sampler import (
    TRAIN,
    VALID,
    ClusterBatchSampler,
    drawn_speakers,
    split_clusters,
)
from gemoclap_sb.data.csv_rows import located
from gemoclap_sb.data.datasets import AudioCache
from gemoclap_sb.data.speaker_clusters import (
    PATH,
    ClustersError,
    SpeakerClusters,
    clusters_digest,
    read_clusters,
)
from gemoclap_sb.evaluation.figures import draw_training_curves
from gemoclap_sb.files import atomic_path, clear_leftovers, write_json
from gemoclap_sb.lobes.encoder_folders import encoder_description, write_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER
from gemoclap_sb.training.audio_source import load_audio_source, load_pretrained
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.cluster_brain import ClusterBrain
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.hearing import check_hearing
from gemoclap_sb.training.opening import Run, open_run
from gemoclap_sb.training.overrides import check_complete
from gemoclap_sb.training.processes import is_group, on_main
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.run_folder import bind_data
from gemoclap_sb.training.settings import ExperimentError

logger = get_logger(__name__)

RECORD, WEIGHTS = "pretraining.json", "audio_encoder.ckpt"
_OBJECTS = ("objective", "opt_class", "checkpointer", "epoch_counter", "train_logger", "history")
_PLAIN = (
    "experiment", "seed", "data_folder", "clusters_folder", "output_folder", "valid_share",
    "speakers_per_batch", "clusters_per_speaker", "utterances_per_cluster", "batches_per_epoch",
    "number_of_epochs", "num_workers",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain, or go on with it, and print what was found; the exit status.

    Arguments and status are those of `gemoclap_sb.training.experiment.main`, without a preparation.
    """
    return exit_status(lambda: pretrain(argv))


def pretrain(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Pretrain an audio encoder on clusters; returns what ``pretraining.json`` holds.

    ExperimentError if an option or a folder is missing or does not fit.
    """
    run = open_run(argv, check_pretraining)
    with told_resources(run.hparams, run.folder), closing(run):
        if run.run_opts.test_only:
            raise ExperimentError(
                "--test_only: pretraining has no test. Name the run as the --audio_source of an "
                "experiment, and test that."
            )
        clusters = open_clusters(run)
        brain = build_brain(run, clusters)
        dataset = _dataset(run, clusters)
        brain.fit(
            run.hparams["epoch_counter"],
            dataset,
            dataset,
            train_loader_kwargs=brain.train_loader_options(),
            valid_loader_kwargs=brain.evaluation_loader_options(),
        )
        return hand_on(run, brain, clusters)


def check_pretraining(settings: Mapping[str, Any], hparams_file: str) -> None:
    """Refuse a YAML that is no pretraining, or that names no clusters; ExperimentError."""
    check_complete(settings, hparams_file, _OBJECTS, _PLAIN)
    if not settings["clusters_folder"]:
        raise ExperimentError(
            "no clusters: make them with `gemoclap cluster`, and give --clusters_folder."
        )


def open_clusters(run: Run) -> SpeakerClusters:
    """Open the clusters, and see that a run that goes on has the same; ExperimentError."""
    try:
        clusters = read_clusters(run.hparams["clusters_folder"])
    except ClustersError as error:
        raise ExperimentError(f"--clusters_folder: {error}") from error
    contents = {TRAIN: {"rows": len(clusters), "sha256": clusters_digest(clusters)}}
    on_main(bind_data, run.folder, run.settings, contents)
    return clusters


def build_brain(run: Run, clusters: SpeakerClusters) -> ClusterBrain:
    """Make the brain, and load what training begins from; ExperimentError if it cannot be."""
    hparams = run.hparams
    hparams["samplers"] = samplers(hparams, clusters)
    hparams["modules"]["clap"].add_speakers(len(clusters.speakers))
    brain = ClusterBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    check_hearing(brain.hparams)
    load_audio_source(brain.model, hparams, run.hparams_file)
    load_pretrained(hparams, run.hparams_file)
    return brain


def samplers(
    hparams: Mapping[str, Any], clusters: SpeakerClusters
) -> dict[str, ClusterBatchSampler]:
    """Make the samplers of training and of validation; ExperimentError if there are too few."""
    shape = {
        name: hparams[key]
        for name, key in (
            ("speakers", "speakers_per_batch"),
            ("clusters", "clusters_per_speaker"),
            ("utterances", "utterances_per_cluster"),
        )
    }
    parts = split_clusters(clusters, hparams["valid_share"], hparams["seed"])
    own = hparams["objective"].negatives == "speaker"
    options = {"seed": hparams["seed"], "own_negatives": own}
    made = {}
    try:
        batches = hparams["batches_per_epoch"]
        made[TRAIN] = ClusterBatchSampler(parts[TRAIN], batches=batches, **options, **shape)
    except ValueError as error:
        raise ExperimentError(
            f"{hparams['clusters_folder']}: {error}. The keys are speakers_per_batch, "
            "clusters_per_speaker and utterances_per_cluster."
        ) from error
    # As many speakers as are held out; and the same batches, however many processes there are.
    shape["speakers"] = max(
        1 if own else 2, min(shape["speakers"], drawn_speakers(parts[VALID], own))
    )
    try:
        made[VALID] = ClusterBatchSampler(parts[VALID], num_replicas=1, **options, **shape)
    except ValueError as error:
        raise ExperimentError(
            f"{hparams['clusters_folder']}, validation: {error}. Raise --valid_share."
        ) from error
    left_out = len(clusters.speakers) - made[TRAIN].drawn_speakers
    if left_out and if_main_process():
        logger.warning(
            "%d of %d speakers are not drawn from: they have %s.",
            left_out,
            len(clusters.speakers),
            "fewer than two clusters of two utterances" if own else "no cluster of two utterances",
        )
    return made


def _dataset(run: Run, clusters: SpeakerClusters) -> ClusterDataset:
    limit = run.hparams.get("cache_gib")
    locate = functools.partial(
        located,
        folder=os.path.dirname(clusters.record.get(PATH, "")),
        data_root=run.hparams["data_folder"] or None,
    )
    return ClusterDataset(clusters, locate, AudioCache(limit) if limit else None)


def hand_on(run: Run, brain: ClusterBrain, clusters: SpeakerClusters) -> dict[str, Any]:
    """Leave the audio encoder for others to begin from, and say that the run is finished."""
    encoder = brain.model.audio_encoder
    history = list(run.hparams["history"].records)
    result = {
        "experiment": run.hparams["experiment"],
        "seed": run.hparams["seed"],
        "hparams_file": str(run.hparams_file),
        "speakers": len(clusters.speakers),
        "utterances": len(clusters),
        "clusters": len(clusters.cluster_starts) - 1,
        "drawn_speakers": run.hparams["samplers"][TRAIN].drawn_speakers,
        "drawn_utterances": run.hparams["samplers"][TRAIN].drawn_utterances,
        **(history[-1] if history else {}),
        "lobe": encoder_description(encoder),
        "encoder": weights_digest(encoder),
        **run.options,
    }

    def write() -> None:
        clear_leftovers(run.folder)
        with atomic_path(run.folder / WEIGHTS) as temporary:
            torch.save(encoder.state_dict(), temporary)
        try:
            write_encoder(encoder, run.folder / ENCODER)
        except ValueError as error:
            logger.warning("%s: no %s/ for --audio_source: %s", run.folder, ENCODER, error)
        draw_training_curves(history, run.folder / "training.png")
        write_json(run.folder / RECORD, result)
        print(f"pretrained: {run.folder}")

    if not brain.debug:
        on_main(write)
    if is_group():
        # Left to the interpreter's end, the group's threads can abort a process.
        torch.distributed.destroy_process_group()
    return result
