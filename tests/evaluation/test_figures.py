"""Pictures against what is inside the PNG."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

import gemoclap_sb.evaluation.figures
from gemoclap_sb.evaluation.figures import (
    draw_confusion,
    draw_cross_validation,
    draw_training_curves,
)
from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.evaluation.report import cross_validation_summary
from tests.evaluation.drawn import LONG_WORDS, Drawings

LABELS = ["ang", "sad"]


def pixels(path):
    return matplotlib.image.imread(path)[..., :3]


def test_confusion_picture_shows_the_matrix(tmp_path):
    right = classification_metrics([0] * 5 + [1] * 5, [0] * 5 + [1] * 5, LABELS)
    wrong = classification_metrics([0] * 5 + [1] * 5, [1] * 5 + [0] * 5, LABELS)
    assert draw_confusion(right, tmp_path / "right.png") == tmp_path / "right.png"
    draw_confusion(wrong, tmp_path / "wrong.png")
    # Dark cells lie on the diagonal for the one and beside it for the other.
    dark = {}
    for name in ("right", "wrong"):
        ink = pixels(tmp_path / f"{name}.png").mean(axis=2) < 0.4
        columns = np.flatnonzero(ink.mean(axis=0) > 0.2)
        rows = np.flatnonzero(ink.mean(axis=1) > 0.2)
        cell = ink[rows[0] : rows[-1], columns[0] : columns[-1]]
        half = cell.shape[1] // 2
        dark[name] = [cell[: len(cell) // 2, :half].mean(), cell[: len(cell) // 2, half:].mean()]
    assert dark["right"][0] > 0.6 > 0.2 > dark["right"][1]
    assert dark["wrong"][1] > 0.6 > 0.2 > dark["wrong"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["right.png", "wrong.png"]


def test_confusion_picture_of_an_absent_class_and_of_many_classes(tmp_path):
    labels = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    with pytest.warns(UserWarning, match="surprised"):
        metrics = classification_metrics(range(7), [7, *range(1, 7)], labels)
    draw_confusion(metrics, tmp_path / "many.png", title="Eight classes")
    height, width, _ = pixels(tmp_path / "many.png").shape
    assert min(height, width) > 150 * 0.85 * 8


def test_training_curves(tmp_path):
    history = [
        {"epoch": k, "train_loss": 1 / k, "valid_loss": 1.2 / k, "valid_war": 0.1 * k,
         "valid_uar": 0.09 * k}
        for k in range(1, 6)
    ]  # fmt: skip
    draw_training_curves(history, tmp_path / "curves.png")
    assert (pixels(tmp_path / "curves.png") < 0.99).any(axis=2).mean() > 0.01
    draw_training_curves(history[:1], tmp_path / "one.png")
    with pytest.raises(ValueError, match="at least one epoch"):
        draw_training_curves([], tmp_path / "none.png")
    del history[2]["valid_uar"]
    with pytest.raises(ValueError, match="entry 3 of the history lacks valid_uar"):
        draw_training_curves(history, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_show_temperatures_where_they_were_kept(monkeypatch):
    drawings = Drawings(monkeypatch, gemoclap_sb.evaluation.figures)
    history = [
        {"epoch": k, "train_loss": 1 / k, "valid_loss": 1.2 / k, "valid_war": 0.4, "valid_uar": u}
        for k, u in enumerate((0.3, 0.5, 0.5), start=1)
    ]
    draw_training_curves(history, "curves.png")
    assert len(drawings.figure.axes) == 2
    assert not any("tested" in name for name in drawings.texts())
    # Not the best one: --select_by may have been another figure, or the last epoch.
    draw_training_curves(history, "curves.png", tested=1)
    assert any("tested: epoch 1, UAR 30.00 %" in name for name in drawings.texts())
    [ring] = drawings.figure.axes[1].collections
    np.testing.assert_allclose(ring.get_offsets(), [[1, 30]])
    for record in history[1:]:
        record |= {
            f"temperature_{head}_{tower}": 1.1 ** record["epoch"]
            for head in ("emotion", "gender")
            for tower in ("audio", "text")
        }
    draw_training_curves(history, "curves.png", tested=3)
    axes = drawings.figure.axes[2]
    assert len(axes.lines) == 4
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [np.nan, 1.21, 1.331])
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 4
    assert drawings.overlapping() == drawings.outside() == []


def test_nothing_overlaps_in_a_matrix_of_many_classes(monkeypatch):
    drawings = Drawings(monkeypatch, gemoclap_sb.evaluation.figures)
    for count in (2, 12):
        labels = list(LONG_WORDS)[:count]
        metrics = classification_metrics(range(count), range(count), labels)
        draw_confusion(metrics, "confusion.png", "an_experiment_of_ours, fold 1")
        assert drawings.overlapping() == drawings.outside() == []


def test_curves_of_a_run_without_a_score(tmp_path):
    history = [{"epoch": k, "train_loss": 1 / k, "valid_loss": 1.2 / k} for k in (1, 2)]
    draw_training_curves(history, tmp_path / "curves.png")
    height, width, _ = pixels(tmp_path / "curves.png").shape
    assert width < 1.5 * height


def test_cross_validation_picture(tmp_path):
    folds = [
        {"fold": k, "labels": LABELS, "confusion": [[k, 1], [0, 2]], "seconds": 1.0}
        for k in (1, 2, 3)
    ]
    draw_cross_validation(
        json.loads(json.dumps(cross_validation_summary(folds))), tmp_path / "cv.png", title="Demo"
    )
    image = pixels(tmp_path / "cv.png")
    # Both bar colours are there: WAR's blue and UAR's orange.
    for colour in ("2f6690", "e08e45"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(image - rgb).max(axis=2) < 0.02).sum() > 2000


def test_drawing_leaves_pyplot_alone(tmp_path):
    code = (
        "import sys\n"
        "from gemoclap_sb.evaluation.metrics import classification_metrics\n"
        "from gemoclap_sb.evaluation.figures import draw_confusion\n"
        "assert 'matplotlib' not in sys.modules, 'matplotlib must be imported lazily'\n"
        "metrics = classification_metrics([0, 1], [0, 1], ['a', 'b'])\n"
        f"draw_confusion(metrics, {str(tmp_path / 'c.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "c.png").stat().st_size > 5000
