"""SpeechBrain's speaker encoders at work on any number of files, as this package's models are.

Stock ``EncoderClassifier.encode_batch`` gives an utterance another embedding in every batch:
ECAPA-TDNN's convolutions hear the padding. Here only utterances of exactly one length share a
batch, so that each has what stock SpeechBrain gives it alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from speechbrain.nnet.pooling import StatisticsPooling
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.distributed import infer_device
from torch import Tensor, nn

from gemoclap_sb.inference.answering import is_unit
from gemoclap_sb.inference.bulk import BulkOptions, FileEmbedding, embed_files
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.loading import checked_device, head_of, hub_files, local_folder
from gemoclap_sb.lobes.cutting import equal_pieces
from gemoclap_sb.models.building import built
from gemoclap_sb.models.configuration import LONGEST_SECONDS
from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.gemoclap import normalized
from gemoclap_sb.models.speechbrain_folder import (
    HYPERPARAMS,
    PARTS,
    SpeechBrainFolder,
    is_speechbrain_folder,
)

# A model that embeds so much at its loading is not to blame if it fails on less.
_TRIED_SECONDS = 0.25


class SpeakerTower(nn.Module):
    """Waveforms to unit vectors by SpeechBrain's three steps: features, their mean, embedding.

    Embeddings are L2-normalised, as all that bulk inference makes: speakers are compared by cosine.
    An utterance longer than ``longest_seconds`` is embedded in equal pieces, which are averaged by
    length, so that memory is bounded.
    """

    hears_padding = True

    def __init__(
        self,
        compute_features: nn.Module,
        mean_var_norm: nn.Module,
        embedding_model: nn.Module,
        sample_rate: int,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        super().__init__()
        self.compute_features, self.mean_var_norm = compute_features, mean_var_norm
        self.embedding_model = embedding_model
        self.sample_rate = sample_rate
        self.longest = int(longest_seconds * sample_rate)
        self.tried = 0
        self.one_by_one = False
        for module in self.modules():
            if isinstance(module, StatisticsPooling):
                _without_noise(module)
            elif isinstance(module, InputNormalization):
                self.one_by_one |= module.norm_type == "batch"

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Embed waveforms ``[B, T]`` that are all as long: ``[B, 1, D]``.

        ValueError if they are too short for the model.
        """
        if wav_lens is not None and (wav_lens != 1).any():
            raise ValueError("wavs: expected waveforms of one length; padding would be heard.")
        if self.one_by_one:
            return torch.cat([self._embed(wav.unsqueeze(0)) for wav in wavs])
        return self._embed(wavs)

    def pieces(self, num_samples: int) -> list[tuple[int, int]]:
        """Cut a length into the fewest equal pieces that are not too long: starts and stops."""
        return equal_pieces(num_samples, self.longest)

    def join(self, pieces: Iterable[Tensor], num_samples: int) -> Tensor:
        """Embed an utterance ``[1, D]`` that comes in pieces ``[T]``, of a known length in all."""
        total: Tensor | float = 0.0
        for piece in pieces:
            share = piece.shape[0] / num_samples
            total = total + share * self._embed(piece.unsqueeze(0))[:, 0]
        return normalized(total)

    def _embed(self, wavs: Tensor) -> Tensor:
        wav_lens = torch.ones(len(wavs), device=wavs.device)
        try:
            features = self.mean_var_norm(self.compute_features(wavs), wav_lens)
            vectors = self.embedding_model(features, wav_lens)
            if wavs.shape[1] < self.tried and not vectors.isfinite().all():
                raise ValueError("not finite")
        # What a convolution says that reflects more than there is.
        except (RuntimeError, ValueError) as error:
            if wavs.shape[1] >= self.tried:
                raise
            seconds = wavs.shape[1] / self.sample_rate
            raise ValueError(f"{seconds:g} s are too short for this model") from error
        return normalized(vectors)


def _without_noise(pooling: StatisticsPooling) -> None:
    """Put the mean of the random noise of SpeechBrain's pooling in its place.

    It adds noise of 1 to 9 ``eps`` to the means, and ``eps`` to the deviations.
    """
    eps, pooling.eps = pooling.eps, 0.0
    shifts = [5 * eps] * pooling.return_mean + [eps] * pooling.return_std

    def shift(_: nn.Module, __: Any, pooled: Tensor) -> Tensor:
        parts = pooled.chunk(len(shifts), dim=-1)
        return torch.cat([p + by for p, by in zip(parts, shifts, strict=True)], dim=-1)

    pooling.register_forward_hook(shift)


