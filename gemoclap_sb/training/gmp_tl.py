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
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import FileTrainLogger
from torch import nn

from gemoclap_sb.data.label_store import INDEX, LabelStore
from gemoclap_sb.files import atomic_path, clear_leftovers, write_json
from gemoclap_sb.lobes.encoder_folders import write_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.audio_source import load_audio_source
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.experiment import (
    Run,
    Splits,
    build_brain,
    conduct,
    fit_and_test,
    load_pretrained,
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
from gemoclap_sb.training.run_folder import ExperimentError, read_record
from gemoclap_sb.training.split_manifests import Prepare

logger = get_logger(__name__)

WARM_UP, PSEUDO_LABELS, STAGE_ONE, STAGE_TWO = STAGES
ENCODER_WEIGHTS, STAGE_RECORD = "audio_encoder.ckpt", "stage.json"
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
        asked = run.hparams.get("stage")
        names = [asked] if asked else [STAGE_TWO] if run.run_opts.test_only else STAGES
        stages = Stages(run, splits)
        for name in names:
            stages.run_one(name)
        return stages.result


class Stages:
    """The stages of a run. They share the audio encoder, and seed all that they draw."""

    def __init__(self, run: Run, splits: Splits) -> None:
        self.run, self.splits = run, splits
        self.debug = run.run_opts.debug
        self.result: dict[str, Any] = {}
        self.encoder: nn.Module = run.hparams["modules"]["clap"].audio_encoder
        self.options = LabelOptions.of(run.hparams)
        # Of a debug run, whose stages leave nothing behind.
        self.passed: list[str] = []
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
            self.passed.append(name)
        if name != STAGE_TWO and not self.debug:
            print(f"{name}: {self.folder(name)}")

    def folder(self, name: str) -> Path:
        """Give a stage's folder."""
        return Path(self.run.hparams[_FOLDERS[name]])

    def is_finished(self, name: str) -> bool:
        """Whether a stage need not be run; ExperimentError if it is another run's and must be."""
        if name == STAGE_TWO:
            return False
        folder = self.folder(name)
        record = folder / (INDEX if name == PSEUDO_LABELS else STAGE_RECORD)
        if not record.is_file():
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

    def warm_up(self) -> None:
        """Train the encoder on emotion and gender of utterances."""
        stage = self.stage_run(WARM_UP)
        load_audio_source(stage.hparams["modules"]["clap"], stage.hparams, self.run.hparams_file)
        if epochs := stage.hparams["number_of_epochs"]:
            add_classifiers(stage.hparams)
            brain = self.brain(GEmoCLAPBrain, stage)
            brain.check_options()
            self.fit(brain)
        self.finish(WARM_UP, epochs)

    def pseudo_labels(self) -> None:
        """Label the frames of the encoder that stage one begins from."""
        if not self.run.hparams[STAGE_ONE]["number_of_epochs"]:
            return
        stage = self.stage_run(STAGE_ONE)
        self.take_encoder(stage, WARM_UP)
        rows, record = self.splits.rows, self.label_record()
        folder: str | Path = self.folder(PSEUDO_LABELS)
        with ExitStack() as stack:
            if self.debug:
                rows = {split: self.first_rows(rows[split]) for split in LABELLED}
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            options = stage.hparams["valid_batch_size"], stage.hparams["num_workers"]
            device = self.run.run_opts.device or ("cuda" if torch.cuda.is_available() else "cpu")

            def make() -> None:
                datasets = {split: self.only(split, rows[split]) for split in LABELLED}
                make_pseudo_labels(
                    folder, stage.hparams["modules"]["clap"], rows, datasets,
                    self.run.hparams["label_encoders"], self.options, record, *options, device,
                )  # fmt: skip
                if self.debug:
                    self.trial_labels = open_pseudo_labels(folder, record)

            on_main(make)

    def stage_one(self) -> None:
        """Train the encoder on the labels of frames."""
        stage = self.stage_run(STAGE_ONE)
        self.take_encoder(stage, WARM_UP)
        epochs = stage.hparams["number_of_epochs"]
        if epochs:
            store = self.trial_labels or open_pseudo_labels(
                self.folder(PSEUDO_LABELS), self.label_record()
            )
            stage.hparams["modules"]["clap"].add_scales(store.num_classes)
            self.fit(self.brain(FrameBrain, stage), self.labelled(store))
        self.finish(STAGE_ONE, epochs)

    def stage_two(self) -> None:
        """Fine-tune on emotion; the run's result is its."""
        run = self.run
        if self.debug:
            # The stages before have just left their encoder in place.
            run = replace(run, hparams={**run.hparams, "pretrainer": None})
        elif not run.run_opts.test_only:
            self.check_stage(STAGE_ONE)
        brain = build_brain(run)
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
            "checkpointer": AtomicCheckpointer(folder / "save", kept),
            "pretrainer": None,
            # Of stage two.
            "lr_audio": None,
        }
        hparams = {**self.run.hparams, **plumbing, **section}
        return replace(self.run, hparams=hparams, folder=folder)

    def brain(self, of: type[ResumableBrain], stage: Run) -> Any:
        """Make a stage's brain."""
        hparams = stage.hparams
        return of(
            hparams["modules"],
            hparams["opt_class"],
            hparams,
            self.run.run_opts,
            hparams["checkpointer"],
        )

    def take_encoder(self, stage: Run, before: str) -> None:
        """Load the encoder that a stage begins from; of a debug run it is in place."""
        if self.debug:
            return
        record = self.check_stage(before)
        load_pretrained(stage)
        if (
            stage.hparams["pretrainer"] is not None
            and weights_digest(self.encoder) != record["encoder"]
        ):
            raise ExperimentError(
                f"{self.folder(before)}: {ENCODER_WEIGHTS} does not hold what was written. Delete "
                f"the folder and run --stage {before}."
            )

    def fit(self, brain: ResumableBrain, splits: Splits | None = None) -> None:
        """Train for all epochs of a stage, or go on with it."""
        splits = splits or self.splits
        options = brain.train_loader_options(splits.rows["train"])
        brain.fit(
            brain.hparams.epoch_counter,
            splits.datasets["train"],
            splits.datasets["valid"],
            train_loader_kwargs=options,
            valid_loader_kwargs=brain.evaluation_loader_options(splits.rows["valid"]),
        )
        brain.zero_grad(set_to_none=True)
        # DDP's hooks on the encoder's parameters end with it.
        brain.modules.clear()
        gc.collect()

    def finish(self, name: str, epochs: int) -> None:
        """Hand on the encoder, and say that the stage is finished."""
        if self.debug:
            return
        folder = self.folder(name)

        def write() -> None:
            clear_leftovers(folder)
            with atomic_path(folder / ENCODER_WEIGHTS) as temporary:
                torch.save(self.encoder.state_dict(), temporary)
            if name == STAGE_ONE:
                try:
                    write_encoder(self.encoder, folder / ENCODER)
                except ValueError as error:
                    logger.info("No encoder folder for --audio_source: %s", error)
            record = {
                "stage": name,
                "epochs": epochs,
                "encoder": weights_digest(self.encoder),
                "data": self.data(),
            }
            write_json(folder / STAGE_RECORD, record)

        on_main(write)

    def label_record(self) -> dict[str, Any]:
        """Say what the labels of this run are made from, now that the encoder is loaded."""
        record = label_record(self.options, weights_digest(self.encoder), self.splits.contents)
        return {**record, "trim_db": self.run.hparams.get("trim_db")}

    def first_rows(self, rows: Mapping[str, dict]) -> dict[str, dict]:
        """Give as many rows as a debug run trains on."""
        opts = self.run.run_opts
        return dict(list(rows.items())[: opts.debug_batches * self.run.hparams["batch_size"]])

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
