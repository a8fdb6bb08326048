"""Any number of audio files through an audio tower, in the caller's order and as they come.

Files are taken in windows. In a window they are sorted by the length that their headers
state and cut into batches of little padding; each batch is read and embedded by one of a
few threads. On a CPU each thread computes alone: a batch of short utterances is many
small operations, which scale better side by side than each spread over all cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from gemoclap_sb.data.audio import AudioError, AudioInfo, audio_info, read_audio
from gemoclap_sb.data.samplers import length_sorted_batches
from gemoclap_sb.models.towers import AudioTower

WINDOW = 512
# Padded seconds of a batch. On a CPU, more leaves the cache and is slower.
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 24.0, 480.0
_MOST_WORKERS = 4


@dataclass(frozen=True)
class FileEmbedding:
    """What became of one file.

    Attributes
    ----------
    path : str
        As the caller gave it.
    embedding : Tensor or None
        ``[D]``, L2-normalised, on the CPU; None where there is an error.
    error : str or None
        Why there is no embedding.
    """

    path: str
    embedding: Tensor | None
    error: str | None = None


def embed_file(tower: AudioTower, path: str | os.PathLike, device: torch.device | str) -> Tensor:
    """Embed one file, reading a long one piece by piece.

    Parameters
    ----------
    tower : AudioTower
        On ``device``.
    path : str or os.PathLike
        An audio file.
    device : torch.device or str
        Where the tower is.

    Returns
    -------
    Tensor
        ``[1, 1, D]``.

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    info = audio_info(path)
    if not _is_long(tower, info):
        wav = read_audio(path, tower.sample_rate)
        return tower(wav.unsqueeze(0).to(device), torch.ones(1, device=device))
    longest = max(1, tower.longest * info.sample_rate // tower.sample_rate)
    pieces = tower.pieces(info.num_frames, longest)
    wavs = (read_audio(path, tower.sample_rate, *piece).to(device) for piece in pieces)
    total = sum(
        _samples(stop - start, info.sample_rate, tower.sample_rate) for start, stop in pieces
    )
    return tower.join(wavs, total).unsqueeze(0)


def embed_stream(
    tower: AudioTower,
    paths: Iterable[str | os.PathLike],
    device: torch.device | str,
    *,
    batch_size: int | str = "auto",
    window: int = WINDOW,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[FileEmbedding]:
    """Embed files.

    Parameters
    ----------
    tower : AudioTower
        In evaluation mode, on ``device``.
    paths : Iterable
        Audio files; may be endless, since at most two windows are looked at ahead.
    device : torch.device or str
        Where the tower is.
    batch_size : int or "auto"
        Files in a batch. ``"auto"`` bounds the padded seconds of a batch: 24 on a CPU,
        480 on a GPU.
    window : int
        Files that are sorted by length together. The first result comes when a window's
        first file is done.
    workers : int, optional
        Threads; by default up to 4, of which each computes with its share of the cores.
    progress : bool
        Show a bar on standard error, where that is a terminal.

    Yields
    ------
    FileEmbedding
        One a path, in order. A file that cannot be read is a row with its error.

    Raises
    ------
    ValueError
        If an argument is out of its range; at the call, not at the first row.

    Examples
    --------
    >>> from gemoclap_sb.models.building import model_config
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ScratchEncoder
    >>> from gemoclap_sb.models.gemoclap import GEmoCLAP
    >>> text = ByteTextEncoder(hidden_size=16, heads=2)
    >>> clap = GEmoCLAP(ScratchEncoder(channels=16), text, embedding_size=8)
    >>> tower = AudioTower(model_config(clap)).eval()
    >>> [row] = embed_stream(tower, ["none.wav"], "cpu")
    >>> row.error
    'Audio file none.wav is missing.'
    """
    if isinstance(paths, str | os.PathLike):
        raise ValueError(f"paths: expected several paths, found one: {paths}. Put it in a list.")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size > 0):
        raise ValueError(f"batch_size: expected 'auto' or 1 and more, found {batch_size!r}.")
    if window < 1:
        raise ValueError(f"window: expected 1 or more, found {window!r}.")
    if workers is None:
        workers = min(_MOST_WORKERS, torch.get_num_threads())
    if workers < 1:
        raise ValueError(f"workers: expected 1 or more, found {workers!r}.")
    stream = _Stream(tower, torch.device(device), batch_size, window, workers)
    rows = stream.run(iter(paths))
    total = len(paths) if isinstance(paths, Sized) else None
    # None, and not False: tqdm then leaves out the bar where nobody would see it.
    return iter(tqdm(rows, total=total, unit="file", disable=None if progress else True))


class _Stream:
    """State of one call of `embed_stream`."""

    def __init__(
        self,
        tower: AudioTower,
        device: torch.device,
        batch_size: int | str,
        window: int,
        workers: int,
    ) -> None:
        self.tower = tower
        self.device = device
        self.window = window
        self.workers = workers
        self.batch_size = None if batch_size == "auto" else batch_size
        seconds = CPU_BATCH_SECONDS if device.type == "cpu" else GPU_BATCH_SECONDS
        self.batch_seconds = seconds if batch_size == "auto" else None
        self.threads = torch.get_num_threads()
        self.paths: dict[int, str | os.PathLike] = {}
        self.done: dict[int, FileEmbedding] = {}

    def run(self, paths: Iterator[str | os.PathLike]) -> Iterator[FileEmbedding]:
        """Yield the rows in order while later batches are under way."""
        position = 0
        under_way: set[Future] = set()
        pool = ThreadPoolExecutor(self.workers, "embed", self._set_threads)
        try:
            for batch in self._batches(paths):
                under_way.add(pool.submit(self._embed, batch))
                while len(under_way) > 2 * self.workers:
                    finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    self._collect(finished)
                while position in self.done:
                    yield self.done.pop(position)
                    position += 1
            while under_way or position in self.done:
                while position in self.done:
                    yield self.done.pop(position)
                    position += 1
                if under_way:
                    finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    self._collect(finished)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if self.device.type == "cpu":
                # The workers' number is also what threads started later would begin with.
                torch.set_num_threads(self.threads)

    def _batches(self, paths: Iterator[str | os.PathLike]) -> Iterator[list[int]]:
        """Cut the paths into batches; unreadable headers become rows at once."""
        count = 0
        while chunk := list(islice(paths, self.window)):
            short, seconds = [], []
            for index, path in enumerate(chunk, start=count):
                try:
                    info = audio_info(path)
                except AudioError as error:
                    self.done[index] = FileEmbedding(str(path), None, str(error))
                    continue
                self.paths[index] = path
                if _is_long(self.tower, info):
                    yield [index]
                else:
                    short.append(index)
                    seconds.append(info.duration)
            count += len(chunk)
            if short:
                batches, _ = length_sorted_batches(seconds, self.batch_size, self.batch_seconds)
                yield from ([short[i] for i in batch] for batch in batches)
            else:
                # So that a window of nothing but errors is handed out too.
                yield []

    def _set_threads(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, self.threads // self.workers))

    def _embed(self, batch: list[int]) -> list[tuple[int, FileEmbedding]]:
        """Read and embed a batch of short files, or one long file, in a worker."""
        rows: list[tuple[int, FileEmbedding]] = []
        read: list[tuple[int, str, Tensor]] = []
        for index in batch:
            path = self.paths.pop(index)
            try:
                if len(batch) == 1:
                    with torch.inference_mode():
                        vector = embed_file(self.tower, path, self.device)
                    rows.append((index, FileEmbedding(str(path), _usable(vector[0, 0]))))
                else:
                    read.append((index, str(path), read_audio(path, self.tower.sample_rate)))
            except AudioError as error:
                rows.append((index, FileEmbedding(str(path), None, str(error))))
        if read:
            lengths = torch.tensor([len(wav) for _, _, wav in read])
            with torch.inference_mode():
                wavs = pad_sequence([wav for _, _, wav in read], batch_first=True)
                wav_lens = lengths / wavs.shape[1]
                vectors = self.tower(wavs.to(self.device), wav_lens.to(self.device))
            for (index, path, _), vector in zip(read, _usable(vectors[:, 0]), strict=True):
                rows.append((index, FileEmbedding(path, vector)))
        return rows

    def _collect(self, finished: Iterable[Future]) -> None:
        for future in finished:
            self.done.update(future.result())


def _usable(vectors: Tensor) -> Tensor:
    """Bring vectors to the CPU, as tensors that autograd takes: those of inference mode are not."""
    return vectors.cpu().clone()


def _is_long(tower: AudioTower, info: AudioInfo) -> bool:
    return _samples(info.num_frames, info.sample_rate, tower.sample_rate) > tower.longest


def _samples(frames: int, rate: int, target: int) -> int:
    """Length after resampling, as torchaudio has it."""
    return -(-frames * target // rate)
