"""An experiment whose classes are the speakers of a manifest, whoever they are.

Classes and their number follow from ``speakers_csv``, and become overrides of the YAML, so that
all that records an experiment records them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperpyyaml.core import recursive_update
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gemoclap_sb.data.manifests import ManifestError, read_cells
from gemoclap_sb.data.speaker_folds import (
    COLUMNS,
    LEAST_UTTERANCES,
    known_speakers,
    prepare_speakers,
)
from gemoclap_sb.training.settings import ExperimentError

_SPEAKER = "spk_id"


def with_speakers(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the overrides of a YAML by the speakers of its ``speakers_csv``.

    ExperimentError if there is no such file, no column of speakers, or one speaker alone.
    """
    manifest = settings["speakers_csv"]
    if not Path(manifest).is_file():
        raise ExperimentError(f"--speakers_csv: no file {manifest} (seen from {Path.cwd()}).")
    try:
        speakers = known_speakers(read_cells(manifest, COLUMNS))
    except ManifestError as error:
        raise ExperimentError(f"--speakers_csv: {error}") from error
    if len(speakers) < 2:
        raise ExperimentError(
            f"--speakers_csv: {manifest} has {len(speakers)} speakers of {LEAST_UTTERANCES} "
            f"utterances or more in {_SPEAKER}; expected two or more, to be told from each other."
        )
    # In quotes, a number stays text in the YAML that is made of it.
    quoted = [DoubleQuotedScalarString(name) for name in speakers]
    completed = dict(given)
    recursive_update(completed, {"prompts": {"words": {_SPEAKER: {name: name for name in quoted}}}})
    return completed


def speakers_preparation(hparams: Mapping[str, Any]) -> tuple[Callable[..., Mapping], str]:
    """Give the function that prepares a fold of the speakers' utterances, and the data folder."""
    manifest = Path(hparams["speakers_csv"])

    def prepare(data_folder: str, save_folder: str, fold: int, **options: Any) -> Mapping:
        return prepare_speakers(
            data_folder,
            save_folder,
            fold,
            manifest=manifest,
            number_of_folds=hparams["number_of_folds"],
            skip_bad_audio=hparams["skip_bad_audio"],
            seed=hparams["seed"],
        )

    return prepare, str(hparams.get("data_folder") or manifest.absolute().parent)
