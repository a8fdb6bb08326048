"""What stands in a picture, and whether any of it stands on anything else."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LONG_WORDS = {
    word: word
    for word in (
        "neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised",
        "contemptuous", "embarrassed", "overwhelmed", "enthusiastic",
    )
}  # fmt: skip


class Drawings:
    """Takes the place of `save_figure` in a module, and keeps the last figure."""

    def __init__(self, monkeypatch, module) -> None:
        self.figure: Figure | None = None
        monkeypatch.setattr(module, "save_figure", self.keep)

    def keep(self, figure: Figure, path: str | Path) -> Path:
        self.figure = figure
        FigureCanvasAgg(figure).draw()
        return Path(path)

    def texts(self) -> dict:
        """Boxes of all visible texts, in pixels, by text and number."""
        from matplotlib.text import Text

        found = self.figure.findobj(lambda artist: isinstance(artist, Text))
        # Ticks beyond the axes' limits are there, but not drawn.
        hidden = {
            tick.label1
            for axes in self.figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        shown = [
            text
            for text in found
            if text.get_visible() and text.get_text().strip() and text not in hidden
        ]
        return {
            f"{text.get_text()} #{i}": text.get_window_extent()
            for i, text in enumerate(shown)
            # Rotated text has a box of much emptiness.
            if text.get_rotation() in (0, 90)
        }

    def overlapping(self) -> list[tuple[str, str]]:
        pairs = itertools.combinations(self.texts().items(), 2)
        return [(a, b) for (a, box), (b, other) in pairs if _overlap(box, other)]

    def outside(self) -> list[str]:
        width, height = self.figure.canvas.get_width_height()
        return [
            name
            for name, box in self.texts().items()
            if min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height
        ]


def _overlap(one, other) -> bool:
    # Boxes may share a pixel's edge.
    inner = np.minimum([one.x1, one.y1], [other.x1, other.y1]) - np.maximum(
        [one.x0, one.y0], [other.x0, other.y0]
    )
    return bool((inner > 1).all())
