"""Tables of the figures in `gemoclap_sb.evaluation.metrics`.

JSON holds fractions; what a person reads, here, holds percentages with a % sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from gemoclap_sb.evaluation.metrics import ClassificationMetrics, pooled

VALIDATION_NOTES: dict[str, str] = {
    "random": "Temperature, and checkpoint where one is chosen, are by utterances held out at "
    "random from the training sessions; the test session was not seen before the final evaluation.",
    "session": "Temperature, and checkpoint where one is chosen, are by one whole training "
    "session; the test session was not seen before the final evaluation.",
    "speaker": "Temperature, and checkpoint where one is chosen, are by held-out speakers of the "
    "training side; the test speakers were not seen before the final evaluation.",
    "development": "For choosing settings: tested on held-out speakers of the training side, by "
    "whom temperature, and checkpoint where one is chosen, are too. The fold's own test speakers "
    "were left out, and these figures are not of them. Folds may hold out the same speakers, who "
    "then count more than once in pooled figures.",
    "untested": "No test: all speakers were trained on but those held out, on whom the temperature "
    "of the probabilities was fitted. These figures are of the latter and say little about others.",
    "test": "Temperature, and checkpoint where one is chosen, are by the test side itself (the "
    "test session, or the test speakers). These figures are therefore optimistic and must not be "
    "compared with results whose test side was unseen.",
}
"""What to say, in words, about each way of validating."""


def percent(fraction: float | None) -> str:
    """Give a fraction as a percentage, or a dash where it is undefined."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def interval(ends: Sequence[float]) -> str:
    """Give an interval of fractions in percent."""
    low, high = ends
    return f"{100 * low:.2f} to {percent(high)}"


def mean_and_std(mean: float, std: float | None) -> str:
    """Give mean and standard deviation of fractions in percent."""
    return percent(mean) if std is None else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def metrics_table(metrics: ClassificationMetrics) -> str:
    """Lay WAR, UAR and the per-class recalls out for the terminal, in aligned lines.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.metrics import classification_metrics
    >>> metrics = classification_metrics([0, 0, 0, 1], [0, 0, 1, 1], ["ang", "sad"])
    >>> print(metrics_table(metrics))
    WAR    75.00 %   (3 of 4 utterances)
    UAR    83.33 %   (mean over 2 classes)
    recall
      ang  66.67 %   (2 of 3)
      sad 100.00 %   (1 of 1)
    """
    confusion = np.asarray(metrics.confusion)
    present = [name for name in metrics.labels if metrics.per_class_recall[name] is not None]
    averaged = f"{len(present)} class" + "es" * (len(present) > 1)
    width = max(len(name) for name in metrics.labels)
    lines = [
        f"{'WAR':<{width + 2}} {100 * metrics.war:6.2f} %   "
        f"({int(confusion.trace())} of {metrics.n_test} utterances)",
        f"{'UAR':<{width + 2}} {100 * metrics.uar:6.2f} %   (mean over {averaged})",
        "recall",
    ]
    for i, name in enumerate(metrics.labels):
        recall = metrics.per_class_recall[name]
        figure = "     –  " if recall is None else f"{100 * recall:6.2f} %"
        lines.append(f"  {name:<{width}} {figure}   ({confusion[i, i]} of {confusion[i].sum()})")
    return "\n".join(lines)


