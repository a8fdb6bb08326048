"""Utterances of clusters as training hears them: the waveform, the speaker and the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.data.datasets import AudioCache
from gemoclap_sb.data.speaker_clusters import SpeakerClusters


class ClusterDataset(Dataset):
    """Utterances by their places in `SpeakerClusters`, decoded as they are asked for.

    An item has ``id``, ``sig`` (float32 ``[T]``), ``spk_id_encoded`` and ``cluster_encoded``:
    numbers, the cluster's among those of all speakers.

    Parameters
    ----------
    clusters : SpeakerClusters
        Whose utterances.
    locate : Callable
        Gives the path that a ``wav`` stands for.
    cache : AudioCache, optional
        Where to keep decoded audio.
    sample_rate : int
        Of the waveforms, in Hz.
    """

    def __init__(
        self,
        clusters: SpeakerClusters,
        locate: Callable[[str], str | os.PathLike],
        cache: AudioCache | None = None,
        sample_rate: int = 16000,
    ) -> None:
        self.clusters, self.locate = clusters, locate
        self.cache, self.sample_rate = cache, sample_rate

    def __len__(self) -> int:
        """How many utterances there are."""
        return len(self.clusters)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Give an utterance; AudioError names it if it cannot be read."""
        row = self.clusters.row(place)
        path = os.fspath(self.locate(row["wav"]))

        def read() -> Any:
            return read_audio(path, self.sample_rate)

        try:
            sig = read() if self.cache is None else self.cache.get(path, read)
        except AudioError as error:
            raise AudioError(
                f"ID {row['ID']!r}: {error} It could be read when it was embedded: put it back, "
                "or embed and cluster again without it."
            ) from error
        [speaker], [cluster] = self.clusters.of([place])
        return {
            "id": row["ID"],
            "sig": sig,
            "spk_id_encoded": int(speaker),
            "cluster_encoded": int(cluster),
        }