class SpeakerEncoder:
    """Embed recordings with a speaker encoder of SpeechBrain: ECAPA-TDNN, x-vectors, ResNet.

    Made by `from_pretrained`. An utterance's embedding is that of stock SpeechBrain's
    ``encode_batch`` for it alone, divided by its length; it does not depend on the batch. What is
    random there, the noise of ``StatisticsPooling`` in x-vectors, is its mean here. A recording
    longer than 60 s is embedded in equal pieces whose embeddings are averaged; one that is too
    short for the model has an error.

    Attributes
    ----------
    embedding_size : int
        D.
    sample_rate : int
        Rate of the waveforms that the model takes, in Hz.
    device : str
        Where it computes.
    attribute : str
        Empty: it has no heads to choose from.

    Examples
    --------
    >>> from speechbrain.lobes.models.Xvector import Xvector
    >>> folder = getfixture("tmp_path")
    >>> sizes = {"tdnn_blocks": 1, "tdnn_channels": [8], "tdnn_kernel_sizes": [5]}
    >>> sizes |= {"tdnn_dilations": [1], "lin_neurons": 6, "in_channels": 24}
    >>> torch.save(Xvector(**sizes).state_dict(), folder / "embedding_model.ckpt")
    >>> _ = (folder / "hyperparams.yaml").write_text(f'''
    ... compute_features: !new:speechbrain.lobes.features.Fbank {{n_mels: 24}}
    ... mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    ...     norm_type: sentence
    ... embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector {sizes}
    ... modules:
    ...     compute_features: !ref <compute_features>
    ...     mean_var_norm: !ref <mean_var_norm>
    ...     embedding_model: !ref <embedding_model>
    ... pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    ...     loadables: {{embedding_model: !ref <embedding_model>}}
    ... ''')
    >>> encoder = SpeakerEncoder.from_pretrained(folder, device="cpu")
    >>> import numpy, soundfile
    >>> soundfile.write(folder / "a.wav", numpy.sin(numpy.arange(16000) / 20), 16000)
    >>> [row] = encoder.encode_files([folder / "a.wav"])
    >>> row.embedding.shape, round(float(row.embedding.norm()), 4)
    (torch.Size([6]), 1.0)
    """

    attribute = ""

    def __init__(self, tower: SpeakerTower, device: str, embedding_size: int) -> None:
        self.tower, self.device, self.embedding_size = tower, device, embedding_size

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, device: str | None = None, **hub_options: Any
    ) -> SpeakerEncoder:
        """Load an encoder, which can be anybody's: nothing in it is executed.

        Parameters
        ----------
        source : str or os.PathLike
            A folder with ``hyperparams.yaml`` and weights, or a hub id such as
            ``speechbrain/spkrec-ecapa-voxceleb``.
        device : str, optional
            ``cpu``, ``cuda:0``, ...; by default a GPU where there is one.
        **hub_options
            As `GEmoCLAPClassifier.from_pretrained` takes them.

        Raises
        ------
        ConfigurationError
            If ``hyperparams.yaml`` is missing, damaged, or asks for anything but layers of
            SpeechBrain and torch.
        WeightsError
            If weights are missing, damaged, hold more than tensors, or are of another model.
        ValueError
            If there is no such device here.
        """
        device = infer_device() if device is None else checked_device(device)
        folder = SpeechBrainFolder(encoder_folder(source, **hub_options))
        tower = SpeakerTower(**folder.load(), sample_rate=folder.sample_rate)
        size = _tried(tower, str(folder.path))
        for part in PARTS:
            # Each by itself: the statistics of a normalisation follow no other module.
            getattr(tower, part).to(device)
        return cls(tower.eval(), device, size)

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that the model takes, in Hz."""
        return self.tower.sample_rate

    def encode_files(
        self, paths: Iterable[str | os.PathLike], **options: Any
    ) -> Iterator[FileEmbedding]:
        """Embed any number of files, in order and as they come.

        ``options`` are those of `gemoclap_sb.inference.bulk.BulkOptions`. One row a path, with its
        embedding ``[D]``, L2-normalised, or its error.
        """
        return embed_files(self.tower, paths, self.device, BulkOptions(**options))


def _tried(tower: SpeakerTower, where: str) -> int:
    """Give the size of the embedding of a tone; ConfigurationError if there is none."""
    samples = round(_TRIED_SECONDS * tower.sample_rate)
    with torch.inference_mode():
        tone = 0.3 * torch.sin(torch.arange(samples) ** 1.3)[None]
        embedding = built(where, "modules", tower, tone)
    if embedding.dim() != 3 or embedding.shape[:2] != (1, 1) or not is_unit(embedding):
        raise ConfigurationError(
            f"{where}: expected a model that embeds a recording as [1, 1, size] of finite numbers, "
            f"found {list(embedding.shape)} for a tone. Its weights or its parts are of no use."
        )
    tower.tried = samples
    return embedding.shape[-1]


def encoder_folder(source: str | os.PathLike, **hub_options: Any) -> Path:
    """Find a folder of either kind, as `gemoclap_sb.inference.loading.local_folder` does.

    Of a hub's speaker encoder the weights that an embedding takes are downloaded too.
    """
    folder = local_folder(source, also=(HYPERPARAMS,), **hub_options)
    if is_speechbrain_folder(folder) and folder != Path(source):
        names = [path.name for path in SpeechBrainFolder(folder).weights.values()]
        folder = hub_files(str(source), [HYPERPARAMS, *names], **hub_options)
    return folder


def chosen_attribute(folder: str | os.PathLike, attribute: str | None = None) -> str:
    """Name the head of a model of either kind, as `gemoclap_sb.inference.loading.head_of` does.

    That of a speaker encoder is the empty text; ValueError if one is asked for.
    """
    if not is_speechbrain_folder(folder):
        return head_of(folder, attribute)
    if attribute:
        raise ValueError(
            f"attribute: {folder} is a speaker encoder, which has none to choose from. Leave it "
            "out."
        )
    return SpeakerEncoder.attribute


def load_encoder(
    folder: str | os.PathLike, device: str | None = None, attribute: str | None = None
) -> GEmoCLAPClassifier | SpeakerEncoder:
    """Load whatever a folder holds that embeds recordings; errors of either's `from_pretrained`."""
    if not is_speechbrain_folder(folder):
        return GEmoCLAPClassifier.from_pretrained(folder, device=device, attribute=attribute)
    chosen_attribute(folder, attribute)
    return SpeakerEncoder.from_pretrained(folder, device=device)
