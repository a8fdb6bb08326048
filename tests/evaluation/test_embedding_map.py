"""The map: neighbours stay neighbours, and every name has its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gemoclap_sb.evaluation.embedding_map as module
from gemoclap_sb.evaluation.embedding_map import draw_embedding_map, map_embeddings, spread_out
from tests.evaluation.drawn import LONG_WORDS, Drawings


@pytest.fixture
def drawings(monkeypatch):
    return Drawings(monkeypatch, module)


def test_neighbours_stay_neighbours():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 64))
    of = np.repeat(np.arange(4), 20)
    embeddings = centres[of] + 0.3 * generator.normal(size=(80, 64))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    places = map_embeddings(embeddings)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (of[distances.argmin(axis=1)] == of).mean() > 0.95
    np.testing.assert_array_equal(map_embeddings(embeddings), places)


@pytest.mark.parametrize(("count", "size"), [(3, 8), (3, 1), (4, 8), (5, 2), (12, 3)])
def test_few_and_small_embeddings(count, size):
    places = map_embeddings(np.random.default_rng(0).normal(size=(count, size)))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


@given(st.lists(st.floats(0, 1), max_size=30))
def test_names_are_apart_and_inside(heights):
    heights = np.array(sorted(heights, reverse=True))
    moved = spread_out(heights)
    apart = min(0.07, 1 / max(len(heights) - 1, 1))
    assert (moved[:-1] - moved[1:] >= apart - 1e-9).all()
    assert (moved >= -1e-9).all() and (moved <= 1 + 1e-9).all()
    if (heights[:-1] - heights[1:] >= apart).all():
        np.testing.assert_allclose(moved, heights, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("together", [False, True])
def test_all_is_drawn_and_no_name_on_another(drawings, classes, together):
    words = dict(list(LONG_WORDS.items())[:classes])
    generator = np.random.default_rng(1)
    audio = generator.normal(size=(60, 2))
    # The texts of a small encoder can be almost one point.
    texts = np.zeros((classes, 2)) if together else generator.normal(size=(classes, 2))
    emotions = [list(words)[i % classes] for i in range(60)]
    genders = ["F", "M", "unknown"] * 20
    draw_embedding_map(audio, emotions, genders, texts, words, "map.png")
    axes = drawings.figure.axes[0]
    inside = [line for line in axes.lines if line.get_transform() == axes.transData]
    drawn = {marker: 0 for marker in "o^s*"}
    colours = {}
    for line in inside:
        drawn[line.get_marker()] += len(line.get_xdata())
        look = (line.get_markerfacecolor(), line.get_markeredgecolor())
        if line.get_marker() != "*" and len(line.get_xdata()):
            for place in line.get_xydata():
                [i] = np.flatnonzero((audio == place).all(axis=1))
                colours.setdefault(emotions[i], set()).add(look)
    assert drawn == {"o": 20, "^": 20, "s": 20, "*": classes}
    looks = [look for of in colours.values() for look in of]
    assert len(looks) == len(set(looks)) == classes
    names = {name.rpartition(" #")[0] for name in drawings.texts()}
    assert names >= {*words, "woman", "man", "gender not stated", "text of a class"}
    assert drawings.overlapping() == drawings.outside() == []
