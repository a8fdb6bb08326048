"""The parts of a trained model as modules that SpeechBrain's own classes and recipes take.

An exported folder's ``hyperparams.yaml`` names these, so that stock ``EncoderClassifier``
runs it:

    compute_features, mean_var_norm   PassThrough: the tower reads waveforms
    embedding_model                   AudioTower: waveforms -> [B, 1, D]
    classifier                        ClassTexts: [B, 1, D] -> log posteriors

Weights come through SpeechBrain's Pretrainer and its transfer hooks, from files that are
safetensors whatever their name ends in: nothing is unpickled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.utils.checkpoints import mark_as_transfer, register_checkpoint_hooks
from torch import Tensor, nn

from gemoclap_sb.lobes.cutting import equal_pieces
from gemoclap_sb.lobes.lengths import sample_lengths
from gemoclap_sb.lobes.projection import Projection
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.building import (
    CONFIG,
    build_audio_encoder,
    build_pooling,
    build_text_encoder,
    checked_members,
)
from gemoclap_sb.models.configuration import LONGEST_SECONDS, read_config
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble, TextEnsemble, concatenated
from gemoclap_sb.models.gemoclap import GEmoCLAP, normalized
from gemoclap_sb.models.plain_description import is_plain
from gemoclap_sb.models.pooled_audio import PooledAudio
from gemoclap_sb.models.weights import load_weights


class PassThrough(nn.Module):
    """Give back what came in, in the places where SpeechBrain expects features.

    Examples
    --------
    >>> wavs = torch.randn(2, 8000)
    >>> PassThrough()(wavs, torch.ones(2)) is wavs
    True
    """

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return ``values``."""
        return values


