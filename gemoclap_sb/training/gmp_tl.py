"""GMP-TL: three stages that teach an audio encoder, and the fine-tuning whose result counts.

    warm_up        emotion and gender of utterances, together
    pseudo_labels  clusters of the encoder's frames at several scales, combined with the gender
    stage_one      all scales' labels of each frame
    stage_two      emotion of utterances; an ordinary experiment, begun from the encoder

Each stage hands on the weights of the audio encoder, ``audio_encoder.ckpt`` in its folder, which
the next one's ``pretrainer`` in the YAML names. A stage that is finished says so in ``stage.json``
(``labels.json`` of the labels), written last, and is not run again. One whose folder lies outside
the run's is another run's: it is used as it is, if it was trained on the same rows. Of the rows,
only those of the training split are learnt from.

A recipe's ``train.py`` calls `main` with the corpus's prepare function.

Source: Pan et al., "GMP-TL", arXiv 2405.02151.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process, infer_device
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import FileTrainLogger

from gemoclap_sb.data.label_store import INDEX, LabelStore
from gemoclap_sb.evaluation.figures import draw_training_curves
from gemoclap_sb.files import atomic_path, clear_leftovers, write_json
from gemoclap_sb.lobes.encoder_folders import write_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER
from gemoclap_sb.models.frame_classifier import FrameClassifier
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.audio_source import load_audio_source, load_pretrained
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.experiment import (
    Run,
    Splits,
    build_brain,
    conduct,
    fit,
    fit_and_test,
    load_splits,
    open_run,
    write_result,
)
from gemoclap_sb.training.frame_brain import FrameBrain
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain
from gemoclap_sb.training.keys import STAGES
from gemoclap_sb.training.processes import on_main
from gemoclap_sb.training.pseudo_labels import (
    LABELLED,
    LabelOptions,
    label_record,
    make_pseudo_labels,
    open_pseudo_labels,
)
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.run_folder import STAGE_RECORD, ExperimentError, read_record
from gemoclap_sb.training.split_manifests import Prepare

logger = get_logger(__name__)

WARM_UP, PSEUDO_LABELS, STAGE_ONE, STAGE_TWO = STAGES
ENCODER_WEIGHTS, SAVE = "audio_encoder.ckpt", "save"
_RECORDS = {WARM_UP: STAGE_RECORD, PSEUDO_LABELS: INDEX, STAGE_ONE: STAGE_RECORD}
_FOLDERS = {
    WARM_UP: "warm_up_folder",
    PSEUDO_LABELS: "labels_folder",
    STAGE_ONE: "stage_one_folder",
}


def main(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> int:
    """Run the stages that are missing, or the one that ``--stage`` names; the exit status.

    Arguments and status are those of `gemoclap_sb.training.experiment.main`.
    """
    return exit_status(lambda: run_stages(prepare, argv))


def run_stages(prepare: Prepare | None = None, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run stages; returns what ``metrics.json`` holds, or nothing if the last was not asked for.

    An experiment without these stages is run as any. ExperimentError if a stage cannot start as
    asked: one before it is missing, or its folder holds that of other data.
    """
    run = open_run(argv)
    with told_resources(run.hparams, run.folder), closing(run):
        if WARM_UP not in run.hparams:
            return conduct(run, prepare)
        read = run.hparams[WARM_UP]["objective"].attributes
        splits = load_splits(run, prepare, [*read, *run.hparams["label_attributes"]])
        asked = run.hparams["stage"]
        names = [asked] if asked else [STAGE_TWO] if run.run_opts.test_only else STAGES
        stages = Stages(run, splits)
        for name in names:
            stages.run_one(name)
        return stages.result


