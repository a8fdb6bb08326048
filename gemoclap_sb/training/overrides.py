"""Overrides of an experiment's YAML, checked, and completed by what follows from them.

What follows becomes an override too, so that all that records an experiment records it, and
nobody is asked the same twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from gemoclap_sb.data.corpora.ravdess import MERGED
from gemoclap_sb.data.folds import VALIDATIONS
from gemoclap_sb.training.keys import OBJECTS, PLAIN, check_keys, named
from gemoclap_sb.training.own_manifest import with_manifest
from gemoclap_sb.training.own_speakers import with_speakers
from gemoclap_sb.training.references import read_references
from gemoclap_sb.training.settings import (
    ExperimentError,
    is_object,
    read_overrides,
    read_settings,
    told_permissions,
)

_CONTRASTIVE = ("EmoCLAPObjective", "MultiTaskObjective", "SoftLabelObjective")


@told_permissions()
def completed(hparams_file: str | os.PathLike, overrides: str | Mapping[str, Any]) -> dict:
    """Check the keys of an experiment, and add the overrides that follow from them.

    From a ``manifest`` follow words, heads and number of folds; from ``speakers_csv`` the classes,
    which are its speakers; from ``merge_calm`` the classes
    without calm; from the classes ``num_classes``. ExperimentError says in one line what does not
    fit.
    """
    path = str(hparams_file)
    given = read_overrides(overrides) if isinstance(overrides, str) else dict(overrides)
    settings = read_settings(path, given)
    check_keys(settings, path, given, read_references(path, given))
    _check_batch(settings, path, given)
    _check_epochs(settings, path, given)
    own = [key for key in ("train_csv", "valid_csv", "test_csv") if settings.get(key)]
    if own and (idle := [key for key in ("validation", "prepare_options") if key in given]):
        raise ExperimentError(
            f"--{idle[0]}: --{own[0]} and its like are the split already. Leave it out."
        )
    if "validation" in given:
        _check_validation(given["validation"], path)
    if settings.get("speakers_csv"):
        given = with_speakers(given, settings)
        settings = read_settings(path, given)
    elif settings.get("manifest") or given.keys() & {"fold_column", "words"}:
        given = with_manifest(path, given)
        settings = read_settings(path, given)
    else:
        if "number_of_folds" in given:
            _check_folds(given["number_of_folds"], path)
        if (classes := _unmerged(settings)) != settings.get("classes"):
            given["classes"] = classes
            settings = read_settings(path, given)
    _check_fold(settings, path, given)
    if (count := _num_classes(settings)) is not None:
        if given.get("num_classes", count) != count:
            raise ExperimentError(
                f"--num_classes {given['num_classes']}: the experiment has {count} classes, from "
                "which it follows. Leave it out."
            )
        given["num_classes"] = count
    return given


def check_complete(
    settings: Mapping[str, Any],
    hparams_file: str,
    objects: Sequence[str] = OBJECTS,
    plain: Sequence[str] = PLAIN,
) -> None:
    """Refuse a YAML that lacks what every experiment has; ExperimentError."""
    lacking = [key for key in objects if not is_object(settings.get(key))]
    if not is_object((settings.get("modules") or {}).get("clap")):
        lacking.append("modules with clap")
    lacking += [key for key in plain if key not in settings]
    if lacking:
        raise ExperimentError(
            f"{hparams_file} has no {', '.join(lacking)}, which an experiment is made of; see "
            "the YAMLs of the recipes."
        )


def _check_batch(settings: Mapping[str, Any], path: str, given: Mapping[str, Any]) -> None:
    """Refuse a batch of one to an objective that compares utterances with each other."""
    tags = settings["objective"] if is_object(settings.get("objective")) else {}
    contrastive = any(tag.rpartition(".")[2] in _CONTRASTIVE for tag in tags)
    # torchrun's; the batches of all processes are compared.
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if contrastive and settings.get("batch_size", 2) * processes < 2:
        raise ExperimentError(
            f"{named('batch_size', path, given)}: expected 2 or more, found 1: an utterance alone "
            "has none to be compared with, and its contrastive loss is 0."
        )


def _check_epochs(settings: Mapping[str, Any], path: str, given: Mapping[str, Any]) -> None:
    """Refuse to test weights that nobody has trained."""
    if settings.get("number_of_epochs") == 0 and not settings.get("pretrainer"):
        raise ExperimentError(
            f"{named('number_of_epochs', path, given)}: expected 1 or more, for without a "
            "pretrainer the weights are untrained; found 0."
        )


def _check_validation(asked: str, path: str) -> None:
    """Refuse a way of validation that no corpus has; a recipe of one's own may have its own."""
    ours = read_settings(path).get("validation") in VALIDATIONS
    if ours and asked not in VALIDATIONS:
        raise ExperimentError(
            f"--validation: expected one of {', '.join(VALIDATIONS)}, found {asked!r}."
        )


def _check_folds(asked: int, path: str) -> None:
    """Refuse more folds than the YAML says that its corpus has."""
    there = read_settings(path).get("number_of_folds")
    if there is not None and asked > there:
        raise ExperimentError(
            f"--number_of_folds: expected {there} or fewer, the folds that the corpus of {path} "
            f"has; found {asked}."
        )


def _check_fold(settings: Mapping[str, Any], path: str, given: Mapping[str, Any]) -> None:
    """Refuse a fold that is none; of three manifests it is but a name."""
    fold, folds = settings.get("fold"), settings.get("number_of_folds")
    if fold is None or folds is None or settings.get("train_csv"):
        return
    if fold > folds:
        raise ExperimentError(f"{named('fold', path, given)}: expected 1 to {folds}, found {fold}.")


def _unmerged(settings: Mapping[str, Any]) -> list[str] | None:
    """Give the classes without those that are merged into others."""
    classes = settings.get("classes")
    if not settings.get("merge_calm") or not is_object(settings.get("prompts")):
        return classes
    [arguments] = settings["prompts"].values()
    return [name for name in classes or arguments["words"]["emotion"] if name not in MERGED]


def _num_classes(settings: Mapping[str, Any]) -> int | None:
    """Count the classes of a classifier; None if the experiment has none, or they have no words."""
    if "num_classes" not in settings or not is_object(settings.get("prompts")):
        return None
    [arguments] = settings["prompts"].values()
    [objective] = settings["objective"].values()
    attribute = (objective or {}).get("attribute", "emotion")
    kept = (arguments.get("only") or {}).get(attribute)
    words = kept or (arguments.get("words") or {}).get(attribute)
    return len(words) if words else None
