"""Any number of audio files through an audio tower, in the caller's order and as they come.

Three steps, each a function that another engine can call: `read_recording` opens a file
once, `make_batches` cuts what was read into batches of little padding, `embed_batch` runs
the tower. `embed_files` does them in a few threads. On a CPU each thread computes alone: a
batch of short utterances is many small operations, which scale better side by side than
each spread over all cores.

Whatever goes wrong with a file is its row's error, and the rest go on. Whoever stops, by closing
the iterator or by an interrupt, waits for no more than one layer of the model.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from gemoclap_sb.data.audio import AudioError, AudioReader
from gemoclap_sb.data.opening import shown
from gemoclap_sb.data.samplers import length_sorted_batches
from gemoclap_sb.inference.failures import (
    in_one_line,
    is_out_of_memory,
    not_embedded,
    not_finite,
)
from gemoclap_sb.inference.tower import Tower

logger = get_logger(__name__)

# Padded seconds of a batch. On a CPU, more leaves the cache and is slower.
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 24.0, 480.0
# Of decoded audio that is sorted by length together: 115 MB at 16 kHz.
WINDOW_SECONDS = 1800.0
_MOST_WORKERS = 4


def batch_seconds(device: torch.device | str) -> float:
    """Tell how many padded seconds are best taken at a time on a device."""
    return CPU_BATCH_SECONDS if torch.device(device).type == "cpu" else GPU_BATCH_SECONDS


@dataclass(frozen=True)
class BulkOptions:
    """How many files are taken at a time.

    Parameters
    ----------
    batch_size : int or "auto"
        Files in a batch. ``"auto"`` bounds the padded seconds of a batch: 24 on a CPU, 480 on
        a GPU.
    window : int
        Files that are sorted by length together, fewer if they hold half an hour.
    first_window : int
        Files of the first window, at most ``window``; each later one has twice as many. Few let
        the first result come soon, more save padding.
    workers : int, optional
        Threads; by default up to 4, of which each computes with its share of the cores.
    progress : bool
        Show a bar on standard error, where that is a terminal.

    Raises
    ------
    ValueError
        If an option is out of its range.
    """

    batch_size: int | str = "auto"
    window: int = 512
    first_window: int = 32
    workers: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and not _is_count(self.batch_size):
            found = self.batch_size
            raise ValueError(f"batch_size: expected 'auto' or 1 and more, found {found!r}.")
        for name in ("window", "first_window", "workers"):
            value = getattr(self, name)
            if not (_is_count(value) or (name == "workers" and value is None)):
                raise ValueError(f"{name}: expected 1 or more, found {value!r}.")


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
    embedding: Tensor | None = None
    error: str | None = None


@dataclass(frozen=True)
class Recording:
    """A file that was opened: its waveform ``[T]``, or if it is long the reader; or an error."""

    path: str
    wav: Tensor | None = None
    reader: AudioReader | None = None
    error: str | None = None


def read_recording(
    path: str | os.PathLike,
    sample_rate: int,
    longest: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Recording:
    """Open a file, and decode it if it has at most ``longest`` samples at ``sample_rate``.

    Whatever goes wrong is the recording's error. ``is_stopped`` is `AudioReader`'s.
    """
    try:
        reader = AudioReader(path, sample_rate, is_stopped)
        if reader.num_samples > longest:
            return Recording(_text(path), reader=reader)
        with reader:
            return Recording(_text(path), reader.read())
    except AudioError as error:
        return Recording(_text(path), error=str(error))
    # A file that breaks the decoder must not end the work on thousands of others.
    except Exception as error:
        logger.debug("%s", path, exc_info=error)
        name = shown(_text(path))
        reason = in_one_line(error)
        return Recording(_text(path), error=f"Audio file {name} cannot be read: {reason}.")


def make_batches(
    recordings: Sequence[Recording],
    sample_rate: int,
    batch_size: int | None = None,
    max_batch_seconds: float | None = None,
    of_one_length: bool = False,
) -> list[list[int]]:
    """Cut recordings into batches of indices: similar lengths together, what is long alone.

    Those with an error are in no batch. The limits are `length_sorted_batches`'s. With
    ``of_one_length`` there is no padding in a batch.
    """
    batches = [[i] for i, recording in enumerate(recordings) if recording.reader is not None]
    short = [i for i, recording in enumerate(recordings) if recording.wav is not None]
    if short:
        seconds = [len(recordings[i].wav) / sample_rate for i in short]
        of_short = length_sorted_batches(seconds, batch_size, max_batch_seconds)
        if of_one_length:
            of_short = [
                list(same) for batch in of_short for _, same in groupby(batch, seconds.__getitem__)
            ]
        batches += [[short[i] for i in batch] for batch in of_short]
    return batches


def embed_batch(
    tower: Tower, batch: Sequence[Recording], device: torch.device | str
) -> list[FileEmbedding]:
    """Embed short recordings together, or one long recording piece by piece.

    The tower is in evaluation mode, on ``device``. A batch that fails, most often for a lack of
    memory, is taken in halves; what fails alone is that file's error.
    """
    failure = None
    try:
        vectors = _embeddings(tower, batch, device)
    except AudioError as error:
        return [FileEmbedding(batch[0].path, error=str(error))]
    except Exception as error:
        failure = error.with_traceback(None)
    # Outside of the except, which would keep the tensors of a failed attempt.
    if failure is None:
        return [_row(recording, vector) for recording, vector in zip(batch, vectors, strict=True)]
    if len(batch) == 1:
        logger.debug("%s", batch[0].path, exc_info=failure)
        return [FileEmbedding(batch[0].path, error=not_embedded(batch[0].path, failure, device))]
    if is_out_of_memory(failure):
        logger.warning_once(
            "Batches do not fit into the memory of %s and are taken in halves, which is slower. "
            "Lower batch_size (--batch-size).",
            device,
        )
    half = len(batch) // 2
    return [*embed_batch(tower, batch[:half], device), *embed_batch(tower, batch[half:], device)]


def _embeddings(tower: Tower, batch: Sequence[Recording], device: torch.device | str) -> Tensor:
    """Embeddings ``[B, D]``, on the CPU."""
    with torch.inference_mode():
        if (reader := batch[0].reader) is not None:
            with reader:
                pieces = tower.pieces(reader.num_samples)
                wavs = (reader.read(*piece).to(device) for piece in pieces)
                vectors = tower.join(wavs, reader.num_samples)
        else:
            lengths = torch.tensor([len(recording.wav) for recording in batch])
            wavs = pad_sequence([recording.wav for recording in batch], batch_first=True)
            vectors = tower(wavs.to(device), (lengths / wavs.shape[1]).to(device))[:, 0]
    # Tensors made in inference mode cannot take part in anybody's training.
    return vectors.cpu().clone()


def _row(recording: Recording, embedding: Tensor) -> FileEmbedding:
    if torch.isfinite(embedding).all():
        return FileEmbedding(recording.path, embedding)
    peak = None if recording.wav is None else float(recording.wav.abs().max())
    return FileEmbedding(recording.path, error=not_finite(recording.path, peak))


def _text(path: str | os.PathLike) -> str:
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def embed_files(
    tower: Tower,
    paths: Iterable[str | os.PathLike],
    device: torch.device | str,
    options: BulkOptions | None = None,
) -> Iterator[FileEmbedding]:
    """Embed files: a row a path, in order; one that cannot be read is a row with its error.

    ``paths`` may be endless: little is read ahead. The tower is in evaluation mode, on
    ``device``. ValueError for a single path, at the call and not at the first row.

    Examples
    --------
    >>> from gemoclap_sb.lobes import ByteTextEncoder, ResNetEncoder
    >>> from gemoclap_sb.models import AudioTower, GEmoCLAP
    >>> text = ByteTextEncoder(hidden_size=16, heads=2)
    >>> clap = GEmoCLAP(ResNetEncoder(channels=[8], strides=[2]), text, embedding_size=8)
    >>> [row] = embed_files(AudioTower.of(clap.eval()), ["none.wav"], "cpu")
    >>> row.error
    'Audio file none.wav is missing.'
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(f"paths: expected several paths, found one: {paths!s}. Put it in a list.")
    try:
        given = iter(paths)
    except TypeError as error:
        found = type(paths).__name__
        raise ValueError(f"paths: expected several paths, found {found}.") from error
    options = options or BulkOptions()
    rows = _Threads(tower, torch.device(device), options).run(given)
    total = len(paths) if isinstance(paths, Sized) else None
    # None, and not False: tqdm then leaves out the bar where nobody would see it.
    bar = tqdm(rows, total=total, unit="file", disable=None if options.progress else True)
    return iter(bar)


