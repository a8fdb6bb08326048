"""An experiment on any corpus that has a manifest: what its YAML says of a corpus is replaced.

Classes, words, heads and number of folds follow from ``manifest``, ``fold_column`` and ``words``,
and become overrides of the YAML, so that all that records an experiment records them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperpyyaml.core import recursive_update
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gemoclap_sb.data.folds import assign_folds, needed_columns, prepare_manifest
from gemoclap_sb.data.manifests import LabelError, ManifestError, read_cells
from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.data.words import Words, check_words, own_words, read_words
from gemoclap_sb.training.settings import ExperimentError, read_overrides, read_settings

_OPTIONS = frozenset({"validation", "seed", "valid_fraction", "valid_session", "valid_speakers"})
_SPEAKER = "spk_id"
LABELS = (
    "Labels of your own are named by --words words.yaml, which goes with --manifest, or by the "
    "prompts of the YAML."
)
EMOTION_ALONE = (
    "Add it, or train Emo-CLAP, which reads emotion alone: an emo_*.yaml of the recipes, such as "
    "hparams/emo_scratch.yaml. GMP-TL does so with --alpha_e 1 --label_attributes []."
)


def with_manifest(hparams_file: str, overrides: str | Mapping[str, Any]) -> dict[str, Any]:
    """Complete the overrides of an experiment's YAML by what follows from its ``manifest``.

    They are returned as they came where none is given. ExperimentError says what in the
    manifest, the words or the options does not fit.
    """
    given = read_overrides(overrides) if isinstance(overrides, str) else dict(overrides)
    settings = read_settings(hparams_file, given)
    if not settings.get("manifest"):
        if alone := [key for key in ("fold_column", "words") if key in given]:
            raise ExperimentError(f"--{alone[0]} goes with --manifest, which is not given.")
        return given
    _check_options(settings, given)
    rows = _read(settings)
    try:
        folds = set(assign_folds(rows, settings["fold_column"], _groups(settings)).values())
    except ValueError as error:
        raise ExperimentError(f"{settings['manifest']}: {error}") from error
    try:
        words = _words(settings, rows)
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    if "number_of_folds" in given and given["number_of_folds"] != len(folds):
        raise ExperimentError(
            f"--number_of_folds {given['number_of_folds']}: {settings['manifest']} has "
            f"{len(folds)} values of {settings['fold_column']}, a fold each. Leave it out, or "
            f"make groups of speakers with --fold_column {_SPEAKER}."
        )
    if words.heads and (twice := [key for key in ("weights", "heads") if key in given]):
        raise ExperimentError(
            f"--{twice[0]}: {settings['words']} has heads, from which weights follow. Give one."
        )
    own = {"number_of_folds": len(folds), "prompts": _prompts(words), **_heads(words, settings)}
    recursive_update(given, own)
    _check_prompts(hparams_file, given, settings)
    return given


def manifest_preparation(
    hparams: Mapping[str, Any], columns: Sequence[str]
) -> tuple[Callable[..., Mapping], str]:
    """Give the function that prepares a fold of the manifest, and the data folder.

    ExperimentError if the manifest lacks one of the ``columns`` that the experiment reads.
    """
    manifest = Path(hparams["manifest"])
    present = list(read_cells(manifest, ("ID",))[0])
    if missing := [name for name in columns if name not in present]:
        raise ExperimentError(
            f"{manifest} has no column {', '.join(missing)}, which this experiment reads (its "
            f"columns: {', '.join(present)}). {EMOTION_ALONE}"
        )
    words = hparams["prompts"].words
    classes = {name: list(words[name]) for name in columns if name in words}

    def prepare(data_folder: str, save_folder: str, fold: int, **options: Any) -> Mapping:
        try:
            return prepare_manifest(
                data_folder,
                save_folder,
                fold,
                manifest=manifest,
                fold_column=hparams["fold_column"],
                number_of_folds=_groups(hparams),
                classes=classes,
                skip_bad_audio=hparams["skip_bad_audio"],
                **{key: value for key, value in options.items() if key in _OPTIONS},
            )
        except LabelError as error:
            raise LabelError(f"{error}. {LABELS}") from error

    return prepare, str(hparams.get("data_folder") or manifest.absolute().parent)


def _check_options(settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if other := [key for key in ("train_csv", "valid_csv", "test_csv") if settings.get(key)]:
        raise ExperimentError(f"give --manifest or --{other[0]}, not both.")
    options = settings.get("prepare_options") or {}
    if foreign := [key for key in options if given.get(key) and key not in _OPTIONS]:
        raise ExperimentError(
            f"{foreign[0]} is an option of the recipe's own corpus; it does nothing for --manifest."
        )
    if not Path(settings["manifest"]).exists():
        raise ExperimentError(
            f"--manifest: no file {settings['manifest']} (seen from {Path.cwd()})."
        )


def _read(settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """Read the manifest without its audio."""
    manifest, column = settings["manifest"], settings["fold_column"]
    try:
        present = list(read_cells(manifest, ("ID", "wav", "emotion"))[0])
        if column not in present:
            raise ExperimentError(
                f"{manifest} has no column {column} to make folds of (its columns: "
                f"{', '.join(present)}). Name another with --fold_column; --fold_column {_SPEAKER} "
                "--number_of_folds K makes K groups of speakers."
            )
        # A preparation has a way of validation unless it is told one.
        validation = (settings.get("prepare_options") or {}).get("validation", "random")
        return read_cells(manifest, needed_columns(column, validation))
    except ManifestError as error:
        raise ExperimentError(str(error)) from error


def _groups(settings: Mapping[str, Any]) -> int | None:
    """Give the number of folds, where it does not follow from the column."""
    return settings["number_of_folds"] if settings["fold_column"] == _SPEAKER else None


def _words(settings: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> Words:
    if not settings.get("words"):
        [arguments] = settings["prompts"].values()
        return Words(own_words(rows, arguments["words"]["emotion"]), {}, [])
    words = read_words(settings["words"])
    check_words(words.words, rows, settings["words"], settings["manifest"])
    return words


def _heads(words: Words, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Override what is learnt beside emotion, in equal parts; Emo-CLAP learns nothing else."""
    if not words.heads or "weights" not in settings:
        return {}
    part = (1 - settings["alpha_e"]) / (len(words.heads) - 1)
    # Overrides are merged: what is no head any more weighs nothing.
    weights = dict.fromkeys([*settings["weights"], *words.heads], 0.0)
    weights |= dict.fromkeys(words.heads, part) | {"emotion": settings["alpha_e"]}
    # ML-GEmo-CLAP has embeddings, and so prompts, for each.
    return {"weights": weights, **({"heads": words.heads} if "heads" in settings else {})}


def _prompts(words: Words) -> dict[str, Any]:
    """Override ``prompts``: words of the manifest's labels, and no others."""
    # In quotes, a label or a word stays text in the YAML that is made of it.
    quoted = DoubleQuotedScalarString
    return {
        "words": {
            name: {quoted(label): quoted(word) for label, word in of.items()}
            for name, of in words.words.items()
        },
        "only": {name: [quoted(label) for label in of] for name, of in words.words.items()},
        "templates": {name: [quoted(line) for line in of] for name, of in words.templates.items()},
    }


def _check_prompts(
    hparams_file: str, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Make the prompts once, so that an error names the file that the words are from."""
    resolved = read_settings(hparams_file, given)
    [arguments] = resolved["prompts"].values()
    try:
        prompts = Prompts(**arguments)
        if bare := [head for head in resolved.get("heads", ()) if head not in prompts.templates]:
            raise ValueError(
                f"templates: none for {bare[0]}, a head; expected such as "
                f'{bare[0]}: ["this person is {{}}"].'
            )
    except ValueError as error:
        raise ExperimentError(
            f"{settings.get('words') or settings['manifest']}: {error}"
        ) from error
