"""The folders of GMP-TL's stages: what a finished one says of itself, whether it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemoclap_sb.data.label_store import INDEX
from gemoclap_sb.lobes.encoder_folders import encoder_description
from gemoclap_sb.training.differing import spelled_out
from gemoclap_sb.training.keys import STAGES
from gemoclap_sb.training.opening import Run
from gemoclap_sb.training.pseudo_labels import LABELLED, LabelOptions
from gemoclap_sb.training.references import read_references
from gemoclap_sb.training.run_folder import EARLIER_STAGES, STAGE_RECORD, read_record
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.splits import Splits

WARM_UP, PSEUDO_LABELS, STAGE_ONE, STAGE_TWO = STAGES
ENCODER_WEIGHTS = "audio_encoder.ckpt"
# Keys of the folders.
KEYS = {
    WARM_UP: "warm_up_folder",
    PSEUDO_LABELS: "labels_folder",
    STAGE_ONE: "stage_one_folder",
}
# Of a run, and no knobs of its stages.
_OWN = frozenset({"experiment", "fold", "seed", *EARLIER_STAGES})


class StageFolders:
    """Where the stages of a run lie; a debug run's are all in its ``trial`` folder.

    ExperimentError if one lies in the run's folder under a name of its own: a run that goes on
    would not find it.
    """

    def __init__(self, run: Run, splits: Splits, trial: Path | None = None) -> None:
        self.run, self.splits, self.trial = run, splits, trial
        self.references = read_references(run.hparams_file)
        for name, key in KEYS.items():
            folder, own = self.folder(name).resolve(), run.folder.resolve()
            if trial is None and folder.is_relative_to(own) and folder != own / name:
                raise ExperimentError(
                    f"--{key}: expected {run.folder / name}, or a folder of another run; found "
                    f"{self.folder(name)}."
                )

    def folder(self, name: str) -> Path:
        """Give a stage's folder."""
        return self.trial / name if self.trial else Path(self.run.hparams[KEYS[name]])

    def record(self, name: str) -> Path:
        """Give the file that is there when a stage is finished."""
        return self.folder(name) / (INDEX if name == PSEUDO_LABELS else STAGE_RECORD)

    def is_own(self, name: str) -> bool:
        """Whether a stage is this run's own, or another's."""
        folder = self.folder(name).resolve()
        return self.trial is not None or folder.is_relative_to(self.run.folder.resolve())

    def is_there(self, name: str) -> bool:
        """Whether a stage is finished; ExperimentError if it is not, and another run's."""
        folder = self.folder(name)
        if not self.record(name).is_file():
            if not self.is_own(name):
                raise ExperimentError(
                    f"--{KEYS[name]} {folder} has no finished {name}, and lies outside of this "
                    f"run ({self.run.folder}): give the run's own command that makes it, or leave "
                    "the option out."
                )
            return False
        if name != PSEUDO_LABELS:
            self.check_stage(name)
        return True

    def check_stage(self, name: str) -> dict[str, Any]:
        """Read what a stage before left; ExperimentError if it is not finished or of other data."""
        folder = self.folder(name)
        for path in (folder / STAGE_RECORD, folder / ENCODER_WEIGHTS):
            if not path.is_file():
                raise ExperimentError(
                    f"{folder} has no finished {name} ({path.name} is missing): run --stage {name} "
                    "first, or all stages without --stage."
                )
        record = read_record(folder / STAGE_RECORD)
        instead = f"Give the stage of the same by --{KEYS[name]}, or leave it out."
        if record["data"] != self.data():
            raise ExperimentError(
                f"{folder} was trained on other rows than those of this run's training and "
                f"validation manifests (another fold, perhaps). {instead}"
            )
        lobe = encoder_description(self.run.hparams[name]["modules"]["clap"].audio_encoder)
        if differing := _differing(record["lobe"], lobe):
            raise ExperimentError(
                f"{folder} has an encoder of another kind: {differing}. {instead}"
            )
        return record

    def differing(self, name: str, record: Mapping[str, Any]) -> str:
        """Tell what a stage was made with, where this run says otherwise."""
        return _differing(record["settings"], self.settings(name))

    def data(self) -> dict[str, Any]:
        """Say which rows the stages have."""
        return {split: self.splits.contents[split] for split in LABELLED}

    def settings(self, name: str) -> dict[str, Any]:
        """Give the knobs that a stage and those before it have, as the run has them."""
        keys = set(self.references[name])
        if name == STAGE_ONE:
            keys |= {*self.references[WARM_UP], *LabelOptions.__dataclass_fields__}
        return {
            key: of
            for key, of in self.run.settings.items()
            if key in keys - _OWN and not key.endswith("_folder")
        }


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Tell in which values two differ."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(spelled_out(key, before.get(key), now.get(key)) for key in keys)
