"""GEmoCLAP: an audio tower and a text tower that meet in one space.

    waveform -> audio lobe -> frames -> pooling -> projection (one a head) -> Ea
    sentence -> text lobe  -> vector            -> projection (shared)     -> Et

Both embeddings are L2-normalised, so their product is a cosine. Which heads there are
follows from the objective: Emo-CLAP and SL-GEmo-CLAP have one, ML-GEmo-CLAP one per
attribute.

Source: Pan et al., arXiv 2306.07848, section 2.1 and figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from gemoclap_sb.lobes.pooling import MaskedMeanPooling
from gemoclap_sb.lobes.projection import Projection
from gemoclap_sb.models.pooled_audio import PooledAudio, checked_tta_speeds, size_of
from gemoclap_sb.objectives.divergences import ContrastiveOutput


class LogitScale(nn.Module):
    """The temperature ``eps`` that multiplies cosines, learnt as its logarithm.

    The logarithm keeps it positive; the ceiling keeps training from running away (CLIP,
    arXiv 2103.00020, section 2.5). ValueError if not 0 < ``initial`` <= ``ceiling``.

    Examples
    --------
    >>> round(LogitScale(1.0)().item(), 4)
    1.0
    """

    def __init__(
        self, initial: float = 1.0, learnable: bool = True, ceiling: float = 100.0
    ) -> None:
        super().__init__()
        if not 0.0 < initial <= ceiling:
            raise ValueError(f"logit_scale: expected 0 < value <= {ceiling:g}, found {initial!r}.")
        self.ceiling = ceiling
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learnable)

    def forward(self) -> Tensor:
        """Return the temperature, a scalar."""
        # The gradient passes the ceiling, so that a temperature above it can come back.
        exceeded = (self.log_scale - math.log(self.ceiling)).clamp(min=0.0).detach()
        return (self.log_scale - exceeded).exp()


class GEmoCLAP(PooledAudio):
    """Contrastive language-audio model of emotional speech.

    Parameters
    ----------
    audio_encoder : nn.Module
        Audio lobe ``(wavs [B, T], wav_lens [B]) -> frames [B, F, Da]``. Any SpeechBrain lobe
        of that signature will do.
    text_encoder : nn.Module
        Text lobe ``(N sentences) -> [N, Dt]``.
    embedding_size : int
        D, the size of the common space.
    heads : Sequence[str]
        Names of the audio projections: the attributes that the objective reads.
    pooling : nn.Module, optional
        ``(frames, lengths) -> [B, Dp]``; by default the mean of valid frames.
    hidden_size : int, optional
        Width of the projections' hidden layer; by default ``embedding_size``.
    dropout : float
        Dropout inside the projections.
    logit_scale : float
        The paper's temperatures ``eps_a`` and ``eps_t`` at the start.
    learn_logit_scale : bool
        Whether they are learnt.
    trim_db : float, optional
        Leave out silence at both ends, of so many decibels below an utterance's loudest stretch;
        see `gemoclap_sb.lobes.cutting.trim_silence`. By default none is left out.
    tta_speeds : Sequence[int], optional
        Test-time augmentation: outside of training an utterance is heard at each of these speeds,
        in percent, and its pooled vector is the mean of theirs; as many times the work. By default
        it is heard once.
    audio_size, text_size : int, optional
        Sizes of the pooled and of the text vector, for a lobe that has no ``output_size``.

    Raises
    ------
    ValueError
        If a lobe tells no size and none is given, ``heads`` is empty, or a speed is not a whole
        number from 50 to 200.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
    >>> clap = GEmoCLAP(
    ...     audio_encoder=ResNetEncoder(channels=[8], strides=[2]),
    ...     text_encoder=ByteTextEncoder(hidden_size=16, heads=2),
    ...     embedding_size=8,
    ... )
    >>> wavs, wav_lens = torch.randn(2, 8000), torch.tensor([1.0, 0.5])
    >>> sentences = {"emotion": ["this person sounds sad", "this person sounds happy"]}
    >>> outputs = clap(wavs, wav_lens, sentences)
    >>> outputs["emotion"].audio.shape, outputs["emotion"].text.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    >>> frames, lengths = clap.encode_frames(wavs, wav_lens)
    >>> frames.shape, lengths.tolist()
    (torch.Size([2, 8, 256]), [8, 4])
    """

    def __init__(
        self,
        audio_encoder: nn.Module,
        text_encoder: nn.Module,
        embedding_size: int = 512,
        heads: Sequence[str] = ("emotion",),
        pooling: nn.Module | None = None,
        hidden_size: int | None = None,
        dropout: float = 0.0,
        logit_scale: float = 1.0,
        learn_logit_scale: bool = True,
        trim_db: float | None = None,
        tta_speeds: Sequence[int] | None = None,
        audio_size: int | None = None,
        text_size: int | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("heads: expected at least one name, found none.")
        self.heads = tuple(heads)
        # An optimiser's state names parameters by their order: it is part of a checkpoint.
        self.audio_encoder = audio_encoder
        self.text_encoder = text_encoder
        self.pooling = pooling or MaskedMeanPooling(size_of(audio_encoder, audio_size, "audio"))
        audio_size = size_of(self.pooling, audio_size if pooling is not None else None, "audio")
        text_size = size_of(text_encoder, text_size, "text")
        self.embedding_size = embedding_size
        self.trim_db = trim_db
        self.tta_speeds = checked_tta_speeds(tta_speeds)

        def of_each_head(make: Callable[[], nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict({head: make() for head in self.heads})

        self.audio_projections = of_each_head(
            lambda: Projection(audio_size, embedding_size, hidden_size, dropout)
        )
        self.text_projection = Projection(text_size, embedding_size, hidden_size, dropout)
        self.audio_scales = of_each_head(lambda: LogitScale(logit_scale, learn_logit_scale))
        self.text_scales = of_each_head(lambda: LogitScale(logit_scale, learn_logit_scale))
        self.pooled_dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleDict()

    def add_classifiers(self, sizes: Mapping[str, int]) -> None:
        """Give heads a linear layer each that scores so many classes from the pooled audio.

        Objectives with a ``cross_entropy_weight`` read the scores. They serve training only: an
        export has none.
        """
        for head, size in sizes.items():
            pooled_size = self.audio_projections[head].layers[0].in_features
            self.classifiers[head] = nn.Linear(pooled_size, size)

    def forward(
        self, wavs: Tensor, wav_lens: Tensor, sentences: Mapping[str, Sequence[str]]
    ) -> dict[str, ContrastiveOutput]:
        """Embed a batch of N pairs, each encoder running once for all heads.

        ``wavs`` ``[N, T]`` and ``wav_lens`` ``[N]`` as for `encode_frames`; N sentences per
        head, for the model's heads and no others (else ValueError). Returns a
        `ContrastiveOutput` per head.
        """
        if set(sentences) != set(self.heads):
            raise ValueError(
                f"sentences: expected the heads {list(self.heads)}, found {sorted(sentences)}."
            )
        pooled = self.pool(wavs, wav_lens)
        texts = self._texts(sentences)
        return {
            head: ContrastiveOutput(
                audio=normalized(self.audio_projections[head](pooled)),
                text=text,
                audio_scale=self.audio_scales[head](),
                text_scale=self.text_scales[head](),
                logits=self._class_logits(head, pooled),
            )
            for head, text in zip(self.heads, texts, strict=True)
        }

    # As torch.compiler.disable, but that it imports the compiler only when it is called.
    @_disable_dynamo  # or each list of sentences would be compiled anew
    def _texts(self, sentences: Mapping[str, Sequence[str]]) -> Sequence[Tensor]:
        flat = [sentence for head in self.heads for sentence in sentences[head]]
        return self.encode_text(flat).split([len(sentences[head]) for head in self.heads])

    def _class_logits(self, head: str, pooled: Tensor) -> Tensor | None:
        if head not in self.classifiers:
            return None
        return self.classifiers[head](self.pooled_dropout(pooled))

    def encode_audio(self, wavs: Tensor, wav_lens: Tensor, head: str | None = None) -> Tensor:
        """Audio embeddings ``[N, D]`` by one projection, by default the first; L2-normalised."""
        projection = self.audio_projections[head or self.heads[0]]
        return normalized(projection(self.pool(wavs, wav_lens)))

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Text embeddings ``[N, D]``, L2-normalised; each distinct sentence is encoded once.

        A batch of 32 utterances has a handful of distinct prompts. In training with dropout,
        equal sentences therefore share one dropout mask.
        """
        distinct = {sentence: i for i, sentence in enumerate(dict.fromkeys(sentences))}
        embeddings = normalized(self.text_projection(self.text_encoder(list(distinct))))
        index = torch.tensor([distinct[s] for s in sentences], device=embeddings.device)
        return embeddings[index]

    def encode_classes(self, class_sentences: Sequence[Sequence[str]]) -> Tensor:
        """One text embedding ``[C, D]`` per class, the mean over the class's sentences."""
        return class_embeddings(class_sentences, self.encode_text)

    def class_scores(self, output: ContrastiveOutput, classes: Tensor) -> Tensor:
        """Cosine of each utterance with each class's text, ``[N, C]``."""
        with torch.autocast(output.audio.device.type, enabled=False):
            return output.audio @ classes.T

    def class_scale(self, head: str | None = None) -> float:
        """Give the factor on `class_scores` that training chose: a head's ``eps_a``."""
        return self.audio_scales[head or self.heads[0]]().item()


def normalized(vectors: Tensor) -> Tensor:
    """Vectors at unit length, float32, since a half-precision norm costs the cosine two digits."""
    return F.normalize(vectors.float(), dim=-1)


def class_embeddings(
    class_sentences: Sequence[Sequence[str]],
    encode_text: Callable[[list[str]], Tensor],
    unit: Callable[[Tensor], Tensor] = normalized,
) -> Tensor:
    """One embedding per class, ``[C, D]``: the mean over its sentences, at unit length."""
    counts = [len(sentences) for sentences in class_sentences]
    flat = [sentence for sentences in class_sentences for sentence in sentences]
    means = [share.mean(dim=0) for share in encode_text(flat).split(counts)]
    return unit(torch.stack(means))
