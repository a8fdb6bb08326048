"""What a training begins from: an audio encoder that another run has trained, a pretrainer's files.

An encoder is asked what it has heard.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from pickle import UnpicklingError
from typing import Any

from torch import nn

from gemoclap_sb.lobes.encoder_folders import EncoderFolderError, load_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER, encoder_folder
from gemoclap_sb.training.references import read_references
from gemoclap_sb.training.run_folder import EARLIER_STAGES, SETTINGS, read_record, recorded_manifest
from gemoclap_sb.training.settings import ExperimentError

Rows = Mapping[str, Mapping[str, Any]]
# Keys that name what another run has trained.
_SOURCES = ("audio_source", *(f"{stage}_folder" for stage in EARLIER_STAGES))


def load_audio_source(model: nn.Module, hparams: Mapping[str, Any], hparams_file: str) -> None:
    """Fill a model's audio lobe from ``audio_source``, if there is one.

    An SSLEncoder, as any lobe whose arguments refer to that key, has done so by itself.
    ExperimentError if it cannot be.
    """
    source = hparams.get("audio_source")
    if not source or is_argument(read_references(hparams_file)):
        return
    try:
        load_encoder(getattr(model, "audio_encoder", model), source)
    except EncoderFolderError as error:
        raise ExperimentError(f"--audio_source {source}: {error}.") from error


def load_pretrained(hparams: Mapping[str, Any], hparams_file: str) -> None:
    """Load what the ``pretrainer`` names, if there is one; ExperimentError if it cannot be."""
    pretrainer = hparams.get("pretrainer")
    if pretrainer is None:
        return
    try:
        pretrainer.collect_files()
        pretrainer.load_collected()
    except (OSError, ValueError, RuntimeError) as error:
        raise ExperimentError(f"{hparams_file}: pretrainer: {error}") from error
    except (EOFError, UnpicklingError) as error:
        # torch's words for it advise to let the file run code.
        raise ExperimentError(
            f"{hparams_file}: pretrainer: a file of {pretrainer.paths} is damaged, or holds more "
            "than tensors."
        ) from error


def is_argument(references: Mapping[str, Any]) -> bool:
    """Whether the model of a YAML refers to ``audio_source``, so that it cannot be null."""
    return "audio_source" in references.get("modules", ())


def source_notes(hparams: Mapping[str, Any], rows: Mapping[str, Rows]) -> list[str]:
    """Say in notes which of the tested utterances and speakers ``audio_source`` was trained on.

    So too the stages of another run that this one begins from. ``rows`` are this run's by split. A
    run that itself began from another has heard that one's too. Speakers whom this run is trained
    on anyway are not told.
    """
    utterances: set[tuple[str, str]] = set()
    speakers: set[str] = set()
    notes = []
    for run in _runs(hparams):
        try:
            trained = recorded_manifest(run, "train")
        except ExperimentError as error:
            notes.append(f"audio_source: whether it has heard what is tested is unknown: {error}")
            continue
        utterances |= _utterances(trained)
        speakers |= _speakers(trained)
    tested = _utterances(rows["test"])
    if heard := utterances & tested:
        notes.append(
            f"audio_source was trained on {len(heard)} of the {len(tested)} utterances that are "
            f"tested, first {min(heard)[0]}."
        )
    spoken = _speakers(rows["test"])
    if known := spoken & speakers - _speakers(rows["train"]):
        notes.append(
            f"audio_source was trained on {len(known)} of the {len(spoken)} speakers that are "
            f"tested, first {min(known)}."
        )
    return notes


def _runs(hparams: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the runs that one begins from, and those before them; its own stages are none."""
    seen = {Path(hparams["output_folder"]).absolute()} if "output_folder" in hparams else set()
    waiting = [hparams.get(key) for key in _SOURCES]
    while waiting:
        run = _run_of(waiting.pop(0))
        if run is None or run in seen:
            continue
        seen.add(run)
        settings = read_record(run / SETTINGS) if (run / SETTINGS).is_file() else {}
        if settings or (run / "manifests").is_dir():
            yield run
        waiting += [settings.get(key) for key in _SOURCES]


def _run_of(source: str | None) -> Path | None:
    """Find the run that has trained an encoder, or a stage of which this is the folder."""
    if not source:
        return None
    folder = Path(os.path.abspath(encoder_folder(source)))
    if folder.name == ENCODER:
        folder = folder.parent
    elif folder.name not in EARLIER_STAGES:
        return None
    run = folder.parent if folder.name in EARLIER_STAGES else folder
    return run if folder.is_dir() else None


def _utterances(rows: Rows) -> set[tuple[str, str]]:
    """By ID and file: a corpus may lie elsewhere by now, or in another format."""
    return {(str(name), PurePath(row["wav"]).stem) for name, row in rows.items()}


def _speakers(rows: Rows) -> set[str]:
    return {str(row["spk_id"]) for row in rows.values() if row.get("spk_id")}
