"""A model and its objective: whether one has what the other trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.objectives.cross_entropy import MultiTaskCrossEntropyObjective
from gemoclap_sb.objectives.margin_softmax import MarginSoftmaxObjective
from gemoclap_sb.training.settings import ExperimentError


def add_classifiers(hparams: Mapping[str, Any]) -> None:
    """Give the model the classifiers that its objective alone reads, by ``label_encoders``.

    ExperimentError if the model does not have what the objective trains.
    """
    model, objective = hparams["modules"]["clap"], hparams["objective"]
    trained = getattr(objective, "heads", model.heads)
    further: Sequence[str] = ()
    if isinstance(model, AudioClassifier) and isinstance(objective, MultiTaskCrossEntropyObjective):
        further = [name for name in trained if name not in model.heads]
    if set(trained) != {*model.heads, *further}:
        instead = "Let --heads and the weights agree."
        if isinstance(model, AudioClassifier):
            instead = f"Let {model.heads[0]} weigh more than 0."
        raise ExperimentError(
            f"heads: the model has {', '.join(model.heads)}, the objective trains "
            f"{', '.join(trained)} (an attribute that weighs 0 is not trained). {instead}"
        )
    if isinstance(objective, MarginSoftmaxObjective):
        _check_scale(model, objective)
    scored = trained if getattr(objective, "cross_entropy_weight", 0.0) else further
    if scored:
        model.add_classifiers({name: len(hparams["label_encoders"][name]) for name in scored})


def _check_scale(model: nn.Module, objective: MarginSoftmaxObjective) -> None:
    found = getattr(model, "cosine_scale", None)
    if objective.scale not in (None, found):
        raise ExperimentError(
            f"scale: the objective's is {objective.scale:g}, the model's cosine_scale is "
            f"{'null' if found is None else format(found, 'g')}. Let them agree."
        )
