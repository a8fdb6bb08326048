"""The three manifests of an experiment: found, prepared, read.

They are the user's own, or a preparation writes them, of a corpus or of one manifest of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemoclap_sb.data.csv_rows import MissingColumnError
from gemoclap_sb.data.manifests import LabelError, read_manifest
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.training.own_manifest import EMOTION_ALONE, LABELS, manifest_preparation
from gemoclap_sb.training.own_speakers import speakers_preparation
from gemoclap_sb.training.resources import FULL
from gemoclap_sb.training.settings import ExperimentError, told_permissions

Prepare = Callable[..., Mapping]


@told_permissions()
def check_data(settings: Mapping[str, Any]) -> None:
    """Refuse settings that name no data, or data that are not there; ExperimentError.

    A ``manifest`` or ``speakers_csv`` has been read before.
    """
    given = {f"--{split}_csv": settings.get(f"{split}_csv") for split in SPLITS}
    if any(given.values()):
        if missing := [key for key, path in given.items() if not path]:
            raise ExperimentError(
                f"give all three manifests or none: {' and '.join(missing)} missing."
            )
        for key, path in given.items():
            if not Path(path).is_file():
                raise ExperimentError(f"{key}: no file {path} (seen from {Path.cwd()}).")
    if any(given.values()) or settings.get("manifest") or settings.get("speakers_csv"):
        return
    if "speakers_csv" in settings:
        raise ExperimentError("no data: give --speakers_csv, a manifest with a column spk_id.")
    options = settings.get("prepare_options") or {}
    corpora = {key: of for key, of in options.items() if key.endswith("_folder")}
    places = corpora or {"data_folder": settings.get("data_folder")}
    if not all(places.values()):
        raise ExperimentError(no_data(places))
    for key, folder in places.items():
        if "make_corpus" not in settings and not Path(folder).is_dir():
            raise ExperimentError(f"--{key}: no folder {folder} (seen from {Path.cwd()}).")


def no_data(keys: Iterable[str] = ("data_folder",)) -> str:
    """Say how data are given; ``keys`` are those of the corpora's folders."""
    return (
        f"no data: give --{' and --'.join(keys)}, one manifest of a corpus with --manifest, or "
        "three with --train_csv, --valid_csv and --test_csv."
    )


def find_manifests(hparams: Mapping, prepare: Prepare | None, columns: Sequence[str]) -> dict:
    """Find the three manifests; returns their paths, and what the preparation said of them.

    ExperimentError if they cannot be prepared. `check_data` has looked whether there are data.
    """
    given = {f"{split}_csv": hparams.get(f"{split}_csv") for split in SPLITS}
    data_folder = hparams.get("data_folder") or None
    if any(given.values()):
        return {**given, "data_root": data_folder, "validation": None, "notes": []}
    if hparams.get("manifest"):
        return _prepared(hparams, *manifest_preparation(hparams, columns))
    if hparams.get("speakers_csv"):
        return _prepared(hparams, *speakers_preparation(hparams))
    if prepare is None or not data_folder:
        raise ExperimentError(no_data())
    if "make_corpus" in hparams:
        try:
            hparams["make_corpus"](folder=data_folder)
        except FileExistsError as error:
            raise ExperimentError(f"--data_folder: {error}") from error
    return _prepared(hparams, prepare, data_folder)


def _prepared(hparams: Mapping, prepare: Prepare, data_folder: str) -> dict:
    """Have the three manifests written."""
    options = hparams.get("prepare_options", {})
    arguments = {
        "data_folder": data_folder,
        "save_folder": str(Path(hparams["output_folder"]) / "manifests"),
        "fold": hparams["fold"],
        **options,
    }
    try:
        prepared = dict(prepare(**arguments))
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise ExperimentError(f"data preparation: {error}") from error
    return {"notes": [], "validation": options.get("validation"), **prepared}


def read_splits(
    manifests: Mapping, hparams: Mapping, columns: Sequence[str]
) -> dict[str, dict[str, dict]]:
    """Read the manifests and check their audio: rows by split and ID."""
    words = hparams["prompts"].words
    try:
        return {
            split: read_manifest(
                manifests[f"{split}_csv"],
                data_root=manifests["data_root"],
                classes={name: list(words[name]) for name in columns if name in words},
                skip_bad_audio=hparams["skip_bad_audio"],
                required=columns,
            )
            for split in SPLITS
        }
    except LabelError as error:
        raise LabelError(f"{error}. {LABELS}") from error
    except MissingColumnError as error:
        hint = f" {EMOTION_ALONE}" if {"ID", "wav", "emotion"}.isdisjoint(error.missing) else ""
        raise MissingColumnError(f"{error}{hint}", error.missing) from error
