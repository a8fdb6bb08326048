"""A map in two dimensions of what lies near what in the space of audio and text.

Directions in it mean nothing, and distances between far groups little: what the method keeps is
who one's neighbours are. Source: van der Maaten and Hinton, "Visualizing Data using t-SNE",
JMLR 9, 2008.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemoclap_sb.evaluation.figures import INK, PALE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERPLEXITY = 30.0
# Below, t-SNE has no neighbourhoods to speak of.
_FEWEST = 5
_COMPONENTS = 50
# Far apart in lightness, so that they differ in grey print too. The first six are filled and
# the rest hollow, since nobody tells twelve greys apart.
_COLOURS = ("#14213d", "#9b2226", "#1b8a6b", "#e8743b", "#6fb1e8", "#eec643")
_MOST_AT_A_SIDE = 14
_MARKERS = {"F": "o", "M": "^", "": "s"}
_GENDERS = {"F": "woman", "M": "man", "": "gender not stated"}


def map_embeddings(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lay embeddings [N, D] out in two dimensions, [N, 2], by their cosines.

    Principal components first, at most 50, then t-SNE; fewer than five embeddings are their
    first two components.

    Examples
    --------
    >>> map_embeddings(np.eye(4)).shape
    (4, 2)
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, size = embeddings.shape
    small = count < _FEWEST
    components = min(2 if small else _COMPONENTS, count, size)
    reduced = PCA(components, svd_solver="full").fit_transform(np.asarray(embeddings, np.float64))
    if small:
        return np.pad(reduced, ((0, 0), (0, 2 - components)))
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def draw_embedding_map(
    audio: np.ndarray,
    emotions: Sequence[str],
    genders: Sequence[str],
    texts: np.ndarray,
    words: Mapping[str, str],
    path: str | Path,
    title: str = "Audio and text in one space",
) -> Path:
    """Draw utterances, coloured by emotion and shaped by gender, and the texts of the classes.

    Parameters
    ----------
    audio : numpy.ndarray
        Where the N utterances lie on the map, [N, 2].
    emotions, genders : Sequence[str]
        Their N labels, and ``F``, ``M`` or anything else.
    texts : numpy.ndarray
        Where the texts of the C classes lie, [C, 2].
    words : Mapping[str, str]
        The classes' words by label, in their order.
    path : str or Path
        The PNG file to write.
    title : str
        Of the picture.

    Examples
    --------
    >>> import tempfile
    >>> places, texts = np.eye(2), np.zeros((2, 2))
    >>> words = {"ang": "angry", "sad": "sad"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_embedding_map(
    ...         places, ["ang", "sad"], "FM", texts, words, Path(folder) / "map.png"
    ...     ).name
    'map.png'
    """
    from matplotlib.lines import Line2D

    emotions, genders = np.asarray(emotions), np.asarray(genders)
    known = np.where(np.isin(genders, ("F", "M")), genders, "")
    figure = new_figure(10.5, 7)
    axes = figure.add_subplot()
    star = {"marker": "*", "linestyle": "none", "markersize": 17}
    styles = {}
    # As far apart as so many classes can be.
    spread = np.linspace(0, len(_COLOURS) - 1, min(len(words), len(_COLOURS))).round().astype(int)
    for i, label in enumerate(words):
        colour = _COLOURS[spread[i % len(spread)]]
        filled = i < len(_COLOURS)
        styles[label] = {
            "markeredgecolor": "white" if filled else colour,
            "markerfacecolor": colour if filled else "white",
            "markeredgewidth": 0.4 if filled else 1.4,
        }
        for gender, marker in _MARKERS.items():
            chosen = (emotions == label) & (known == gender)
            axes.plot(*audio[chosen].T, marker, markersize=6.5, **styles[label])
    for place, style in zip(texts, styles.values(), strict=True):
        edge = INK if style["markerfacecolor"] != "white" else style["markeredgecolor"]
        look = {"markeredgecolor": edge, "markeredgewidth": 1.2}
        axes.plot(*place, zorder=4, **star, **{**style, **look})
    _name_texts(axes, texts, words, styles)
    used = [gender for gender in _MARKERS if (known == gender).any()]
    plain = {"linestyle": "none", "markerfacecolor": PALE, "markeredgecolor": "white"}
    handles = [Line2D([], [], marker=_MARKERS[g], markersize=8, **plain) for g in used]
    figure.legend(
        [*handles, Line2D([], [], markerfacecolor=PALE, markeredgecolor=INK, **star)],
        [*(_GENDERS[gender] for gender in used), "text of a class"],
        loc="outside lower center",
        ncols=len(used) + 1,
        frameon=False,
        labelcolor=INK,
    )
    axes.set_title(f"{title}   (n = {len(audio)})", color=INK, fontsize=13, fontweight="bold")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d5dbe1")
    return save_figure(figure, path)


def _name_texts(
    axes: Axes, texts: np.ndarray, words: Mapping[str, str], styles: Mapping[str, dict]
) -> None:
    """Name the classes at both sides of the map, each at its text's height or near it."""
    labels = list(words)
    low, high = axes.get_ylim()
    left = texts[:, 0] < np.mean(axes.get_xlim())
    if max(left.sum(), (~left).sum()) > _MOST_AT_A_SIDE:
        left = np.argsort(np.argsort(texts[:, 0], kind="stable")) < len(labels) // 2
    for chosen, edge, out in ((left.nonzero()[0], 0, -1), ((~left).nonzero()[0], 1, 1)):
        downwards = chosen[np.argsort(-texts[chosen, 1], kind="stable")]
        heights = spread_out((texts[downwards, 1] - low) / (high - low))
        for i, height in zip(downwards, heights, strict=True):
            at = (edge + 0.015 * out, height)
            line = {"arrowstyle": "-", "color": INK, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 7}
            where = {"textcoords": "axes fraction", "annotation_clip": False}
            axes.annotate("", texts[i], at, arrowprops=line, zorder=3, **where)
            swatch = {"marker": "o", "markersize": 9, "clip_on": False, "zorder": 4}
            axes.plot(*at, transform=axes.transAxes, **swatch, **styles[labels[i]])
            label, word = labels[i], words[labels[i]]
            axes.annotate(
                word if word == label else f"{label}: {word}",
                at,
                (9 * out, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="left" if out > 0 else "right",
                va="center",
                color=INK,
                fontsize=11,
                parse_math=False,
            )


def spread_out(heights: np.ndarray, apart: float = 0.07) -> np.ndarray:
    """Move descending heights [N] in [0, 1] as little as possible, until all are apart."""
    from sklearn.isotonic import isotonic_regression

    if not len(heights):
        return heights
    apart = min(apart, 1 / max(len(heights) - 1, 1))
    steps = apart * np.arange(len(heights))
    bounds = {"y_min": steps[-1], "y_max": 1.0}
    return isotonic_regression(heights + steps, increasing=False, **bounds) - steps