@register_checkpoint_hooks
class AudioTower(PooledAudio):
    """Waveforms to embeddings: lobe, pooling and one projection, L2-normalised.

    An utterance longer than ``longest_seconds`` is cut into equal pieces no longer than
    that; each is embedded, and the embeddings are averaged by length and normalised again.
    Memory is therefore bounded whatever the length. An utterance shorter than the lobe's
    first frame is padded with silence to one frame.

    The tower of a plain classifier has no projection, and gives the pooled vectors: of a linear
    layer as they are, of one that compares directions L2-normalised.
    The tower of an ensemble has its members' embeddings side by side: D is the sum of theirs. Each
    member averages its own pieces, and there are no frames to ask for.

    Parameters
    ----------
    config : Mapping, str or Path
        The description of a model or of an ensemble (``config.json``'s ``model``; the text tower
        may be left out), or the path of an exported folder's ``config.json``.
    head : str, optional
        Which projection; by default the first of the description's heads.
    longest_seconds : float
        See above.
    sample_rate : int
        Of the waveforms, in Hz.
    freeze : bool
        Train nothing: no gradient, no graph, always in evaluation mode.
    where : str
        What errors call the description.

    Attributes
    ----------
    output_size : int
        D.
    of_unit_length : bool
        Whether embeddings are L2-normalised.
    hears_padding : bool
        Whether an embedding depends on what follows the utterance in its row.

    Raises
    ------
    ConfigurationError
        If the description cannot be followed.

    Examples
    --------
    >>> from gemoclap_sb.models.building import model_config
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
    >>> text = ByteTextEncoder(hidden_size=16, heads=2)
    >>> clap = GEmoCLAP(ResNetEncoder(channels=[8], strides=[2]), text, embedding_size=8)
    >>> tower = AudioTower(model_config(clap), freeze=True)
    >>> tower(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 8])
    """

    hears_padding = False

    def __init__(
        self,
        config: Mapping[str, Any] | str | os.PathLike,
        head: str | None = None,
        longest_seconds: float = LONGEST_SECONDS,
        sample_rate: int = 16000,
        freeze: bool = False,
        where: str = CONFIG,
    ) -> None:
        super().__init__()
        if isinstance(config, str | os.PathLike):
            where = str(config)
            config = read_config(config)["model"]
        members = checked_members(config, where)
        if len(members) > 1:
            self._average([AudioTower(one, head, longest_seconds, sample_rate) for one in members])
        else:
            self.head = chosen_head(config["heads"], head)
            self.trim_db, self.tta_speeds = config.get("trim_db"), config.get("tta_speeds")
            self.audio_encoder = build_audio_encoder(config["audio_encoder"], where, pad_short=True)
            self.pooling = build_pooling(config["pooling"], where)
            self._project(_projection_of(config, self.pooling), config.get("cosine_scale"))
            self.output_size: int = config["embedding_size"]
        self._set_up(longest_seconds, sample_rate, freeze)

    @classmethod
    def of(
        cls,
        model: GEmoCLAP | AudioClassifier | GEmoCLAPEnsemble,
        head: str | None = None,
        longest_seconds: float = LONGEST_SECONDS,
        sample_rate: int = 16000,
    ) -> AudioTower:
        """Make the tower of a model, whose modules it shares; ValueError for an unknown head."""
        tower = cls.__new__(cls)
        nn.Module.__init__(tower)
        if isinstance(model, GEmoCLAPEnsemble):
            options = head, longest_seconds, sample_rate
            tower._average([cls.of(member, *options) for member in model.members])
        else:
            tower.head = chosen_head(model.heads, head)
            tower.audio_encoder, tower.pooling = model.audio_encoder, model.pooling
            tower.trim_db, tower.tta_speeds = model.trim_db, model.tta_speeds
            if isinstance(model, AudioClassifier):
                tower._project(None, model.cosine_scale)
            else:
                tower._project(model.audio_projections[tower.head])
            tower.output_size = model.embedding_size
            # A new module is in training.
            tower.training = model.training
        tower._set_up(longest_seconds, sample_rate, freeze=False)
        return tower

    # Parts are named as in GEmoCLAP and GEmoCLAPEnsemble, so that one file of weights serves both.
    def _project(self, projection: Projection | None, cosine_scale: float | None = None) -> None:
        self.members = nn.ModuleList()
        self.of_unit_length = projection is not None or cosine_scale is not None
        projections = {} if projection is None else {self.head: projection}
        self.audio_projections = nn.ModuleDict(projections)

    def _average(self, towers: Sequence[AudioTower]) -> None:
        self.members = nn.ModuleList(towers)
        self.head = towers[0].head
        self.output_size = sum(tower.output_size for tower in towers)
        self.of_unit_length = all(tower.of_unit_length for tower in towers)

    def _set_up(self, longest_seconds: float, sample_rate: int, freeze: bool) -> None:
        self.sample_rate = sample_rate
        self.longest = max(1, int(longest_seconds * sample_rate))
        self.freeze = freeze
        if freeze:
            self.requires_grad_(False)
            self.eval()

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Embed a padded batch.

        Parameters
        ----------
        wavs : Tensor
            float32 ``[B, T]``, mono, padded at the end with anything.
        wav_lens : Tensor, optional
            ``[B]``, relative to the longest; by default all are as long.

        Returns
        -------
        Tensor
            ``[B, 1, D]``, L2-normalised; of a linear classifier, the pooled vectors.
        """
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[0], device=wavs.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            if wavs.shape[1] <= self.longest:
                return self._embed(wavs, wav_lens).unsqueeze(1)
            rows = []
            for wav, samples in zip(wavs, sample_lengths(wavs, wav_lens).tolist(), strict=True):
                pieces = (wav[start:stop] for start, stop in self.pieces(samples))
                rows.append(self.join(pieces, samples))
            return torch.stack(rows)

    def pieces(self, num_samples: int) -> list[tuple[int, int]]:
        """Cut a length into the fewest equal pieces that are not too long: starts and stops."""
        return equal_pieces(num_samples, self.longest)

    def join(self, pieces: Iterable[Tensor], num_samples: int) -> Tensor:
        """Embed an utterance ``[1, D]`` that comes in pieces ``[T]``, of a known length in all."""
        total: Tensor | float = 0.0
        for piece in pieces:
            share = piece.shape[0] / num_samples
            full = torch.ones(1, device=piece.device)
            total = total + share * self._embed(piece.unsqueeze(0), full)
        return self.unit(total)

    def unit(self, embeddings: Tensor) -> Tensor:
        """Bring means of embeddings ``[..., D]`` back to unit length, each member's by itself.

        The pooled vectors of a linear classifier have no such length, and are left as they are.
        """
        towers = list(self.members) or [self]
        parts = embeddings.split([tower.output_size for tower in towers], dim=-1)
        # In an ensemble every member's part is divided by the same, as `concatenated` does it.
        return torch.cat(
            [
                normalized(part) / math.sqrt(len(towers)) if tower.of_unit_length else part
                for tower, part in zip(towers, parts, strict=True)
            ],
            dim=-1,
        )

    def train(self, mode: bool = True) -> AudioTower:
        """Set the mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and not self.freeze)

    @mark_as_transfer
    def load_weights(self, path: str | os.PathLike) -> None:
        """Take this tower's weights from an export's ``embedding_model.ckpt`` (safetensors)."""
        load_weights(self, path, others=True)

    def _embed(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        if self.members:
            return concatenated([tower._embed(wavs, wav_lens) for tower in self.members])
        vectors = self.pool(wavs, wav_lens)
        if self.audio_projections:
            vectors = self.audio_projections[self.head](vectors)
        return normalized(vectors) if self.of_unit_length else vectors


class TextTower(nn.Module):
    """Sentences to embeddings: lobe and projection, L2-normalised.

    Named as in `GEmoCLAP`, so that one file of weights serves both.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder
    >>> lobe = ByteTextEncoder(hidden_size=16, heads=2)
    >>> TextTower(lobe, Projection(16, 8)).eval()(["so sad", "so happy"]).shape
    torch.Size([2, 8])
    """

    def __init__(self, text_encoder: nn.Module, text_projection: Projection) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.text_projection = text_projection

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Embed N sentences, ``[N, D]``."""
        return normalized(self.text_projection(self.text_encoder(list(sentences))))


def text_tower_of(model: GEmoCLAP | GEmoCLAPEnsemble) -> TextTower | TextEnsemble:
    """Make the text tower of a model, whose modules it shares."""
    if isinstance(model, GEmoCLAPEnsemble):
        return TextEnsemble([text_tower_of(member) for member in model.members])
    return TextTower(model.text_encoder, model.text_projection)


def build_text_tower(
    config: Mapping[str, Any], tokenizer_folder: str | os.PathLike | None, where: str
) -> TextTower | TextEnsemble:
    """Build the text tower of a description alone, with random weights."""
    towers = []
    for one in checked_members(config, where):
        lobe = build_text_encoder(one.get("text_encoder"), tokenizer_folder, where)
        sizes = lobe.output_size, one["embedding_size"], one["hidden_size"]
        towers.append(TextTower(lobe, Projection(*sizes)))
    return TextEnsemble(towers) if len(towers) > 1 else towers[0]


@register_checkpoint_hooks
class ClassTexts(nn.Module):
    """Embeddings to log posteriors of classes, each given by its text's embedding.

    ``log_softmax(scale * cosine)``, the cosine being that of utterance and text.

    Parameters
    ----------
    num_classes : int
        C.
    embedding_size : int
        D.

    Examples
    --------
    >>> texts = ClassTexts(2, 3)
    >>> _ = texts.classes.copy_(torch.eye(3)[:2])
    >>> texts(torch.tensor([[[1.0, 0.0, 0.0]]])).exp()
    tensor([[[0.7311, 0.2689]]])
    """

    def __init__(self, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.zeros(num_classes, embedding_size))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score ``[..., D]`` embeddings: log posteriors ``[..., C]``."""
        return class_log_posteriors(embeddings, self.classes, self.scale)

    def check_texts(self) -> None:
        """Say whether there are texts at all: ValueError if classes are known by number only."""

    @mark_as_transfer
    def load_weights(self, path: str | os.PathLike) -> None:
        """Take the class embeddings from an export's ``classifier.ckpt`` (safetensors)."""
        load_weights(self, path)


def class_log_posteriors(embeddings: Tensor, classes: Tensor, scale: Tensor) -> Tensor:
    """Log posteriors ``[..., C]`` of embeddings ``[..., D]`` over classes ``[C, D]``.

    Classes ``[C, D + 1]`` have a bias in the last column.
    """
    size = embeddings.shape[-1]
    scores = embeddings @ classes[:, :size].T + classes[:, size:].sum(dim=-1)
    return F.log_softmax(scale * scores, dim=-1)


def _projection_of(config: Mapping[str, Any], pooling: nn.Module) -> Projection | None:
    """Make the projection that a description asks for; None for a plain classifier."""
    if is_plain(config):
        return None
    pooled_size = config.get("audio_size") or pooling.output_size
    return Projection(pooled_size, config["embedding_size"], config["hidden_size"])


def chosen_head(heads: Sequence[str], head: str | None) -> str:
    """Return the head asked for, or the first; ValueError if the model has no such head."""
    if head is not None and head not in heads:
        raise ValueError(f"head: expected one of {list(heads)}, found {head!r}.")
    return heads[0] if head is None else head
