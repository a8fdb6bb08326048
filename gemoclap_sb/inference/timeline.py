"""Emotion over time: a classifier's answers along a recording of any length.

    found = classifier.timeline("meeting.wav", window=2.0, hop=0.5)
    draw_timeline(found, "meeting.png")

A window slides over the recording, which is read a batch of windows at a time, so that
memory does not grow with its length. Each window is classified as a recording of its own
would be.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from gemoclap_sb.data.audio import AudioError, AudioReader
from gemoclap_sb.data.opening import shown
from gemoclap_sb.inference.failures import is_out_of_memory, not_finite

# In seconds. A window is in memory as a whole; a hop of one sample is millions of windows.
SHORTEST_WINDOW, LONGEST_WINDOW, SHORTEST_HOP = 0.1, 600.0, 0.01

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


def classify_windows(
    classify: Callable[[Tensor, Tensor], Tensor],
    labels: list[str],
    path: str | os.PathLike,
    window: float,
    hop: float,
    sample_rate: int,
    batch_seconds: float,
    progress: bool = True,
) -> Timeline:
    """Classify every window of a recording; see `GEmoCLAPClassifier.timeline`.

    ``classify`` takes ``[B, T]`` and ``[B]`` as ``classify_batch`` does and gives log posteriors
    ``[B, C]`` of the labels. ``batch_seconds`` bounds the length of a batch.
    """
    check_seconds(window, hop)
    length, step = max(1, round(window * sample_rate)), max(1, round(hop * sample_rate))
    batch_size = max(1, int(batch_seconds * sample_rate) // length)
    heard, rows = [], []
    with AudioReader(path, sample_rate) as audio:
        count = num_windows(audio.num_samples, length, step)
        # None, and not False: tqdm then leaves out the bar where nobody would see it.
        hidden = None if progress else True
        for i in tqdm(range(0, count, batch_size), desc=Path(path).name, disable=hidden):
            last = min(i + batch_size, count)
            batch = window_edges(audio.num_samples, length, step, i, last)
            try:
                rows.append(_posteriors(classify, audio, batch))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise AudioError(
                    f"Audio file {shown(path)}: {len(batch)} windows of {window:g} s do not fit "
                    "into memory. Ask for shorter ones (window, --window)."
                ) from error
            if not np.isfinite(rows[-1]).all():
                raise AudioError(not_finite(path))
            heard.append(batch)
    starts, ends = np.concatenate(heard).T / sample_rate
    return Timeline(str(path), labels, starts, ends, np.concatenate(rows), window, hop)


def check_seconds(window: float, hop: float) -> None:
    """Raise ValueError, with what is expected and why, for a window or a hop out of its range."""
    limits = (
        ("window", window, SHORTEST_WINDOW, LONGEST_WINDOW, "less is no syllable, more no moment"),
        ("hop", hop, SHORTEST_HOP, math.inf, "a model's own frames are no closer"),
    )
    for name, seconds, least, most, why in limits:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        # Written this way round so that NaN is refused too.
        if not (is_number and least <= seconds <= most and seconds < math.inf):
            expected = f"{least:g} s or more" if most == math.inf else f"{least:g} to {most:g} s"
            raise ValueError(f"{name}: expected {expected} ({why}), found {seconds!r}.")


def num_windows(num_samples: int, length: int, step: int) -> int:
    """Count the windows of `window_edges`."""
    whole = max(0, (num_samples - length) // step + 1)
    covered = (whole - 1) * step + length if whole else 0
    is_left = num_samples > covered and (not whole or 2 * (num_samples - whole * step) >= length)
    return whole + is_left


def window_edges(
    num_samples: int, length: int, step: int, first: int = 0, last: int | None = None
) -> list[tuple[int, int]]:
    """List starts and stops of the windows that cover a signal, in samples.

    Where samples are left over after the last whole window, one shorter window follows if it
    holds at least half of one. A signal shorter than a window is one window. Of them all,
    those from ``first`` to before ``last``.

    Examples
    --------
    >>> window_edges(27, length=20, step=5)
    [(0, 20), (5, 25), (10, 27)]
    """
    last = num_windows(num_samples, length, step) if last is None else last
    starts = range(first * step, last * step, step)
    return [(start, min(start + length, num_samples)) for start in starts]


def _posteriors(
    classify: Callable[[Tensor, Tensor], Tensor], audio: AudioReader, windows: list[tuple[int, int]]
) -> np.ndarray:
    """Read and classify some windows: ``[N, C]``."""
    if len(windows) > 1 and windows[1][0] > windows[0][1]:
        parts = [audio.read(*edges) for edges in windows]
    else:
        first = windows[0][0]
        samples = audio.read(first, windows[-1][1])
        parts = [samples[start - first : stop - first] for start, stop in windows]
    sizes = torch.tensor([len(part) for part in parts])
    wavs = pad_sequence(parts, batch_first=True)
    return classify(wavs, sizes / wavs.shape[1]).exp().cpu().numpy()


def draw_timeline(timeline: Timeline, path: str | os.PathLike) -> Path:
    """Draw each class's probability over time, dark where it is the most probable.

    A row for each class, so that any number of classes can be told apart without colours.
    At every moment the window counts whose centre is closest. Returns the path of the PNG.

    Examples
    --------
    >>> found = Timeline(
    ...     "a.wav", ["ang", "sad"], np.array([0.0]), np.array([2.0]),
    ...     np.array([[0.75, 0.25]], np.float32), 2.0, 0.5,
    ... )
    >>> draw_timeline(found, getfixture("tmp_path") / "a.png").name
    'a.png'
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    # Here, since what draws takes as long to import as a short file to classify.
    from gemoclap_sb.evaluation.figures import INK, PALE, new_figure, save_figure

    count = len(timeline.labels)
    figure = new_figure(11, 1.5 + 0.62 * count)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.03, hspace=0.0)
    panels = np.atleast_1d(figure.subplots(count, 1, sharex=True, sharey=True))
    edges, kept = _edges(timeline)
    best = timeline.probabilities.argmax(axis=1)
    for i, (axes, label) in enumerate(zip(panels, timeline.labels, strict=True)):
        values = timeline.probabilities[:, i]
        for colour, drawn in ((_WEAK, values), (_STRONG, np.where(best == i, values, 0.0))):
            heights = np.zeros(len(edges) - 1)
            heights[kept] = drawn
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
    bottom = panels[-1]
    bottom.set_xlim(0, seconds)
    tick = next((t for t in _TICK_SECONDS if seconds / t <= _MOST_TICKS), seconds / _MOST_TICKS)
    bottom.xaxis.set_major_locator(MultipleLocator(tick))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda at, _: _clock(at, seconds)))
    bottom.tick_params(axis="x", length=3, labelcolor=INK)
    unit = "seconds" if seconds < 60 else "minutes" if seconds < 3600 else "hours"
    note = f"{unit} (windows of {timeline.window:g} s every {timeline.hop:g} s)"
    bottom.set_xlabel(note, color=PALE)
    heading = {"color": INK, "fontsize": 13, "fontweight": "bold", "parse_math": False}
    figure.suptitle(_shortened(Path(timeline.path).name), x=0.01, ha="left", **heading)
    figure.legend(
        handles=[Patch(color=_STRONG), Patch(color=_WEAK)],
        labels=["probability, most probable class", "probability, other classes"],
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    return save_figure(figure, path)


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
