"""The path that a SpeechBrain user has without this project, inside the same model.

Stock lobes, stock pooling, every prompt of the batch encoded. `GEmoCLAP` takes them as
plug-ins, so that projections, loss and optimiser are the same on both paths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from speechbrain.integrations.huggingface.hubert import HuBERT
from speechbrain.integrations.huggingface.textencoder import TextEncoder
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM
from speechbrain.nnet.pooling import StatisticsPooling
from torch import Tensor, nn

from gemoclap_sb.models.gemoclap import GEmoCLAP

# SpeechBrain has no lobe for data2vec-audio; its wav2vec 2.0 lobe loads it.
STOCK_LOBES = {"wavlm": WavLM, "hubert": HuBERT, "wav2vec2": Wav2Vec2, "data2vec": Wav2Vec2}


class StockPooling(nn.Module):
    """SpeechBrain's `StatisticsPooling`, mean only, called the way `GEmoCLAP` calls.

    Parameters
    ----------
    input_size : int
        D, the size of a frame.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.pooling = StatisticsPooling(return_std=False)
        self.output_size = input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pool frames [B, F, D] to [B, D]."""
        return self.pooling(frames, lengths / frames.shape[1]).squeeze(1)


class StockText(nn.Module):
    """SpeechBrain's `TextEncoder`, trainable, of which the first token is taken.

    Parameters
    ----------
    folder : str
        Where the model lies.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.encoder = TextEncoder(folder, folder, freeze=False)
        self.output_size = self.encoder.model.config.hidden_size

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Encode N sentences to [N, D]."""
        return self.encoder(list(sentences))[:, 0]


class EveryPromptGEmoCLAP(GEmoCLAP):
    """`GEmoCLAP` that encodes the prompt of every utterance, equal ones again and again."""

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Embed N sentences, [N, D], L2-normalised."""
        vectors = self.text_encoder(list(sentences))
        return F.normalize(self.text_projection(vectors).float(), dim=-1)


def stock_audio_lobe(family: str, folder: str, freeze_front_end: bool) -> nn.Module:
    """Load SpeechBrain's lobe of a family.

    Parameters
    ----------
    family : str
        One of `encoder_models.FAMILIES`.
    folder : str
        Where the model lies.
    freeze_front_end : bool
        Its `freeze_feature_extractor`.

    Returns
    -------
    nn.Module
        In float32.
    """
    lobe = STOCK_LOBES[family](folder, folder, freeze_feature_extractor=freeze_front_end)
    return lobe.to(torch.float32)
