"""Encoders of waveforms and of sentences, pooling and projection.

An **audio lobe** is any module ``(wavs [B, T], wav_lens [B]) -> frames [B, F, D]``. Those here
also say their ``output_size`` and their exact ``frame_lengths``, so that an utterance has the
same embedding in every batch. A **text lobe** is any module ``(N sentences) -> [N, Dt]``. Each
can be used alone in another recipe's YAML.
"""

from gemoclap_sb.lobes.lengths import frame_lengths, mask_from_lengths, sample_lengths
from gemoclap_sb.lobes.pooling import AttentiveStatisticsPooling, MaskedMeanPooling
from gemoclap_sb.lobes.projection import Projection
from gemoclap_sb.lobes.resnet import ResNetEncoder
from gemoclap_sb.lobes.speeds import RandomSpeed
from gemoclap_sb.lobes.ssl import SSLEncoder
from gemoclap_sb.lobes.text import ByteTextEncoder, TextEncoder

__all__ = [
    "AttentiveStatisticsPooling",
    "ByteTextEncoder",
    "MaskedMeanPooling",
    "Projection",
    "RandomSpeed",
    "ResNetEncoder",
    "SSLEncoder",
    "TextEncoder",
    "frame_lengths",
    "mask_from_lengths",
    "sample_lengths",
]