class Stages:
    """The stages of a run; each seeds all that it draws, whatever was run before it."""

    def __init__(self, run: Run, splits: Splits) -> None:
        self.run, self.splits = run, splits
        self.debug = run.run_opts.debug
        self.result: dict[str, Any] = {}
        self.options = LabelOptions.of(run.hparams)
        # Of a debug run, whose stages leave nothing behind.
        self.trial_labels: LabelStore | None = None

    def run_one(self, name: str) -> None:
        """Run a stage unless it is finished."""
        torch.manual_seed(self.run.hparams["seed"])
        work: dict[str, Callable[[], None]] = {
            WARM_UP: self.warm_up,
            PSEUDO_LABELS: self.pseudo_labels,
            STAGE_ONE: self.stage_one,
            STAGE_TWO: self.stage_two,
        }
        if self.debug or not self.is_finished(name):
            logger.info("%s", name)
            work[name]()
        if name != STAGE_TWO and not self.debug and if_main_process():
            print(f"{name}: {self.folder(name)}")

    def folder(self, name: str) -> Path:
        """Give a stage's folder."""
        return Path(self.run.hparams[_FOLDERS[name]])

    def is_finished(self, name: str) -> bool:
        """Whether a stage need not be run; ExperimentError if it is another run's and must be."""
        if name == STAGE_TWO:
            return False
        if name == PSEUDO_LABELS and self.run.hparams["stage"] != name and self.needs_no_labels():
            return True
        folder = self.folder(name)
        if not (folder / _RECORDS[name]).is_file():
            if not folder.resolve().is_relative_to(self.run.folder.resolve()):
                raise ExperimentError(
                    f"--{_FOLDERS[name]} {folder} has no finished {name}, and lies outside of this "
                    f"run ({self.run.folder}): give the run's own command that makes it, or leave "
                    "the option out."
                )
            return False
        if name == PSEUDO_LABELS:
            # Compared with what they were made from when they are made or read.
            return False
        self.check_stage(name)
        return True

    def needs_no_labels(self) -> bool:
        """Whether stage one, which they are for, is finished or has no epochs."""
        return not self.epochs(STAGE_ONE) or self.is_finished(STAGE_ONE)

    def check_stage(self, name: str) -> dict[str, Any]:
        """Read what a stage before left; ExperimentError if it is not finished or of other data."""
        folder = self.folder(name)
        if not (folder / STAGE_RECORD).is_file():
            raise ExperimentError(
                f"{folder} has no finished {name}: run --stage {name} first, or all stages "
                "without --stage."
            )
        record = read_record(folder / STAGE_RECORD)
        if record["data"] != self.data():
            raise ExperimentError(
                f"{folder} was trained on other rows than those of this run's training and "
                "validation manifests (another fold, perhaps). Give the stage of the same fold and "
                f"data by --{_FOLDERS[name]}, or leave it out."
            )
        return record

    def data(self) -> dict[str, Any]:
        """Say which rows the stages have."""
        return {split: self.splits.contents[split] for split in LABELLED}

    def epochs(self, name: str) -> int:
        """Give the epochs of a stage before the last."""
        return self.run.hparams[name]["number_of_epochs"]

    def warm_up(self) -> None:
        """Train the encoder on emotion and gender of utterances."""
        stage = self.stage_run(WARM_UP)
        load_audio_source(stage.hparams["modules"]["clap"], stage.hparams, stage.hparams_file)
        if self.epochs(WARM_UP):
            add_classifiers(stage.hparams)
            self.train(GEmoCLAPBrain, stage, self.splits)
        self.hand_on(WARM_UP, stage)

    def pseudo_labels(self) -> None:
        """Label the frames of the encoder that stage one begins from."""
        if not self.epochs(STAGE_ONE):
            raise ExperimentError("--stage pseudo_labels: with stage_one_epochs 0 none are needed.")
        stage = self.stage_run(STAGE_ONE)
        model = self.begin(stage, WARM_UP)
        if not self.debug:
            self.make_labels(stage, model, self.folder(PSEUDO_LABELS), self.splits.rows)
            return
        rows = {split: self.first_rows(self.splits.rows[split]) for split in LABELLED}
        with tempfile.TemporaryDirectory() as folder:
            self.trial_labels = self.make_labels(stage, model, Path(folder), rows)

    def make_labels(
        self, stage: Run, model: FrameClassifier, folder: Path, rows: Mapping[str, dict]
    ) -> LabelStore | None:
        """Label the frames of rows; of a debug run, give the labels to all processes."""
        record = self.label_record(model)
        options = stage.hparams["valid_batch_size"], stage.hparams["num_workers"]
        device = stage.run_opts.device or infer_device()

        def make() -> LabelStore | None:
            datasets = {split: self.only(split, rows[split]) for split in LABELLED}
            make_pseudo_labels(
                folder, model, rows, datasets, stage.hparams["label_encoders"], self.options,
                record, *options, device,
            )  # fmt: skip
            return open_pseudo_labels(folder, record) if self.debug else None

        return on_main(make)

    def stage_one(self) -> None:
        """Train the encoder on the labels of frames."""
        stage = self.stage_run(STAGE_ONE)
        model = self.begin(stage, WARM_UP)
        if self.epochs(STAGE_ONE):
            store = self.trial_labels
            if store is None:
                store = open_pseudo_labels(self.folder(PSEUDO_LABELS), self.label_record(model))
            model.add_scales(store.num_classes)
            self.train(FrameBrain, stage, self.labelled(store))
        self.hand_on(STAGE_ONE, stage)

    def stage_two(self) -> None:
        """Fine-tune on emotion; the run's result is its."""
        run = self.run
        # Of a debug run the encoder is in place; what is tested has its checkpoint.
        if begins := not (self.debug or run.run_opts.test_only):
            record = self.check_stage(STAGE_ONE)
        else:
            run = replace(run, hparams={**run.hparams, "pretrainer": None})
        brain = build_brain(run)
        if begins and run.hparams.get("pretrainer") is not None:
            self.check_encoder(brain.model, STAGE_ONE, record)
        history, assessment = fit_and_test(brain, self.splits)
        self.result = write_result(run, self.splits, brain, history, assessment)

    def stage_run(self, name: str) -> Run:
        """Make a stage a run of its own, in its folder, with the keys of its section."""
        folder, section = self.folder(name), self.run.hparams[name]
        folder.mkdir(parents=True, exist_ok=True)
        counter, history = EpochCounter(section["number_of_epochs"]), History()
        kept = {"clap": section["modules"]["clap"], "epoch_counter": counter, "history": history}
        plumbing = {
            "select_by": "epoch",
            "epoch_counter": counter,
            "history": history,
            "train_logger": FileTrainLogger(folder / "train_log.txt"),
            "checkpointer": AtomicCheckpointer(folder / SAVE, kept),
            "pretrainer": None,
            # Of stage two.
            "lr_audio": None,
        }
        hparams = {**self.run.hparams, **plumbing, **section}
        return replace(self.run, hparams=hparams, folder=folder)

    def begin(self, stage: Run, before: str) -> FrameClassifier:
        """Load the encoder that a stage begins from; of a debug run it is in place."""
        model = stage.hparams["modules"]["clap"]
        if not self.debug:
            record = self.check_stage(before)
            load_pretrained(stage.hparams, stage.hparams_file)
            if stage.hparams["pretrainer"] is not None:
                self.check_encoder(model, before, record)
        return model

    def check_encoder(self, model: Any, before: str, record: Mapping[str, Any]) -> None:
        """Refuse an encoder that is not the one that a stage has left."""
        if weights_digest(model.audio_encoder) != record["encoder"]:
            raise ExperimentError(
                f"{self.folder(before)}: {ENCODER_WEIGHTS} does not hold what was written, or the "
                f"pretrainer loads another file. Delete the folder and run --stage {before}."
            )

    def train(self, of: type[ResumableBrain], stage: Run, splits: Splits) -> None:
        """Train for all epochs of a stage, or go on with it."""
        hparams = stage.hparams
        modules, make, keeps = (hparams[key] for key in ("modules", "opt_class", "checkpointer"))
        brain = of(modules, make, hparams, stage.run_opts, keeps)
        if isinstance(brain, GEmoCLAPBrain):
            brain.check_options()
        fit(brain, splits)
        brain.zero_grad(set_to_none=True)
        # DDP's hooks on the encoder's parameters end with it.
        brain.modules.clear()
        gc.collect()

    def hand_on(self, name: str, stage: Run) -> None:
        """Leave the encoder to the next stage, and say that this one is finished."""
        if self.debug:
            return
        folder, encoder = stage.folder, stage.hparams["modules"]["clap"].audio_encoder

        def write() -> None:
            clear_leftovers(folder)
            with atomic_path(folder / ENCODER_WEIGHTS) as temporary:
                torch.save(encoder.state_dict(), temporary)
            if name == STAGE_ONE:
                try:
                    write_encoder(encoder, folder / ENCODER)
                except ValueError as error:
                    logger.warning("%s: no %s/ for --audio_source: %s", folder, ENCODER, error)
            if history := stage.hparams["history"].records:
                draw_training_curves(history, folder / "training.png")
            record = {
                "stage": name,
                "epochs": self.epochs(name),
                "encoder": weights_digest(encoder),
                "data": self.data(),
            }
            write_json(folder / STAGE_RECORD, record)
            # Several times as large, and of no more use.
            shutil.rmtree(folder / SAVE)

        on_main(write)

    def label_record(self, model: FrameClassifier) -> dict[str, Any]:
        """Say what the labels of this run are made from, now that the encoder is loaded."""
        encoder = weights_digest(model.audio_encoder)
        record = label_record(self.options, encoder, self.splits.contents)
        return {**record, "trim_db": model.trim_db}

    def first_rows(self, rows: Mapping[str, dict]) -> dict[str, dict]:
        """Give as many rows as a debug run trains on."""
        count = self.run.run_opts.debug_batches * self.run.hparams["batch_size"]
        return dict(list(rows.items())[:count])

    def labelled(self, store: LabelStore) -> Splits:
        """Give the splits with ``frame_labels``, of the utterances that have some."""
        rows, datasets = {}, {}
        for split in LABELLED:
            of = self.splits.rows[split]
            rows[split] = {name: row for name, row in of.items() if name in store.spans}
            datasets[split] = self.only(split, rows[split])
            datasets[split].add_dynamic_item(store.of, takes="id", provides="frame_labels")
            datasets[split].set_output_keys(["id", "sig", "frame_labels"])
        return replace(self.splits, rows=rows, datasets=datasets)

    def only(self, split: str, rows: Mapping[str, dict]) -> DynamicItemDataset:
        """Give a dataset of some rows of a split."""
        return self.splits.datasets[split].filtered_sorted(key_test={"id": rows.__contains__})
