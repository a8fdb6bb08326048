"""Manifest to SpeechBrain datasets.

Audio at any rate and channel count becomes what the lobes want (16 kHz, mono, float32)
here, so that no corpus has to be converted on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.data_pipeline import DynamicItem
from torch import Tensor

from gemoclap_sb.data.audio import AudioError, read_audio


class AudioCache:
    """Decoded audio, kept in memory up to a limit, so that no epoch decodes it again.

    What comes when the limit is reached is not kept. A dataloader with workers gives each its
    own copy, which ends with the epoch: it serves ``num_workers: 0``.

    Parameters
    ----------
    limit_gib : float
        Most memory to use, in GiB. An hour of speech takes 0.21.

    Examples
    --------
    >>> import torch
    >>> cache = AudioCache(limit_gib=1)
    >>> cache.get("a.wav", lambda: torch.zeros(8)) is cache.get("a.wav", lambda: torch.ones(8))
    True
    """

    def __init__(self, limit_gib: float) -> None:
        self.left = int(limit_gib * 2**30)
        self.kept: dict[str, Tensor] = {}

    def get(self, key: str, read: Callable[[], Tensor]) -> Tensor:
        """Give the waveform kept under a key, or read it."""
        if key in self.kept:
            return self.kept[key]
        wav = read()
        size = wav.numel() * wav.element_size()
        if size <= self.left:
            self.left -= size
            self.kept[key] = wav
        return wav


def build_dataset(
    rows: Mapping[str, Mapping[str, object]],
    encoders: Mapping[str, CategoricalEncoder],
    sample_rate: int = 16000,
    manifest: str = "manifest",
    items: Sequence[DynamicItem] = (),
    cache: AudioCache | None = None,
) -> DynamicItemDataset:
    """Make a dataset of waveforms and labels.

    Parameters
    ----------
    rows : Mapping[str, Mapping]
        What `gemoclap_sb.data.manifests.read_manifest` returns: columns by ID.
    encoders : Mapping[str, CategoricalEncoder]
        Of each column that is a label; see `gemoclap_sb.data.labels.label_encoders`.
    sample_rate : int
        Rate of the waveforms that the model sees, in Hz.
    manifest : str
        Name of the manifest, for error messages.
    items : Sequence[DynamicItem]
        More outputs, made from the columns: a label for each frame, for instance, as a
        LongTensor ``[F]`` under ``NAME_encoded``.
    cache : AudioCache, optional
        Where to keep decoded audio; by default it is decoded every time.

    Returns
    -------
    DynamicItemDataset
        With the outputs ``id``, ``sig`` (float32 ``[T]``), and for each label its text
        ``NAME`` and its index ``NAME_encoded``.
    """

    @sb.utils.data_pipeline.takes("id", "wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(utterance: str, wav: str) -> Tensor:
        try:
            if cache is None:
                return read_audio(wav, sample_rate)
            return cache.get(wav, lambda: read_audio(wav, sample_rate))
        except AudioError as error:
            raise AudioError(
                f"{manifest}, ID {utterance!r}: {error} "
                "With `skip_bad_audio: True` such rows are reported and left out."
            ) from error

    indices = [
        DynamicItem(
            [name], lambda label, of=encoder: of.encode_label(str(label)), [f"{name}_encoded"]
        )
        for name, encoder in encoders.items()
    ]
    provided = [name for item in (*indices, *items) for name in item.provides]
    return DynamicItemDataset(
        dict(rows),
        dynamic_items=[audio_pipeline, *indices, *items],
        output_keys=["id", "sig", *encoders, *provided],
    )
