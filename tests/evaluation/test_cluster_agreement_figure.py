"""Pictures of agreement: what they show, and that nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest

import gemoclap_sb.evaluation.cluster_agreement_figure as module
from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
from tests.evaluation.drawn import LONG_WORDS, Drawings


@pytest.fixture
def drawings(monkeypatch):
    return Drawings(monkeypatch, module)


def made(speakers: int, names: str = "speaker_{}", kinds: int = 5):
    """Speakers whose clusters follow the labels more and more."""
    generator = np.random.default_rng(2)
    index = np.repeat(np.arange(speakers), 30)
    labels = generator.integers(kinds, size=len(index))
    follows = generator.random(len(index)) < index / speakers
    clusters = np.where(follows, labels % 4, generator.integers(4, size=len(index)))
    words = np.array([*LONG_WORDS, "$math_", "another"], dtype=object)
    called = [names.format(i) for i in index]
    return cluster_agreement(called, clusters, words[labels], shuffles=50)


def points(axes, clear: bool) -> dict[float, float]:
    """Measured values by the height of their rows."""
    label = f"measured, p {'<' if clear else '≥'} 0.05"
    [line] = [line for line in axes.lines if line.get_label() == label]
    return dict(zip(line.get_ydata(), line.get_xdata(), strict=True))


@pytest.mark.parametrize("speakers", [1, 9, 24])
def test_few_speakers_have_a_row_each(drawings, speakers):
    found = made(speakers)
    module.draw_agreement(found, "agreement.png", "How far clusters follow $emotion_")
    order = np.argsort(-found.measures["nmi"].values, kind="stable")
    panels = drawings.figure.axes
    names = [text.get_text() for text in panels[0].get_yticklabels()]
    assert names == [f"mean of {speakers}", *(found.speakers[i] for i in order)]
    for axes, measure in zip(panels, found.measures.values(), strict=True):
        clear, unclear = points(axes, True), points(axes, False)
        drawn = [x for _, x in sorted((clear | unclear).items())]
        assert drawn == measure.values[order].tolist()
        assert len(clear) == (measure.p < 0.05).sum()
        bands = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
        ends = np.stack([measure.shuffled_low, measure.shuffled_high], axis=1)[order]
        mean = (measure.mean_shuffled_low, measure.mean_shuffled_high)
        np.testing.assert_allclose(bands, [mean, *ends])
        low, high = axes.get_xlim()
        assert low < np.min(bands) and measure.values.max() < high
    assert drawings.overlapping() == drawings.outside() == []


@pytest.mark.parametrize("speakers", [41, 230])
def test_many_speakers_stand_in_the_order_of_each_measure(drawings, speakers):
    found = made(speakers)
    module.draw_agreement(found, "agreement.png", "How far clusters follow emotion")
    panels = drawings.figure.axes[::2]
    for axes, measure in zip(panels, found.measures.values(), strict=True):
        [line] = [line for line in axes.lines if line.get_label() == "measured"]
        assert line.get_ydata().tolist() == sorted(measure.values, reverse=True)
        [band] = axes.patches
        values, edges, baseline = band.get_data()
        order = np.argsort(-measure.values, kind="stable")
        assert (edges[0], edges[-1]) == (0.5, speakers + 0.5)
        assert len(values) == min(speakers, 100)
        if speakers <= 100:
            assert values.tolist() == measure.shuffled_high[order].tolist()
            assert baseline.tolist() == measure.shuffled_low[order].tolist()
        else:
            first = order[:3]
            assert values[0] == pytest.approx(measure.shuffled_high[first].mean())
        told = f"p < 0.05 for {(measure.p < 0.05).sum()} of {speakers} speakers"
        assert axes.get_title().endswith(told)
    assert drawings.overlapping() == drawings.outside() == []


def stacks(axes) -> dict[float, list[tuple[str, float, float]]]:
    """Colours, widths and heights of the bars by their left ends."""
    from matplotlib.colors import to_hex

    found: dict = {}
    for bar in axes.patches:
        if bar.get_height():
            part = (to_hex(bar.get_facecolor()), bar.get_width(), bar.get_height())
            found.setdefault(bar.get_x(), []).append(part)
    return dict(sorted(found.items()))


def test_clusters_divide_as_counted(drawings):
    clusters = [0] * 6 + [1] * 2
    labels = ["sad"] * 3 + ["ang"] * 3 + ["sad"] * 2
    found = cluster_agreement(["ann"] * 8, clusters, labels, shuffles=9)
    module.draw_clusters(found, "clusters.png", "What clusters hold")
    [axes] = drawings.figure.axes
    [legend] = drawings.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ang", "sad"]
    ang, sad = (patch.get_facecolor() for patch in legend.get_patches())
    from matplotlib.colors import to_hex

    ang, sad = to_hex(ang), to_hex(sad)
    whole, first, second = stacks(axes).values()
    assert [(colour, height) for colour, _, height in whole] == [(ang, 3 / 8), (sad, 5 / 8)]
    assert first == [(ang, 0.75, 0.5), (sad, 0.75, 0.5)]
    assert second == [(sad, 0.25, 1.0)]


@pytest.mark.parametrize("speakers", [1, 9, 60])
def test_clusters_of_up_to_24_speakers_by_nmi(drawings, speakers):
    found = made(speakers, "a_speaker_of_a_rather_long_name_{}", kinds=7)
    module.draw_clusters(found, "clusters.png", "What clusters hold: $emotion_")
    titles = [axes.get_title() for axes in drawings.figure.axes if axes.get_title()]
    assert len(titles) == min(speakers, 24)
    values = [float(title.split()[-1]) for title in titles]
    assert values == sorted(values, reverse=True)
    nmi = found.measures["nmi"].values
    assert (values[0], values[-1]) == pytest.approx((nmi.max(), nmi.min()), abs=0.005)
    [legend] = drawings.figure.legends
    told = "24 of 60 speakers, by NMI" in legend.get_title().get_text()
    assert told == (speakers == 60)
    assert drawings.overlapping() == drawings.outside() == []


def test_the_rarest_of_many_labels_share_a_colour(drawings):
    found = made(12, kinds=14)
    module.draw_clusters(found, "clusters.png", "What clusters hold")
    [legend] = drawings.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 10 and labels[-1] == "others"
    for axes in drawings.figure.axes:
        for parts in stacks(axes).values() if axes.get_title() else ():
            assert sum(height for _, _, height in parts) == pytest.approx(1)
    assert drawings.overlapping() == drawings.outside() == []
