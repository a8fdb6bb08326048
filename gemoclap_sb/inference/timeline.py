"""Emotion over time: a classifier's answers along a recording of any length.

    found = timeline(classifier, "meeting.wav", window=2.0, hop=0.5)
    draw_timeline(found, "meeting.png")

A window slides over the recording, which is read block by block (see
`gemoclap_sb.data.audio_blocks`), so that memory does not grow with its length. Each window
is classified as a recording of its own would be.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from gemoclap_sb.data.audio import audio_info
from gemoclap_sb.data.audio_blocks import audio_blocks
from gemoclap_sb.files import atomic_path
from gemoclap_sb.inference.bulk import CPU_BATCH_SECONDS, GPU_BATCH_SECONDS

if TYPE_CHECKING:
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

__all__ = ["Timeline", "draw_timeline", "timeline"]

# Of one hue and far apart in lightness: told apart in any colour vision, and in print.
_STRONG, _WEAK = "#184e77", "#b9d0e2"
_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_MOST_TICKS = 12
_MOST_TITLE_LETTERS = 50


@dataclass(frozen=True)
class Timeline:
    """Probabilities of classes along a recording.

    Attributes
    ----------
    path : str
        The recording.
    labels : list of str
        The C classes.
    starts, ends : numpy.ndarray
        ``[N]``, where each window begins and ends, in seconds.
    probabilities : numpy.ndarray
        ``[N, C]``, float32; a row adds up to 1.
    window, hop : float
        As asked for, in seconds.

    Examples
    --------
    >>> timeline = Timeline(
    ...     "a.wav", ["ang", "sad"], np.array([0.0, 0.5]), np.array([2.0, 2.5]),
    ...     np.array([[0.75, 0.25], [0.25, 0.75]], np.float32), 2.0, 0.5,
    ... )
    >>> timeline.times
    array([1. , 1.5])
    >>> [row["label"] for row in timeline.rows()]
    ['ang', 'sad']
    """

    path: str
    labels: list[str]
    starts: np.ndarray
    ends: np.ndarray
    probabilities: np.ndarray
    window: float
    hop: float

    @property
    def times(self) -> np.ndarray:
        """Centres of the windows ``[N]``, in seconds."""
        return (self.starts + self.ends) / 2

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a plain dict for each window: start, end, label, score, probabilities."""
        for start, end, row in zip(self.starts, self.ends, self.probabilities, strict=True):
            best = int(row.argmax())
            yield {
                "start": float(start),
                "end": float(end),
                "label": self.labels[best],
                "score": float(row[best]),
                "probabilities": dict(zip(self.labels, row.tolist(), strict=True)),
            }

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain JSON types."""
        return {
            "path": self.path,
            "window": self.window,
            "hop": self.hop,
            "labels": list(self.labels),
            "windows": list(self.rows()),
        }


def timeline(
    classifier: GEmoCLAPClassifier,
    path: str | os.PathLike,
    window: float = 2.0,
    hop: float = 0.5,
    labels: Sequence[str] | Mapping[str, str] | None = None,
    templates: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> Timeline:
    """Classify every window of a recording.

    Windows begin every ``hop`` seconds. Where audio is left over after the last whole
    window, one shorter window follows if it holds at least half a window; it ends with
    the recording. A recording shorter than one window is one window. Silence gets a
    class like anything else, which says nothing.

    Parameters
    ----------
    classifier : GEmoCLAPClassifier
        The model.
    path : str or os.PathLike
        A local file of any rate, length and number of channels.
    window : float
        Length of a window in seconds. Training saw whole utterances, mostly of 2 s and
        more: expect less of shorter windows.
    hop : float
        From one window's beginning to the next, in seconds. More than ``window`` leaves
        gaps.
    labels, templates
        See `GEmoCLAPClassifier.classify_batch`.
    progress : bool
        Show a bar on standard error, where that is a terminal.

    Returns
    -------
    Timeline

    Raises
    ------
    ValueError
        If ``window`` or ``hop`` is not positive, or labels or templates cannot serve.
    AudioError
        If the file cannot be read, to its end.
    """
    for name, seconds in (("window", window), ("hop", hop)):
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name}: expected a positive number of seconds, found {seconds!r}.")
    rate = classifier.sample_rate
    length, step = max(1, round(window * rate)), max(1, round(hop * rate))
    names = classifier.labels if labels is None else [str(label) for label in labels]
    on_cpu = torch.device(classifier.device).type == "cpu"
    most_seconds = CPU_BATCH_SECONDS if on_cpu else GPU_BATCH_SECONDS
    batch_size = max(1, int(most_seconds * rate) // length)

    # None, and not False: tqdm then leaves out the bar where nobody would see it.
    bar = tqdm(
        total=round(audio_info(path).duration),
        unit="s",
        desc=Path(path).name,
        disable=None if progress else True,
    )
    starts, ends, rows = [], [], []
    with bar:
        blocks = _counted(audio_blocks(path, rate), bar, rate)
        for batch in _batched(_windows(blocks, length, step), batch_size):
            sizes = torch.tensor([len(samples) for _, samples in batch])
            wavs = pad_sequence([samples for _, samples in batch], batch_first=True)
            log_posteriors = classifier.classify_batch(
                wavs, sizes / wavs.shape[1], labels, templates
            )[0]
            starts += [start / rate for start, _ in batch]
            ends += [(start + len(samples)) / rate for start, samples in batch]
            rows.append(log_posteriors.exp().cpu().numpy())
    return Timeline(
        str(path), names, np.array(starts), np.array(ends), np.concatenate(rows), window, hop
    )


def draw_timeline(timeline: Timeline, path: str | os.PathLike) -> Path:
    """Draw each class's probability over time, dark where it is the most probable.

    A row for each class, so that any number of classes can be told apart without
    colours. At every moment the window counts whose centre is closest.

    Parameters
    ----------
    timeline : Timeline
        What to draw.
    path : str or os.PathLike
        The PNG to write; it is written whole or not at all.

    Returns
    -------
    Path
        ``path``.

    Examples
    --------
    >>> found = Timeline(
    ...     "a.wav", ["ang", "sad"], np.array([0.0]), np.array([2.0]),
    ...     np.array([[0.75, 0.25]], np.float32), 2.0, 0.5,
    ... )
    >>> draw_timeline(found, getfixture("tmp_path") / "a.png").name
    'a.png'
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    from gemoclap_sb.evaluation.figures import INK, PALE

    count = len(timeline.labels)
    figure = Figure(figsize=(11, 1.5 + 0.62 * count), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(h_pad=0.03, hspace=0.0)
    panels = np.atleast_1d(figure.subplots(count, 1, sharex=True, sharey=True))
    edges, kept = _edges(timeline)
    best = timeline.probabilities.argmax(axis=1)
    for i, (axes, label) in enumerate(zip(panels, timeline.labels, strict=True)):
        values = timeline.probabilities[:, i]
        for colour, shown in ((_WEAK, values), (_STRONG, np.where(best == i, values, 0.0))):
            heights = np.zeros(len(edges) - 1)
            heights[kept] = shown
            axes.stairs(heights, edges, fill=True, color=colour)
        axes.set_ylabel(
            label, rotation=0, ha="right", va="center", color=INK, fontsize=11, parse_math=False
        )
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["", "½", "1"], fontsize=7)
        axes.grid(axis="y", color="#e6eaee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(PALE)
        axes.tick_params(colors=PALE, length=0)
    seconds = edges[-1]
    panels[-1].set_xlim(0, seconds)
    tick = next((t for t in _TICK_SECONDS if seconds / t <= _MOST_TICKS), seconds / _MOST_TICKS)
    panels[-1].xaxis.set_major_locator(MultipleLocator(tick))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda at, _: _clock(at, seconds)))
    panels[-1].tick_params(axis="x", length=3, labelcolor=INK)
    unit = "seconds" if seconds < 60 else "minutes" if seconds < 3600 else "hours"
    panels[-1].set_xlabel(
        f"{unit} (windows of {timeline.window:g} s every {timeline.hop:g} s)", color=PALE
    )
    figure.suptitle(
        _shortened(Path(timeline.path).name),
        x=0.01,
        ha="left",
        color=INK,
        fontsize=13,
        fontweight="bold",
        parse_math=False,
    )
    figure.legend(
        handles=[Patch(color=_STRONG), Patch(color=_WEAK)],
        labels=["probability, most probable class", "probability, other classes"],
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


def _windows(blocks: Iterable[Tensor], length: int, step: int) -> Iterator[tuple[int, Tensor]]:
    """Cut a signal that comes in blocks into windows: first sample ``[int]`` and samples."""
    held, first = torch.empty(0), 0  # first: where held begins in the signal
    start = 0
    for block in blocks:
        held = torch.cat([held, block])
        while start + length <= first + len(held):
            # A copy: a slice would keep its whole block in memory.
            yield start, held[start - first : start - first + length].clone()
            start += step
        gone = min(start - first, len(held))
        held, first = held[gone:], first + gone
    total = first + len(held)
    covered = 0 if start == 0 else start - step + length
    left = total - start
    if total > covered and (start == 0 or 2 * left >= length):
        yield start, held[start - first :].clone()


def _batched(
    windows: Iterable[tuple[int, Tensor]], size: int
) -> Iterator[list[tuple[int, Tensor]]]:
    batch = []
    for window in windows:
        batch.append(window)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _counted(blocks: Iterable[Tensor], bar: tqdm, rate: int) -> Iterator[Tensor]:
    done = 0
    for block in blocks:
        yield block
        before, done = done, done + len(block)
        bar.update(done // rate - before // rate)


def _edges(timeline: Timeline) -> tuple[np.ndarray, slice]:
    """Borders of the steps to draw, and which of the steps are windows."""
    if timeline.hop > timeline.window:
        # Between windows there is nothing to show.
        return np.stack([timeline.starts, timeline.ends], axis=1).ravel(), slice(None, None, 2)
    times = timeline.times
    between = (times[1:] + times[:-1]) / 2
    return np.concatenate([timeline.starts[:1], between, timeline.ends[-1:]]), slice(None)


def _shortened(title: str) -> str:
    """Leave room for the legend beside the title."""
    half = _MOST_TITLE_LETTERS // 2
    return title if len(title) <= 2 * half + 1 else f"{title[:half]}…{title[-half:]}"


def _clock(seconds: float, longest: float) -> str:
    if longest < 60:
        return f"{seconds:g}"
    minutes, rest = divmod(round(seconds), 60)
    if longest < 3600:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
