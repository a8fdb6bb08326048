"""What bulk inference asks of a model: any such module can be embedded with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Tower(Protocol):
    """What turns waveforms into embeddings here: `gemoclap_sb.models.towers.AudioTower`, say.

    Its embeddings ``[B, 1, D]`` are L2-normalised, unless it is a linear classifier's.
    """

    sample_rate: int
    longest: int
    hears_padding: bool

    def __call__(self, wavs: Tensor, wav_lens: Tensor) -> Tensor:
        """Embed waveforms of at most ``longest`` samples."""

    def pieces(self, num_samples: int) -> list[tuple[int, int]]:
        """Cut what is longer."""

    def join(self, pieces: Iterable[Tensor], num_samples: int) -> Tensor:
        """Embed what was cut, ``[1, D]``."""
