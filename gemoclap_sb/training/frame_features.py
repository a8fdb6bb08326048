"""Frames of intermediate layers on disk, in blocks of so many seconds of speech.

A block is there whole or not at all, so that what was killed goes on with the next. Utterances
are dealt to the blocks at random: each block is like the whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset
from tqdm import tqdm

from gemoclap_sb.data.samplers import length_sorted_batches
from gemoclap_sb.files import atomic_path
from gemoclap_sb.models.pooled_audio import PooledAudio

Rows = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Block:
    """A block's file, and the utterances in it."""

    path: Path
    ids: tuple[str, ...]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read its frames, float32 ``[frames, D]``, and how many each utterance has.

        ValueError if the file is damaged, or not of these utterances.
        """
        frames, lengths = self._read("frames"), self._read("lengths")
        if len(lengths) != len(self.ids) or lengths.sum() != len(frames):
            raise ValueError(f"{self.path} is not of its {len(self.ids)} utterances: delete it.")
        return frames, lengths

    def count(self) -> int:
        """Count its frames, without reading them."""
        return int(self._read("lengths").sum())

    def _read(self, name: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as found:
                return found[name]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise ValueError(f"{self.path} is damaged ({error}): delete it.") from error


def plan_blocks(
    folder: str | os.PathLike, name: str, rows: Rows, seconds: float, seed: int
) -> list[Block]:
    """Deal utterances to blocks of at least so many seconds each, but for the last.

    >>> rows = {name: {"duration": 1.0} for name in "abcde"}
    >>> [len(block.ids) for block in plan_blocks("features", "train", rows, 2.0, seed=1)]
    [2, 2, 1]
    """
    ids = list(rows)
    dealt: list[list[str]] = [[]]
    held = 0.0
    for place in np.random.default_rng(seed).permutation(len(ids)):
        if held >= seconds:
            dealt.append([])
            held = 0.0
        dealt[-1].append(ids[place])
        held += float(rows[ids[place]]["duration"])
    return [
        Block(Path(folder) / f"{name}_{number:06d}.npz", tuple(of))
        for number, of in enumerate(dealt)
    ]


@torch.no_grad()
def extract_frames(
    blocks: Sequence[Block],
    dataset: DynamicItemDataset,
    rows: Rows,
    model: PooledAudio,
    layers: Sequence[int],
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> None:
    """Write the blocks that are missing; ``dataset`` has the ``rows``, in their order.

    ``model`` is left in evaluation mode, on the device. Features are computed in float32.
    """
    missing = [block for block in blocks if not block.path.is_file()]
    places = {name: place for place, name in enumerate(rows)}
    batches = []
    for block in missing:
        durations = [float(rows[name]["duration"]) for name in block.ids]
        for batch in length_sorted_batches(durations, batch_size):
            batches.append([places[block.ids[of]] for of in batch])
    loader = iter(make_dataloader(dataset, batch_sampler=batches, num_workers=num_workers))
    model.to(device).eval()
    with tqdm(total=len(missing), desc="features", unit="block", disable=None) as bar:
        for block in missing:
            found: dict[str, np.ndarray] = {}
            while len(found) < len(block.ids):
                batch = next(loader).to(device)
                frames, lengths = model.encode_layer_frames(*batch.sig, layers)
                frames = frames.float().cpu().numpy()
                for name, of, length in zip(batch.id, frames, lengths.tolist(), strict=True):
                    found[name] = of[:length].copy()
            ordered = [found[name] for name in block.ids]
            with atomic_path(block.path) as temporary:
                np.savez(
                    temporary,
                    frames=np.concatenate(ordered),
                    lengths=np.array([len(of) for of in ordered]),
                )
            bar.update()