class _Stopped(BaseException):
    """Nobody waits for the result; no Exception, which would be a row."""


class _Threads:
    """State of one call of `embed_files`."""

    def __init__(self, tower: Tower, device: torch.device, options: BulkOptions) -> None:
        self.tower = tower
        self.device = device
        self.window, self.largest = min(options.first_window, options.window), options.window
        self.threads = torch.get_num_threads()
        self.workers = options.workers or min(_MOST_WORKERS, self.threads)
        seconds = batch_seconds(device)
        is_auto = options.batch_size == "auto"
        self.limits = (None, seconds) if is_auto else (options.batch_size, None)
        self.under_way: set[Future] = set()
        self.done: dict[int, FileEmbedding] = {}
        self.position = 0
        self.failure: Exception | None = None
        self.stopped = threading.Event()
        self.own: set[int] = set()

    def run(self, paths: Iterator[str | os.PathLike]) -> Iterator[FileEmbedding]:
        """Yield the rows in order while later batches are under way."""
        self.pool = ThreadPoolExecutor(self.workers, "embed", self._set_up_thread)
        try:
            for places, batch in self._batches(self._recordings(paths)):
                if batch:
                    self.under_way.add(self.pool.submit(self._embed, places, batch))
                while len(self.under_way) > self.workers:
                    self._collect()
                yield from self._ready()
            while self.under_way:
                self._collect()
                yield from self._ready()
            if self.failure is not None:
                raise self.failure
        finally:
            self._stop()

    def _stop(self) -> None:
        """End the threads: what reads at its next block, what computes at its next layer."""
        self.stopped.set()

        def leave(*_: object) -> None:
            if threading.get_ident() in self.own:
                raise _Stopped

        hook = register_module_forward_pre_hook(leave)
        try:
            self.pool.shutdown(wait=True, cancel_futures=True)
        finally:
            hook.remove()
            if self.device.type == "cpu":
                # The workers' number is also what threads started later would begin with.
                torch.set_num_threads(self.threads)

    def _recordings(self, paths: Iterator[str | os.PathLike]) -> Iterator[Recording]:
        """Read in the threads, a few files ahead."""
        ahead: deque[Future] = deque()
        for path in self._until_failure(paths):
            reading = (path, self.tower.sample_rate, self.tower.longest, self.stopped.is_set)
            ahead.append(self.pool.submit(read_recording, *reading))
            if len(ahead) > 2 * self.workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _until_failure(self, paths: Iterator[str | os.PathLike]) -> Iterator[str | os.PathLike]:
        """Keep what the caller's iterator raises till the rows before it are out."""
        try:
            yield from paths
        except Exception as error:
            self.failure = error

    def _batches(
        self, recordings: Iterator[Recording]
    ) -> Iterator[tuple[list[int], list[Recording]]]:
        """Cut windows into batches, each with its places; errors become rows at once."""
        first = 0
        while window := self._window(recordings):
            for i, recording in enumerate(window, start=first):
                if recording.error is not None:
                    self.done[i] = FileEmbedding(recording.path, error=recording.error)
            alone = self.tower.hears_padding
            batches = make_batches(window, self.tower.sample_rate, *self.limits, alone)
            # A window of nothing but errors is handed out too.
            for batch in batches or [[]]:
                yield [first + i for i in batch], [window[i] for i in batch]
            first += len(window)

    def _window(self, recordings: Iterator[Recording]) -> list[Recording]:
        """Take recordings until they are enough to sort, or as much as memory should hold."""
        window, samples = [], 0
        for recording in recordings:
            window.append(recording)
            # A long one is not decoded yet, but keeps its file open.
            samples += self.tower.longest if recording.wav is None else len(recording.wav)
            is_copy = recording.reader is not None and recording.reader.is_copy
            limit = WINDOW_SECONDS * self.tower.sample_rate
            if len(window) >= self.window or samples > limit or is_copy:
                break
        self.window = min(2 * self.window, self.largest)
        return window

    def _embed(self, places: list[int], batch: list[Recording]) -> list[tuple[int, FileEmbedding]]:
        return list(zip(places, embed_batch(self.tower, batch, self.device), strict=True))

    def _collect(self) -> None:
        finished, self.under_way = wait(self.under_way, return_when=FIRST_COMPLETED)
        for future in finished:
            self.done.update(future.result())

    def _ready(self) -> Iterator[FileEmbedding]:
        while self.position in self.done:
            yield self.done.pop(self.position)
            self.position += 1

    def _set_up_thread(self) -> None:
        self.own.add(threading.get_ident())
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, self.threads // self.workers))
