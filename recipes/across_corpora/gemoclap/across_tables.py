"""What carries over from one corpus to the other, as Markdown, CSV and one picture.

A cell is a pair of corpora: which one a model was trained on and which one it was tested on.
Its answers are restricted to classes that are compared: to those of the tested corpus, or to
those that both corpora have; so one training gives both figures.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev

import numpy as np
from across_prepare import CLASSES, EMOTIONS, NEMO, RAVDESS, SHARED

from gemoclap_sb.evaluation.figures import INK, PALE, new_figure, save_figure, tidy
from gemoclap_sb.evaluation.predictions import (
    PREDICTIONS,
    Predictions,
    pooled_predictions,
    restricted_predictions,
)
from gemoclap_sb.evaluation.report import VALIDATION_NOTES, markdown_table
from gemoclap_sb.evaluation.uncertainty import confidence_intervals
from gemoclap_sb.files import read_json
from gemoclap_sb.training.run_folder import METRICS, is_finished, recorded_manifest

EMPTY = "–"
STYLES = {RAVDESS: ("o", "#5a94bd"), NEMO: ("s", "#e08e45"), "both": ("D", "#184e77")}
_LOSSY = {".ogg", ".opus", ".oga", ".mp3"}


@dataclass(frozen=True)
class Answers:
    """What the models of one seed answered to all utterances of a corpus that were tested.

    ``speakers`` are by ID, ``trained`` the classes that training had, ``notes`` what a table
    must say.
    """

    predictions: Predictions
    speakers: Mapping[str, str]
    trained: frozenset[str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A corpus tested by models of another, of itself, or of both: by seed, None if missing."""

    trained: str
    tested: str
    answers: Mapping[int, Answers | None]

    @property
    def finished(self) -> list[Answers]:
        """What is there."""
        return [found for found in self.answers.values() if found is not None]

    @property
    def is_whole(self) -> bool:
        """Whether no seed is missing."""
        return len(self.finished) == len(self.answers)


