"""How sure the figures of a test set are, for women and men alike, and what new speakers cost.

Utterances of one speaker resemble each other, so that a test set holds less than its
utterances seem to say: what is resampled is whole speakers (the cluster bootstrap: Field and
Welsh, "Bootstrapping clustered data", JRSS B 69(3), 2007). The intervals are those of
percentiles (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
Over the few speakers of a corpus of emotional speech they are rather too narrow than too wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemoclap_sb.evaluation.metrics import classification_metrics
from gemoclap_sb.evaluation.predictions import Predictions

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
CENTERED_FROM = 5
NO_INTERVALS = (
    "No confidence intervals: they are over speakers, and the test set names fewer than two."
)
Rows = Mapping[str, Mapping[str, Any]]


def uncertainty(predictions: Predictions, rows: Rows) -> dict[str, Any]:
    """Give intervals and the UAR of women and men, as ``metrics.json`` holds them.

    Parameters
    ----------
    predictions : Predictions
        Of a test set.
    rows : Mapping[str, Mapping]
        The manifest's columns by ID, of which ``spk_id`` and ``gender`` are read.

    Returns
    -------
    dict
        ``confidence_intervals``, null where fewer than two speakers are named: see
        `confidence_intervals`. ``uar_by_gender``, null where the test set does not name both:
        see `uar_by_gender`. ``uar_speaker_centered``: see `uar_speaker_centered`.

    Examples
    --------
    >>> true = np.array([0, 1])
    >>> found = Predictions(["a", "b"], true, true, np.eye(2), ["ang", "sad"])
    >>> rows = {"a": {"spk_id": "ann", "gender": "F"}, "b": {"spk_id": "bob", "gender": "F"}}
    >>> uncertainty(found, rows)["confidence_intervals"]["war"]
    [1.0, 1.0]
    >>> uncertainty(found, rows)["uar_by_gender"]
    """
    speakers, genders = (
        [str(rows[name].get(column) or "") for name in predictions.ids]
        for column in ("spk_id", "gender")
    )
    return {
        "confidence_intervals": confidence_intervals(predictions, speakers),
        "uar_by_gender": uar_by_gender(predictions, genders),
        "uar_speaker_centered": uar_speaker_centered(predictions, speakers),
    }


def confidence_intervals(
    predictions: Predictions,
    speakers: Sequence[str],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> dict[str, Any] | None:
    """Bootstrap WAR, UAR and the recalls over speakers.

    Parameters
    ----------
    predictions : Predictions
        Of N utterances.
    speakers : Sequence[str]
        Who spoke each, N names.
    resamples : int
        How often as many speakers are drawn, with replacement.
    level : float
        Share of the draws between the ends of an interval.
    seed : int
        Of the draws.

    Returns
    -------
    dict or None
        ``level``, ``speakers`` (how many), and from low to high ``war``, ``uar`` and, by label,
        ``per_class_recall``. A class that a draw lacks is left out of the draw's UAR; one that
        the test set lacks has None. None for fewer than two speakers, or where a name is empty.

    Examples
    --------
    >>> true = np.array([0, 1, 0, 1])
    >>> found = Predictions("abcd", true, np.array([0, 1, 1, 0]), np.eye(2)[true], ["ang", "sad"])
    >>> confidence_intervals(found, ["ann", "ann", "bob", "bob"])["war"]
    [0.0, 1.0]
    """
    names, index = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < 2 or "" in names:
        return None
    classes = len(predictions.labels)
    counts = np.zeros((len(names), classes, classes))
    np.add.at(counts, (index, predictions.true, predictions.predicted), 1)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    # How often each speaker was drawn, [R, S].
    times = np.zeros((resamples, len(names)))
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1)
    confusions = np.tensordot(times, counts, axes=1)
    correct, totals = np.einsum("rcc->rc", confusions), confusions.sum(axis=2)
    with np.errstate(invalid="ignore"):
        recalls = correct / totals

    def interval(values: np.ndarray) -> list[float] | None:
        values = values[~np.isnan(values)]
        if not len(values):
            return None
        return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()

    return {
        "level": level,
        "speakers": len(names),
        "war": interval(correct.sum(axis=1) / totals.sum(axis=1)),
        "uar": interval(np.nanmean(recalls, axis=1)),
        "per_class_recall": {
            name: interval(of) for name, of in zip(predictions.labels, recalls.T, strict=True)
        },
    }


def uar_by_gender(predictions: Predictions, genders: Sequence[str]) -> dict[str, Any] | None:
    """UAR of women and of men, over the classes for which both have utterances.

    Only so are the two means of the same recalls. ``genders`` are N values, ``F``, ``M`` or
    anything else, which is left out. The ``gap`` is that of women over men. None where there is
    no class that both have.

    Examples
    --------
    >>> true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    >>> found = Predictions("abcd", true, predicted, np.eye(2)[true], ["ang", "sad"])
    >>> uar_by_gender(found, ["F", "M", "M", "M"])
    {'F': 1.0, 'M': 0.5, 'gap': 0.5, 'classes': ['ang']}
    """
    genders = np.asarray(genders)
    recalls = {}
    for gender in ("F", "M"):
        of = genders == gender
        totals = np.bincount(predictions.true[of], minlength=len(predictions.labels))
        right = np.bincount(
            predictions.true[of & predictions.correct], minlength=len(predictions.labels)
        )
        with np.errstate(invalid="ignore"):
            recalls[gender] = right / totals
    both = ~np.isnan(recalls["F"] + recalls["M"])
    if not both.any():
        return None
    women, men = (float(recalls[gender][both].mean()) for gender in ("F", "M"))
    classes = [name for name, shared in zip(predictions.labels, both, strict=True) if shared]
    return {"F": women, "M": men, "gap": women - men, "classes": classes}


def uar_speaker_centered(predictions: Predictions, speakers: Sequence[str]) -> float | None:
    """UAR once all speakers have the same mean log-probabilities, those of all utterances.

    What it is above the UAR is what it costs that a model hears all of one speaker's utterances
    as a little too angry, and all of another's as too sad. It is no result of the model, since it
    takes many utterances of a speaker to know that, though no labels; and where one speaker
    really is angry more often than another, it takes that away too. ``speakers`` are N names;
    None where a name is empty or a speaker has fewer than `CENTERED_FROM` times as many
    utterances as there are classes.

    Examples
    --------
    >>> true = np.array([0, 1] * 10)
    >>> ann, bob = [[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.1, 0.9]]
    >>> scores = np.array(ann * 5 + bob * 5)
    >>> heard = Predictions("a" * 20, true, scores.argmax(axis=1), scores, ["ang", "sad"])
    >>> heard.metrics().uar, uar_speaker_centered(heard, ["ann"] * 10 + ["bob"] * 10)
    (0.5, 1.0)
    """
    names, index, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    if "" in names or counts.min() < CENTERED_FROM * len(predictions.labels):
        return None
    scores = np.log(predictions.probabilities.clip(np.finfo(float).tiny))
    totals = np.zeros((len(names), scores.shape[1]))
    np.add.at(totals, index, scores)
    scores -= (totals / counts[:, None])[index] - scores.mean(axis=0)
    return classification_metrics(predictions.true, scores.argmax(axis=1), predictions.labels).uar
