"""What is changed between two runs is refused by name, or does not matter to the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from tests.faults.processes import YAML, assert_same, command

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def change_label(run: Path, corpus: Path) -> None:
    path = run / "manifests/train.csv"
    head, first, *rest = path.read_text().splitlines(keepends=True)
    changed = (
        first.replace(",ang,", ",sad,") if ",ang," in first else first.replace(",hap,", ",ang,")
    )
    assert changed != first
    path.write_text("".join([head, changed, *rest]))


def remove_row(run: Path, corpus: Path) -> None:
    path = run / "manifests/test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def shorten(run: Path, corpus: Path) -> None:
    """Another recording under the same name, a tenth of a second and more shorter."""
    wav, rate = soundfile.read(corpus / "u20.wav")
    soundfile.write(corpus / "u20.wav", wav[: -rate // 8], rate)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_label, "train (the cells of its rows, or their order, are others)"),
        (remove_row, "test (had 16 rows, now 15)"),
        (shorten, "train (the cells of its rows, or their order, are others)"),
    ],
)
def test_other_data(
    change: Callable, said: str, zygote, tones_corpus, begun, undisturbed, tmp_path
):
    """Refused before a step is trained; with the data as they were, the run goes on."""
    before = shutil.copytree(begun / "manifests", tmp_path / "before")
    corpus = tones_corpus
    if change is shorten:
        corpus = shutil.copytree(tones_corpus, tmp_path / "corpus")
    change(begun, corpus)
    ended = zygote.run(command(corpus, begun))
    assert ended.status == 2, ended.printed
    assert f"holds a run begun on other data: {said}" in ended.error()
    assert "Give the data as they were, or another --output_folder" in ended.error()
    shutil.copytree(before, begun / "manifests", dirs_exist_ok=True)
    assert zygote.run(command(tones_corpus, begun)).status == 0
    assert_same(begun, undisturbed)


def test_other_rate(zygote, tones_corpus, begun, undisturbed, tmp_path):
    text = YAML.read_text()
    (tmp_path / "tiny.yaml").write_text(text.replace("lr: 2.0e-2", "lr: 2.0e-3"))
    ended = zygote.run(command(tones_corpus, begun, yaml=tmp_path / "tiny.yaml"))
    assert ended.status == 2
    assert "lr (was 0.02, now 0.002)" in ended.error()
    assert zygote.run(command(tones_corpus, begun)).status == 0
    assert_same(begun, undisturbed)


def test_other_places(zygote, tones_corpus, begun, undisturbed, tmp_path):
    """Of the run, the corpus and the YAML, whose place alone is in the result."""
    corpus = shutil.copytree(tones_corpus, tmp_path / "elsewhere")
    yaml = str(shutil.copy(YAML, tmp_path / "other.yaml"))
    moved = begun.rename(tmp_path / "moved")
    ended = zygote.run(command(corpus, moved, yaml=yaml))
    assert ended.status == 0, ended.printed
    metrics = (moved / "metrics.json").read_text().replace(yaml, str(YAML))
    (moved / "metrics.json").write_text(metrics)
    assert_same(moved, undisturbed)
