"""Encoders of waveforms and of sentences, pooling and projection.

An **audio lobe** is any module ``(wavs [B, T], wav_lens [B]) -> frames [B, F, D]``. Those here
also say their ``output_size`` and their exact ``frame_lengths``, so that an utterance has the
same embedding in every batch. A **text lobe** is any module ``(N sentences) -> [N, Dt]``. Each
can be used alone in another recipe's YAML.

Importing transformers takes longer than all the rest, so what needs it is imported when it is
named.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gemoclap_sb.lobes.lengths import frame_lengths, mask_from_lengths, sample_lengths
from gemoclap_sb.lobes.pooling import AttentiveStatisticsPooling, MaskedMeanPooling
from gemoclap_sb.lobes.projection import Projection
from gemoclap_sb.lobes.resnet import ResNetEncoder
from gemoclap_sb.lobes.speeds import RandomSpeed

if TYPE_CHECKING:
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

_OF_TRANSFORMERS = {"SSLEncoder": "ssl", "ByteTextEncoder": "text", "TextEncoder": "text"}


def __getattr__(name: str) -> object:
    if name not in _OF_TRANSFORMERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF_TRANSFORMERS[name]}"), name)
