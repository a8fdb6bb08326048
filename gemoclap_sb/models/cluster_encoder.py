"""An audio tower that learns from clusters of speakers: a projection, and a layer for speakers.

Both are for the pretraining alone; what is handed on is the audio encoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from gemoclap_sb.lobes.gradient_reversal import reverse_gradient
from gemoclap_sb.lobes.pooling import MaskedMeanPooling
from gemoclap_sb.lobes.projection import Projection
from gemoclap_sb.models.gemoclap import normalized
from gemoclap_sb.models.pooled_audio import PooledAudio, size_of
from gemoclap_sb.objectives.cluster_contrastive import EmbeddingOutput
from gemoclap_sb.objectives.cross_entropy import ClassifierOutput
from gemoclap_sb.objectives.label_matrices import check_choice

SPEAKER_TASKS = (None, "plain", "adversarial")


class ClusterEncoder(PooledAudio):
    """Audio lobe, pooling, and what `gemoclap_sb.objectives.ClusterContrastiveObjective` reads.

    How many speakers there are is known when the data are: call `add_speakers` before training.

    Parameters
    ----------
    audio_encoder : nn.Module
        Audio lobe ``(wavs [B, T], wav_lens [B]) -> frames [B, F, Da]``.
    pooling : nn.Module, optional
        ``(frames, lengths) -> [B, Dp]``; by default the mean of valid frames.
    embedding_size : int
        D of the contrast; the projection is a multilayer perceptron.
    speaker_task : "plain", "adversarial" or None
        Whether a linear layer over the pooled vectors tells the speakers, and with it the encoder
        learns to, or by gradient reversal unlearns to.
    trim_db : float, optional
        As of `GEmoCLAP`.
    dropout : float
        Dropout on the pooled vectors.
    audio_size : int, optional
        Da, for a lobe without ``output_size`` and pooling.

    Raises
    ------
    ValueError
        If ``speaker_task`` is no such word, or the sizes are not told.

    Examples
    --------
    >>> import torch
    >>> from gemoclap_sb.lobes import ResNetEncoder
    >>> lobe = ResNetEncoder(channels=[8], strides=[2])
    >>> model = ClusterEncoder(lobe, embedding_size=16, speaker_task="plain")
    >>> model.add_speakers(5)
    >>> outputs = model(torch.randn(2, 8000), torch.ones(2))
    >>> outputs["cluster"].embeddings.shape, outputs["spk_id"].logits.shape
    (torch.Size([2, 16]), torch.Size([2, 5]))
    """

    heads = ("cluster",)

    def __init__(
        self,
        audio_encoder: nn.Module,
        pooling: nn.Module | None = None,
        embedding_size: int = 128,
        speaker_task: str | None = None,
        trim_db: float | None = None,
        dropout: float = 0.0,
        audio_size: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("speaker_task", speaker_task, SPEAKER_TASKS)
        self.audio_encoder = audio_encoder
        if pooling is None:
            pooling = MaskedMeanPooling(size_of(audio_encoder, audio_size, "audio"))
        self.pooling = pooling
        self.pooled_size = size_of(pooling, None, "pooling")
        self.projection = Projection(self.pooled_size, embedding_size)
        self.speaker_task = speaker_task
        self.speakers: nn.Linear | None = None
        self.trim_db, self.tta_speeds = trim_db, None
        self.dropout = nn.Dropout(dropout)

    def add_speakers(self, count: int) -> None:
        """Give the speakers a linear layer, if there is a task for it."""
        if self.speaker_task is not None:
            self.speakers = nn.Linear(self.pooled_size, count)

    def forward(
        self, wavs: Tensor, wav_lens: Tensor
    ) -> dict[str, EmbeddingOutput | ClassifierOutput]:
        """Embeddings ``[B, D]`` of a batch's clusters, and scores ``[B, S]`` of its speakers."""
        pooled = self.dropout(self.pool(wavs, wav_lens))
        outputs: dict[str, EmbeddingOutput | ClassifierOutput]
        outputs = {"cluster": EmbeddingOutput(normalized(self.projection(pooled)))}
        if self.speakers is not None:
            adversarial = self.speaker_task == "adversarial"
            seen = reverse_gradient(pooled) if adversarial else pooled
            outputs["spk_id"] = ClassifierOutput(self.speakers(seen))
        return outputs
