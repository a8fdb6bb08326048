"""The temperature of a model's probabilities, fitted on a corpus that it was not trained on.

Held-out speakers of the training's own corpora say how sure a model may be of such speakers. Of
another corpus it knows less, and is far too sure of what it answers. So the model in the package,
which will hear other people's recordings, has the temperature of the transfers: models of one
corpus, asked about the other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from across_prepare import SHARED, TESTED

from gemoclap_sb.evaluation.calibration import (
    calibration_figures,
    fit_temperature,
    rescaled,
)
from gemoclap_sb.evaluation.predictions import (
    PREDICTIONS,
    Predictions,
    pooled_predictions,
    restricted_predictions,
)
from gemoclap_sb.files import read_json
from gemoclap_sb.training.run_folder import METRICS, is_finished

THRESHOLDS, FEW = (0.2, 0.25, 0.3, 0.4, 0.5), 50
OTHER = dict(zip(TESTED.values(), reversed(TESTED.values()), strict=True))


@dataclass(frozen=True)
class AcrossCorpora:
    """Temperatures fitted on the transfers, and what they do to the expected calibration error.

    ``scale``, a factor on cosines, is the geometric mean of those that the tested corpora ask
    for. ``errors`` are by tested corpus, among the classes that both have: with the temperature
    of the model's own validation speakers, and with that of the other transfer, which has not
    seen this one's answers. ``within`` is of models of both corpora and unheard speakers of
    both: the error with their own temperature, and that with ``scale``; None where there are
    none. ``answered`` is by who was heard, with ``scale``: for each of `THRESHOLDS` the share of
    answers that are as probable, and the share of these that are right, None for fewer than
    `FEW` answers.
    """

    scale: float
    errors: Mapping[str, tuple[float, float]]
    within: tuple[float, float] | None
    answered: Mapping[str, Sequence[tuple[float, float | None]]]


def calibrate_across(figures: Path) -> AcrossCorpora | None:
    """Fit on the finished transfers of ``across.py``; None if one of them was not measured.

    Seeds count alike. ValueError names a run that is none of these.
    """
    cosines, own = {}, {}
    for fold, tested in TESTED.items():
        read = _pooled(figures, f"transfer/seed_*/fold_{fold}", SHARED)
        if read is None:
            return None
        cosines[tested], own[tested] = read
    fitted = {tested: _fit(answers) for tested, answers in cosines.items()}
    errors = {
        tested: tuple(
            calibration_figures(of)["ece"]
            for of in (own[tested], _scaled(answers, fitted[OTHER[tested]]))
        )
        for tested, answers in cosines.items()
    }
    scale = math.exp(np.mean(np.log([*fitted.values()])))
    heard = {
        f"{tested}, by models of {OTHER[tested]}": _scaled(answers, scale)
        for tested, answers in cosines.items()
    }
    within = None
    if read := _pooled(figures, "both/seed_*/fold_*"):
        answers = _scaled(read[0], scale)
        within = tuple(calibration_figures(of)["ece"] for of in (read[1], answers))
        heard["unheard speakers, by models of both"] = answers
    return AcrossCorpora(scale, errors, within, {who: _answered(of) for who, of in heard.items()})


def _answered(answers: Predictions) -> list[tuple[float, float | None]]:
    sure = [answers.confidence >= threshold for threshold in THRESHOLDS]
    return [
        (float(of.mean()), float(answers.correct[of].mean()) if of.sum() >= FEW else None)
        for of in sure
    ]


def _pooled(
    figures: Path, pattern: str, classes: Sequence[str] | None = None
) -> tuple[Predictions, Predictions] | None:
    """Pool the answers of finished runs: with a scale of 1, and with the scales that they had."""
    runs = [run for run in sorted(figures.glob(pattern)) if is_finished(run)]
    read = [_read(run, classes) for run in runs]
    if not read:
        return None
    ones = [_scaled(answers, 1 / scale) for answers, scale in read]
    return pooled_predictions(ones), pooled_predictions([answers for answers, _ in read])


def _read(run: Path, classes: Sequence[str] | None) -> tuple[Predictions, float]:
    metrics = read_json(run / METRICS)
    if metrics.get("validation") != "speaker" or not metrics.get("calibration"):
        raise ValueError(
            f"{run / METRICS}: expected a run that was tested on speakers whom nothing was chosen "
            f"by, with a calibration; found validation {metrics.get('validation')!r}. Delete its "
            "folder and run across.py again, or name another --figures."
        )
    answers = Predictions.read(run / PREDICTIONS)
    try:
        answers = restricted_predictions(answers, classes) if classes else answers
    except ValueError as error:
        raise ValueError(f"{run / PREDICTIONS}: {error}") from error
    return answers, metrics["calibration"]["scale"]


def _scaled(answers: Predictions, factor: float) -> Predictions:
    return replace(answers, probabilities=rescaled(answers.probabilities, factor))


def _fit(answers: Predictions) -> float:
    floor = np.finfo(float).tiny
    return fit_temperature(np.log(answers.probabilities.clip(floor)), answers.true)


if __name__ == "__main__":
    print(
        "error: across_calibration.py is a part of make_default.py: run that one.", file=sys.stderr
    )
    sys.exit(2)
