"""The temperature of a model's probabilities, fitted on a corpus that it was not trained on.

Held-out speakers of the training's own corpora say how sure a model may be of such speakers. Of
another corpus it knows less, and is far too sure of what it answers. So the model in the package,
which will hear other people's recordings, has the temperature of the transfers: models of one
corpus, asked about the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


@dataclass(frozen=True)
class AcrossCorpora:
    """Temperatures fitted on the transfers, and what they do to the expected calibration error.

    ``scale``, a factor on cosines, is the geometric mean of those that the tested corpora ask
    for. ``errors`` are by tested corpus: with the temperature of the model's own validation
    speakers, and with that of the other transfer, which has not seen this one's answers.
    """

    scale: float
    errors: Mapping[str, tuple[float, float]]


def calibrate_across(figures: Path) -> AcrossCorpora | None:
    """Fit on the finished transfers of ``across.py``; None if one of them was not measured.

    Only the classes that both corpora have are asked about. Seeds count alike.
    """
    cosines, own = {}, {}
    for fold, tested in TESTED.items():
        runs = [*figures.glob(f"transfer/seed_*/fold_{fold}")]
        read = [_read(run) for run in sorted(runs) if is_finished(run)]
        if not read:
            return None
        cosines[tested] = pooled_predictions([answers for answers, _ in read])
        own[tested] = pooled_predictions([_scaled(*of) for of in read])
    fitted = {tested: _fit(answers) for tested, answers in cosines.items()}
    first, second = TESTED.values()
    errors = {
        tested: tuple(
            calibration_figures(answers)["ece"]
            for answers in (own[tested], _scaled(cosines[tested], fitted[other]))
        )
        for tested, other in ((first, second), (second, first))
    }
    return AcrossCorpora(math.exp(np.mean(np.log([*fitted.values()]))), errors)


def _read(run: Path) -> tuple[Predictions, float]:
    """Read a run's answers, with the probabilities of a scale of 1, and the scale that it had."""
    answers = restricted_predictions(Predictions.read(run / PREDICTIONS), SHARED)
    scale = read_json(run / METRICS)["calibration"]["scale"]
    return _scaled(answers, 1 / scale), scale


def _scaled(answers: Predictions, factor: float) -> Predictions:
    return replace(answers, probabilities=rescaled(answers.probabilities, factor))


def _fit(answers: Predictions) -> float:
    floor = np.finfo(float).tiny
    return fit_temperature(np.log(answers.probabilities.clip(floor)), answers.true)