@dataclass(frozen=True)
class Figure:
    """A figure over the seeds of a cell, as fractions, and what guessing would have.

    ``interval`` is over speakers: 95 %, of all seeds' answers together. ``answered`` is, of a
    recall, how often the class was answered where another one was true.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None
    chance: float
    answered: float | None = None

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {_percent(self.std)}"
        ends = f" ({_percent(self.interval[0])} to {_percent(self.interval[1])})"
        return f"{_percent(self.mean)}{spread}{ends if self.interval else ''}"


def read_run(folder: Path | None, folds: Sequence[int], corpus: str) -> Answers | None:
    """Read the answers to a corpus that folds of a run gave; None where one is not finished.

    ValueError or ExperimentError if a file of a finished fold is missing or damaged.
    """
    folders = [folder / f"fold_{fold}" for fold in folds] if folder else []
    if not folders or not all(map(is_finished, folders)):
        return None
    parts, speakers, trained, notes = [], {}, set(), {}
    for fold in folders:
        rows = recorded_manifest(fold)
        predictions = Predictions.read(fold / PREDICTIONS)
        if unknown := set(predictions.ids) - rows.keys():
            raise ValueError(
                f"{fold / PREDICTIONS} has {min(unknown)}, which the run's test manifest lacks: "
                f"delete {fold} to run the fold again."
            )
        # A run of a corpus alone has no such column.
        own = [rows[name].get("corpus", corpus) == corpus for name in predictions.ids]
        parts.append(_selected(predictions, np.asarray(own)))
        speakers |= {name: rows[name]["spk_id"] for name in parts[-1].ids}
        trained |= {row["emotion"] for row in recorded_manifest(fold, "train").values()}
        metrics = read_json(fold / METRICS)
        chosen = VALIDATION_NOTES.get(metrics.get("validation"))
        notes |= dict.fromkeys(filter(None, [chosen, *metrics["notes"]]))
        if any(map(is_lossy, rows.values())):
            notes["Some recordings are lossy copies (Ogg or MP3) of the published ones."] = None
    return Answers(pooled_predictions(parts), speakers, frozenset(trained), tuple(notes))


@dataclass(frozen=True)
class Tables:
    """All cells, row by row; ``classes`` are those of runs that are still to come."""

    cells: Sequence[Cell]
    classes: Sequence[str]

    @cached_property
    def labels(self) -> list[str]:
        """The classes of the runs, in their order."""
        found = [answers for cell in self.cells for answers in cell.finished]
        asked = {name for answers in found for name in answers.predictions.labels}
        for cell in self.cells:
            for answers in cell.finished:
                needed = asked.intersection(EMOTIONS[cell.tested])
                if lacking := sorted(needed.difference(answers.predictions.labels)):
                    raise ValueError(
                        f"models trained on {cell.trained} and tested on {cell.tested} do not "
                        f"have the class {lacking[0]}, others do: give all runs the same "
                        "--classes and --merge_calm."
                    )
        return [name for name in CLASSES if name in (asked if found else self.classes)]

    @cached_property
    def columns(self) -> list[tuple[str, str, list[str]]]:
        """What is tested: a corpus, what its classes are called, and which they are."""
        columns = []
        shared = [name for name in self.labels if name in SHARED]
        for corpus in (RAVDESS, NEMO):
            own = [name for name in self.labels if name in EMOTIONS[corpus]]
            columns.append((corpus, f"all {len(own)}", own))
            if own != shared:
                columns.append((corpus, f"the {len(shared)} shared", shared))
        return columns

    def cell(self, trained: str, tested: str) -> Cell:
        """Give the cell of a pair."""
        [found] = [c for c in self.cells if (c.trained, c.tested) == (trained, tested)]
        return found

    def markdown(self, picture: str) -> str:
        """Write the tables to read; ``picture`` is a path relative to them."""
        columns, lines = self.columns, ["# Across corpora: RAVDESS (English) and nEMO (Polish)"]
        heading = ["trained on", *(f"{corpus}, {name}" for corpus, name, _ in columns)]
        for measure, meaning in (
            ("uar", "mean of the per-class recalls"),
            ("war", "accuracy"),
        ):
            rows = []
            for trained in STYLES:
                cells = [(self.cell(trained, corpus), labels) for corpus, _, labels in columns]
                rows.append([trained, *(self._shown(cell, measure, of) for cell, of in cells)])
            chances = [f"{100 / len(labels):.1f}" for _, _, labels in columns]
            rows.append(["*chance*", *chances] if measure == "uar" else [])
            lines += ["", f"## {measure.upper()} ({meaning}), by tested corpus and its classes", ""]
            lines += markdown_table(heading, filter(None, rows))
        lines += ["", self._caption()]
        lines += ["", "## What carries over", "", *(f"- {said}" for said in self._sentences())]
        lines += ["", "## Recall of each class", "", *self._recalls()]
        lines += ["", f"![UAR and WAR across corpora]({picture})"]
        notes = dict.fromkeys(
            note for cell in self.cells for answers in cell.finished for note in answers.notes
        )
        if notes:
            lines += ["", "## Notes of the runs", "", *(f"- {note}" for note in notes)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Write a row for each figure, those of missing cells empty; in percent."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["trained_on", "tested_on", "classes", "measure", "mean_percent", "std_percent",
             "low_percent", "high_percent", "chance_percent", "answered_percent", "in_training",
             "seeds_finished", "seeds"]
        )  # fmt: skip
        for trained in STYLES:
            for corpus, name, labels in self.columns:
                cell = self.cell(trained, corpus)
                found = figures(cell, labels) if cell.is_whole else {}
                for measure in ("uar", "war", *labels):
                    kind = measure if measure in ("uar", "war") else f"recall_{measure}"
                    known = "" if not found or kind == measure else str(measure in _known(cell))
                    values = [""] * 6
                    if one := found.get(measure):
                        ends = one.interval or (None, None)
                        values = [one.mean, one.std, *ends, one.chance, one.answered]
                        values = ["" if v is None else f"{100 * v:.2f}" for v in values]
                    seeds = [len(cell.finished), len(cell.answers)]
                    writer.writerow([trained, corpus, name, kind, *values, known, *seeds])
        return text.getvalue()

    def _shown(self, cell: Cell, measure: str, labels: Sequence[str]) -> str:
        if not cell.is_whole:
            there = len(cell.finished)
            return f"{EMPTY} ({there} of {len(cell.answers)} seeds)" if there else EMPTY
        return str(figures(cell, labels)[measure])

    def _caption(self) -> str:
        seeds = list(self.cells[0].answers)
        return (
            f"In %. Seeds: {', '.join(map(str, seeds))}. Mean ± standard deviation over seeds, if "
            "there are several, and in brackets the 95 % interval over speakers (bootstrap of "
            "whole speakers, all seeds' answers together). A dash: not all runs are there. A model "
            "chooses among the classes of the column only. `both` are models trained on both "
            "corpora and tested on speakers of either whom they have not heard: folds 1 to 4 of "
            "each, so that the actors of RAVDESS's fifth fold are trained on and not tested. The "
            "diagonal is from the recipes of the corpora alone, over all of their folds."
        )

    def _sentences(self) -> Iterator[str]:
        """Say of each pair of corpora whether anything carries over, and what is lost."""
        for trained, tested in ((RAVDESS, NEMO), (NEMO, RAVDESS)):
            cell, both = self.cell(trained, tested), self.cell("both", tested)
            if not cell.is_whole:
                yield f"{trained} to {tested}: not measured."
                continue
            shared = [name for name in self.labels if name in SHARED]
            found = figures(cell, shared)["uar"]
            said = (
                f"{trained} to {tested}, {len(shared)} shared classes: UAR {found}, "
                f"{_beside_chance(found)}."
            )
            if both.is_whole:
                heard = figures(both, shared)["uar"]
                said += (
                    f" Models that had other speakers of {tested} too have {heard}: "
                    f"{100 * (heard.mean - found.mean):+.1f} points."
                )
            yield said
            own = [name for name in self.labels if name in EMOTIONS[tested]]
            for name in (name for name in own if name not in _known(cell)):
                recall = figures(cell, own)[name]
                yield (
                    f"`{name}`, never seen in training on {trained}, by its prompt alone: recall "
                    f"{recall} beside a chance of {_percent(recall.chance)}. It was answered to "
                    f"{_percent(recall.answered)} % of the utterances of other classes: a class "
                    "that is known has a recall well above that."
                )

    def _recalls(self) -> list[str]:
        """Lay out the recall of each class in each cell."""
        pairs = [(trained, corpus, name, labels)
                 for corpus, name, labels in self.columns for trained in STYLES]  # fmt: skip
        pairs = [pair for pair in pairs if self.cell(*pair[:2]).is_whole]
        if not pairs:
            return ["Not measured."]
        heading = [
            "class",
            *(f"{trained} → {corpus}, {name}" for trained, corpus, name, _ in pairs),
        ]
        rows = []
        for label in self.labels:
            row = [f"`{label}`"]
            for trained, corpus, _, labels in pairs:
                cell = self.cell(trained, corpus)
                found = figures(cell, labels).get(label)
                mark = "" if label in _known(cell) else "†"
                row.append(EMPTY if found is None else f"{found}{mark}")
            rows.append(row)
        return [*markdown_table(heading, rows), "", "†: never seen in training."]


def figures(cell: Cell, labels: Sequence[str]) -> dict[str, Figure]:
    """Give UAR, WAR and the recall of each class of a whole cell, among some classes.

    An interval of all seeds' answers together is one of the mean over seeds: they answer to the
    same utterances.
    """
    seeds = [restricted_predictions(answers.predictions, labels) for answers in cell.finished]
    speakers = {name: who for answers in cell.finished for name, who in answers.speakers.items()}
    together = pooled_predictions(seeds)
    intervals = confidence_intervals(together, [speakers[name] for name in together.ids]) or {}
    chance = 1 / len(labels)
    metrics = [predictions.metrics() for predictions in seeds]
    # The share of the most frequent class is what guessing it would have.
    frequent = np.bincount(seeds[0].true).max() / len(seeds[0].true)
    found = {
        name: _figure([getattr(m, name) for m in metrics], intervals.get(name), base)
        for name, base in (("uar", chance), ("war", frequent))
    }
    for index, label in enumerate(labels):
        recalls = [m.per_class_recall[label] for m in metrics]
        if None not in recalls:
            ends = intervals.get("per_class_recall", {}).get(label)
            others = together.true != index
            answered = float((together.predicted[others] == index).mean())
            found[label] = _figure(recalls, ends, chance, answered)
    return found


def draw(tables: Tables, path: Path) -> Path:
    """Draw UAR and WAR of all cells beside chance; a missing cell leaves its place empty."""
    figure = new_figure(8.5, 7.5)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, measure in zip(panels, ("uar", "war"), strict=True):
        for place, (corpus, _, labels) in enumerate(tables.columns):
            for number, (trained, (shape, colour)) in enumerate(STYLES.items()):
                # Drawn empty too, so that the legend is the same whatever is there.
                look = {"color": colour, "marker": shape, "markersize": 8, "linestyle": "none"}
                if place == 0:
                    axes.plot([], [], label=f"trained on {trained}", markeredgecolor=INK, **look)
                cell = tables.cell(trained, corpus)
                if not cell.is_whole:
                    continue
                found = figures(cell, labels)[measure]
                low, high = found.interval or (found.mean, found.mean)
                reach = [[100 * max(found.mean - low, 0)], [100 * max(high - found.mean, 0)]]
                bar = {"ecolor": INK, "elinewidth": 1.2, "capsize": 3, "markeredgecolor": INK}
                x = place + (number - 1) * 0.24
                axes.errorbar(x, 100 * found.mean, reach, **look, **bar)
                beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
                axes.annotate(f"{100 * found.mean:.1f}", (x, 100 * found.mean), (7, 0), **beside)
            if measure == "uar":
                label = "chance" if place == 0 else None
                ends = (place - 0.42, place + 0.42)
                axes.hlines(100 / len(labels), *ends, PALE, ":", linewidth=1.6, label=label)
        axes.set_ylim(0, 100)
        axes.set_ylabel(f"{measure.upper()} (%)", color=INK)
        tidy(axes)
    names = [f"tested on {corpus},\n{name} classes" for corpus, name, _ in tables.columns]
    panels[-1].set_xticks(range(len(names)), names)
    panels[-1].set_xlim(-0.5, len(names) - 0.5)
    panels[0].set_title("Error bars: 95 % interval over speakers", color=PALE, fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    below = {"loc": "outside lower center", "ncols": 4, "frameon": False, "labelcolor": INK}
    figure.legend(handles, labels, **below)
    figure.suptitle("What carries over between corpora", color=INK, fontsize=13, fontweight="bold")
    return save_figure(figure, path)


def is_lossy(row: Mapping[str, str]) -> bool:
    """Whether a manifest's row names a recording that was stored with losses."""
    return PurePosixPath(row["wav"]).suffix.lower() in _LOSSY


def _figure(
    values: Sequence[float], ends: Sequence[float] | None, chance: float, *more: float
) -> Figure:
    spread = stdev(values) if len(values) > 1 else None
    return Figure(fmean(values), spread, tuple(ends) if ends else None, chance, *more)


def _known(cell: Cell) -> frozenset[str]:
    return frozenset.union(*(answers.trained for answers in cell.finished))


def _beside_chance(found: Figure) -> str:
    chance = f"chance ({_percent(found.chance)})"
    if found.interval is None or found.interval[0] <= found.chance <= found.interval[1]:
        return f"not to be told from {chance}"
    return f"{'above' if found.mean > found.chance else 'below'} {chance}"


def _selected(predictions: Predictions, which: np.ndarray) -> Predictions:
    return Predictions(
        [name for name, own in zip(predictions.ids, which, strict=True) if own],
        predictions.true[which],
        predictions.predicted[which],
        predictions.probabilities[which],
        predictions.labels,
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


if __name__ == "__main__":
    print("error: across_tables.py is a part of across.py: run that one.", file=sys.stderr)
    sys.exit(2)
