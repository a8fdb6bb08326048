"""Manifest to SpeechBrain datasets, and their dataloaders' options.

Audio at any rate and channel count becomes what the lobes want (16 kHz, mono,
float32) here, so that no corpus has to be converted on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.data.samplers import LengthPooledBatchSampler, length_sorted_batches


def build_dataset(
    rows: Mapping[str, Mapping[str, object]],
    attributes: Sequence[str],
    sample_rate: int = 16000,
    manifest: str = "",
) -> DynamicItemDataset:
    """Make a dataset of waveforms and labels.

    Parameters
    ----------
    rows : Mapping[str, Mapping]
        What `gemoclap_sb.data.manifests.read_manifest` returns: columns by ID.
    attributes : Sequence[str]
        Columns to hand on as labels.
    sample_rate : int
        Rate of the waveforms that the model sees, in Hz.
    manifest : str
        Name of the manifest, for error messages.

    Returns
    -------
    DynamicItemDataset
        With the outputs ``id``, ``sig`` (float32 ``[T]``) and the attributes.
    """

    @sb.utils.data_pipeline.takes("id", "wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(utterance: str, wav: str) -> Tensor:
        try:
            return read_audio(wav, sample_rate)
        except AudioError as error:
            raise AudioError(
                f"{manifest or 'manifest'}, ID {utterance!r}: {error} "
                "With `skip_bad_audio: True` such rows are reported and left out."
            ) from error

    return DynamicItemDataset(
        dict(rows), dynamic_items=[audio_pipeline], output_keys=["id", "sig", *attributes]
    )


def train_loader_options(
    rows: Mapping[str, Mapping[str, object]],
    batch_size: int,
    seed: int,
    pool_batches: int = 64,
    num_workers: int = 0,
) -> dict:
    """Options of the training dataloader: full batches of similar lengths.

    Parameters
    ----------
    rows : Mapping[str, Mapping]
        The training rows, in the order of the dataset.
    batch_size : int
        Utterances a batch.
    seed : int
        Together with the epoch, decides the batches.
    pool_batches : int
        How many batches' worth of utterances are sorted together.
    num_workers : int
        Reading processes.

    Returns
    -------
    dict
        For ``Brain.fit(train_loader_kwargs=...)``.
    """
    sampler = LengthPooledBatchSampler(
        durations_of(rows), batch_size=batch_size, pool_batches=pool_batches, seed=seed
    )
    return {"batch_sampler": sampler, "num_workers": num_workers}


def evaluation_loader_options(
    rows: Mapping[str, Mapping[str, object]], batch_size: int, num_workers: int = 0
) -> dict:
    """Options of a validation or test dataloader: sorted by length, nothing drawn."""
    batches = length_sorted_batches(durations_of(rows), batch_size=batch_size).batches
    return {"batch_sampler": batches, "num_workers": num_workers}


def durations_of(rows: Mapping[str, Mapping[str, object]]) -> list[float]:
    """Seconds of each utterance, in order."""
    return [float(row["duration"]) for row in rows.values()]