def uncertainty_lines(record: Mapping[str, Any]) -> list[str]:
    """Say in lines what ``metrics.json`` holds beside WAR and UAR; nothing of what is null.

    ValueError for a record of another form.

    Examples
    --------
    >>> intervals = {"level": 0.95, "speakers": 4, "war": [0.5, 0.75], "uar": [0.4, 0.7]}
    >>> genders = {"F": 0.6, "M": 0.5, "gap": 0.1, "classes": ["ang", "sad"]}
    >>> record = {"confidence_intervals": intervals, "uar_by_gender": genders}
    >>> for line in uncertainty_lines(record):
    ...     print(line)
    95 % interval over 4 speakers: WAR 50.00 to 75.00 %, UAR 40.00 to 70.00 %
    UAR of women 60.00 %, of men 50.00 %: a gap of +10.00 points (over 2 classes)
    """
    try:
        return list(_uncertainty_lines(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            "expected confidence_intervals, uar_by_gender, uar_speaker_centered and calibration "
            f"as metrics.json has them, found others: {error!r}"
        ) from error


def _uncertainty_lines(record: Mapping[str, Any]) -> Iterator[str]:
    if found := record.get("confidence_intervals"):
        yield (
            f"{100 * found['level']:g} % interval over {found['speakers']} speakers: "
            f"WAR {interval(found['war'])}, UAR {interval(found['uar'])}"
        )
    if found := record.get("uar_by_gender"):
        averaged = f"{len(found['classes'])} class" + "es" * (len(found["classes"]) > 1)
        yield (
            f"UAR of women {percent(found['F'])}, of men {percent(found['M'])}: a gap of "
            f"{100 * found['gap']:+.2f} points (over {averaged})"
        )
    if (found := record.get("uar_speaker_centered")) is not None:
        yield (
            f"UAR {percent(found)} once every speaker's scores have the same mean, which needs "
            "many utterances of a speaker, as many of each class"
        )
    if found := record.get("calibration"):
        before, after = found["before"], found["after"]
        yield (
            f"expected calibration error {percent(after['ece'])}, negative log-likelihood "
            f"{after['nll']:.3f} (before the temperature was fitted: {percent(before['ece'])}, "
            f"{before['nll']:.3f})"
        )


def cross_validation_summary(
    fold_metrics: Sequence[Mapping[str, Any]],
    validation: str | None = None,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """Summarise the folds of a cross-validation, as ``cv_metrics.json`` holds them.

    ``fold_metrics`` is the content of each fold's ``metrics.json``: fold, labels and confusion
    are needed, further keys (seed, seconds, ...) are kept. ``validation``, a key of
    `VALIDATION_NOTES`, puts its sentence before the notes. Mean and standard deviation are
    over folds; the latter is that of a sample (``ddof=1``) and null for a single fold.
    ``pooled`` comes from the summed confusions. ValueError if there is no fold, a fold number
    is missing or repeated, or labels differ between folds.

    Examples
    --------
    >>> folds = [
    ...     {"fold": 1, "labels": ["ang", "sad"], "confusion": [[3, 1], [0, 2]]},
    ...     {"fold": 2, "labels": ["ang", "sad"], "confusion": [[2, 2], [1, 1]]},
    ... ]
    >>> summary = cross_validation_summary(folds)
    >>> summary["mean"]["uar"], summary["pooled"]["uar"]
    (0.6875, 0.6875)
    """
    if not fold_metrics:
        raise ValueError("nothing to summarise: expected the metrics of at least one fold")
    if validation is not None and validation not in VALIDATION_NOTES:
        raise ValueError(
            f"expected validation to be one of {', '.join(VALIDATION_NOTES)}; found {validation!r}"
        )
    numbers = [fold.get("fold") for fold in fold_metrics]
    if None in numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"expected each fold's metrics to have its own 'fold'; found {numbers}")

    ordered = sorted(fold_metrics, key=lambda fold: fold["fold"])
    metrics = [ClassificationMetrics.from_dict(fold) for fold in ordered]
    whole = pooled(metrics)
    scores = {name: [getattr(one, name) for one in metrics] for name in ("war", "uar")}
    remarks = [] if validation is None else [VALIDATION_NOTES[validation]]
    return {
        "folds": [{**fold, **one.to_dict()} for fold, one in zip(ordered, metrics, strict=True)],
        "mean": {name: fmean(values) for name, values in scores.items()},
        "std": {
            name: stdev(values) if len(values) > 1 else None for name, values in scores.items()
        },
        "std_ddof": 1,
        "pooled": whole.to_dict(),
        "labels": whole.labels,
        "notes": remarks + [str(note) for note in notes],
    }


def cross_validation_report(
    summary: Mapping[str, Any],
    title: str,
    notes: Iterable[str] = (),
    command: str | None = None,
    picture: str | None = None,
) -> str:
    """Write a cross-validation summary as Markdown, as ``cv_report.md`` holds it.

    ``notes`` (machine, date) follow those of the summary; ``command`` is the one that gave
    these results; ``picture`` is a path relative to the report.

    Examples
    --------
    >>> fold = {"fold": 1, "labels": ["ang", "sad"], "confusion": [[3, 1], [0, 2]]}
    >>> text = cross_validation_report(cross_validation_summary([fold]), "Demo")
    >>> print(text.splitlines()[4])
    | 1 | 83.33 % | 87.50 % | 6 |
    """
    folds, labels, whole = summary["folds"], summary["labels"], summary["pooled"]
    timed = any("seconds" in fold for fold in folds)
    rows = []
    for fold in folds:
        cells = [fold["fold"], percent(fold["war"]), percent(fold["uar"]), fold["n_test"]]
        seconds = f"{fold['seconds']:.1f}" if "seconds" in fold else "–"
        rows.append(cells + [seconds] * timed)
    spread = [mean_and_std(summary["mean"][key], summary["std"][key]) for key in ("war", "uar")]
    rows.append([f"**mean ± std of {len(folds)}**", *spread, ""] + [""] * timed)
    figures = [percent(whole["war"]), percent(whole["uar"]), whole["n_test"]]
    total = f"{sum(fold.get('seconds', 0.0) for fold in folds):.1f}"
    rows.append(["**pooled**", *figures] + [total] * timed)
    heading = ["fold", "WAR", "UAR", "n_test"] + ["seconds"] * timed
    lines = [f"# {title}", "", *markdown_table(heading, rows), ""]
    lines += [
        "WAR is the accuracy, UAR the mean of the per-class recalls. The standard deviation is "
        "over folds (ddof = 1). Pooled: computed from the summed confusion matrix.",
        "",
    ]
    if sureness := uncertainty_lines(summary):
        lines += ["Of the pooled predictions:", "", *(f"- {line}" for line in sureness), ""]
    if remarks := [*summary["notes"], *notes]:
        lines += [f"- {note}" for note in remarks] + [""]
    if command:
        lines += ["```sh", command, "```", ""]

    heading = ["class", "n_test", "pooled", *(f"fold {fold['fold']}" for fold in folds)]
    rows = []
    for counts, name in zip(whole["confusion"], labels, strict=True):
        recalls = [percent(one["per_class_recall"][name]) for one in [whole, *folds]]
        rows.append([name, sum(counts), *recalls])
    lines += ["## Recall per class", "", *markdown_table(heading, rows), ""]
    rows = [[name, *counts] for name, counts in zip(labels, whole["confusion"], strict=True)]
    for i, row in enumerate(rows, start=1):
        row[i] = f"**{row[i]}**"
    lines += ["## Pooled confusion", "", "Row: true class. Column: predicted class.", ""]
    lines += markdown_table(["", *labels], rows)
    if picture:
        lines += ["", f"![WAR and UAR per fold, and the pooled confusion]({picture})"]
    return "\n".join(lines) + "\n"


def markdown_table(heading: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lay out a Markdown table, one line a row; all columns but the first are numbers.

    Examples
    --------
    >>> markdown_table(["class", "n"], [["sad", 3]])
    ['| class | n |', '|:--|--:|', '| sad | 3 |']
    """

    def line(cells: Iterable[object]) -> str:
        escaped = (str(cell).replace("|", r"\|").replace("\n", " ") for cell in cells)
        return "| " + " | ".join(escaped) + " |"

    return [line(heading), "|:--" + "|--:" * (len(heading) - 1) + "|", *map(line, rows)]
