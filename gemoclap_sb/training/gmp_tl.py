"""GMP-TL: three stages that teach an audio encoder, and the fine-tuning whose result counts.

    warm_up        emotion and gender of utterances, together
    pseudo_labels  clusters of the encoder's frames at several scales, combined with the gender
    stage_one      all scales' labels of each frame
    stage_two      emotion of utterances; an ordinary experiment, begun from the encoder

Each stage hands on the weights of the audio encoder, ``audio_encoder.ckpt`` in its folder, which
the next one's ``pretrainer`` in the YAML names. A stage that is finished says so in ``stage.json``
(``labels.json`` of the labels), written last, and is not run again. One whose folder lies outside
the run's is another run's: it is used as it is, if it was trained on the same rows, and the result
notes what it was made with that this run says otherwise. Of the rows, only those of the training
split are learnt from.

A recipe's ``train.py`` calls `main` with the corpus's prepare function.

Source: Pan et al., "GMP-TL", arXiv 2405.02151.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from gemoclap_sb.data.label_store import LabelStore
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.evaluation.figures import draw_training_curves
from gemoclap_sb.files import atomic_path, clear_leftovers, write_json
from gemoclap_sb.lobes.encoder_folders import encoder_description, write_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER
from gemoclap_sb.models.frame_classifier import FrameClassifier
from gemoclap_sb.training.agreement import add_classifiers
from gemoclap_sb.training.audio_source import load_audio_source, load_pretrained
from gemoclap_sb.training.brain import ResumableBrain
from gemoclap_sb.training.checkpoint_files import weights_digest
from gemoclap_sb.training.checkpoints import AtomicCheckpointer, History
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.experiment import (
    build_brain,
    conduct,
    fit,
    fit_and_test,
    write_result,
)
from gemoclap_sb.training.frame_brain import FrameBrain
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain
from gemoclap_sb.training.keys import STAGES
from gemoclap_sb.training.opening import Run, open_run
from gemoclap_sb.training.processes import on_main
from gemoclap_sb.training.pseudo_labels import (
    LABELLED,
    LabelOptions,
    label_record,
    make_pseudo_labels,
    open_pseudo_labels,
)
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.run_folder import STAGE_RECORD
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.split_manifests import Prepare
from gemoclap_sb.training.splits import Splits, load_splits
from gemoclap_sb.training.stage_folders import (
    ENCODER_WEIGHTS,
    PSEUDO_LABELS,
    STAGE_ONE,
    STAGE_TWO,
    WARM_UP,
    StageFolders,
)

logger = get_logger(__name__)

SAVE = "save"


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
    with told_resources(run.hparams, run.folder), closing(run), trial_folder(run) as trial:
        hparams, options = run.hparams, run.run_opts
        if WARM_UP not in hparams:
            return conduct(run, prepare)
        asked = hparams["stage"]
        if asked and options.debug:
            raise ExperimentError("--debug tries all stages: leave --stage out.")
        if asked not in (None, STAGE_TWO) and options.test_only:
            raise ExperimentError(f"--test_only tests stage_two: leave --stage {asked} out.")
        labels = []
        if hparams[WARM_UP]["number_of_epochs"]:
            labels += hparams[WARM_UP]["objective"].attributes
        if hparams[STAGE_ONE]["number_of_epochs"]:
            labels += hparams["label_attributes"]
        stages = Stages(run, load_splits(run, prepare, labels), trial)
        for name in [asked] if asked else [STAGE_TWO] if options.test_only else STAGES:
            stages.run_one(name)
        return stages.result


@contextlib.contextmanager
def trial_folder(run: Run) -> Iterator[Path | None]:
    """Give all processes of a debug run a folder for its stages, which leave nothing behind."""
    if not run.run_opts.debug:
        yield None
        return
    folder = on_main(tempfile.mkdtemp)
    try:
        yield Path(folder)
    finally:
        if if_main_process():
            shutil.rmtree(folder, ignore_errors=True)


class Stages:
    """The stages of a run; each seeds all that it draws, whatever was run before it.

    ``trial`` is a debug run's folder for them. There the encoder passes from stage to stage in
    memory.
    """

    def __init__(self, run: Run, splits: Splits, trial: Path | None = None) -> None:
        self.run, self.splits, self.trial = run, splits, trial
        self.folders = StageFolders(run, splits, trial)
        self.result: dict[str, Any] = {}
        self.options = LabelOptions.of(run.hparams)
        # What stages of other runs were made with, where it is not what this run says.
        self.notes: list[str] = []
        if not run.run_opts.test_only and self.epochs(STAGE_ONE):
            self.check_layers()

    def check_layers(self) -> None:
        """Refuse layers that the encoder has not, before anything is trained."""
        encoder = self.run.hparams[STAGE_ONE]["modules"]["clap"].audio_encoder
        if not hasattr(encoder, "layer_frames"):
            raise ExperimentError(
                f"label_layers: the audio encoder ({type(encoder).__name__}) has no layer_frames, "
                "which gives the frames of its layers. Give --stage_one_epochs 0, or another."
            )
        depth = getattr(encoder, "depth", max(self.options.label_layers))
        if max(self.options.label_layers) > depth:
            raise ExperimentError(
                f"label_layers: expected layers of the audio encoder, 1 to {depth}, found "
                f"{self.options.label_layers}."
            )

    def run_one(self, name: str) -> None:
        """Run a stage unless it is finished."""
        torch.manual_seed(self.run.hparams["seed"])
        work: dict[str, Callable[[], None]] = {
            WARM_UP: self.warm_up,
            PSEUDO_LABELS: self.pseudo_labels,
            STAGE_ONE: self.stage_one,
            STAGE_TWO: self.stage_two,
        }
        if self.is_finished(name):
            if if_main_process() and self.folders.is_own(name):
                # A run may have been killed as it removed them.
                shutil.rmtree(self.folders.folder(name) / SAVE, ignore_errors=True)
        else:
            logger.info("%s", name)
            work[name]()
        if name != STAGE_TWO and if_main_process() and self.folders.record(name).is_file():
            print(f"{name}: {self.folders.folder(name)}")

    def epochs(self, name: str) -> int:
        """Give the epochs of a stage before the last."""
        return self.run.hparams[name]["number_of_epochs"]

    def is_finished(self, name: str) -> bool:
        """Whether a stage need not be run; ExperimentError if it is another run's and must be."""
        if name == STAGE_TWO:
            return False
        if name != STAGE_ONE and self.run.hparams["stage"] != name:
            # Unless they are asked for, the first two are for stage one.
            if self.is_finished(STAGE_ONE):
                return True
            if name == PSEUDO_LABELS and not self.epochs(STAGE_ONE):
                return True
        # Labels are compared with what they were made from when they are made or read.
        return self.folders.is_there(name) and name != PSEUDO_LABELS

    def note(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep for the result what a stage was made with, where this run says otherwise."""
        self.notes += record["notes"]
        if differing := self.folders.differing(name, record):
            folder = self.folders.folder(name)
            self.notes.append(f"{name} of {folder} was made with other settings: {differing}.")

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
        rows = {split: self.splits.rows[split] for split in LABELLED}
        if self.trial:
            rows = {split: self.first_rows(of) for split, of in rows.items()}
        words = stage.hparams["prompts"].words
        make_pseudo_labels(
            self.folders.folder(PSEUDO_LABELS),
            model,
            rows,
            {split: self.only(split, of) for split, of in rows.items()},
            # Of these splits alone: the test's speakers are not counted.
            label_encoders(self.options.label_attributes, words, rows.values()),
            self.options,
            self.label_record(model),
            stage.hparams["valid_batch_size"],
            stage.hparams["num_workers"],
            stage.run_opts.device or infer_device(),
        )

    def stage_one(self) -> None:
        """Train the encoder on the labels of frames."""
        stage = self.stage_run(STAGE_ONE)
        model = self.begin(stage, WARM_UP)
        if self.epochs(STAGE_ONE):
            store = open_pseudo_labels(self.folders.folder(PSEUDO_LABELS), self.label_record(model))
            model.add_scales(store.num_classes)
            self.train(FrameBrain, stage, self.labelled(store))
        self.hand_on(STAGE_ONE, stage)

    def stage_two(self) -> None:
        """Fine-tune on emotion; the run's result is its."""
        run = self.run
        record = None if self.trial else self.folders.check_stage(STAGE_ONE)
        if self.trial or run.run_opts.test_only:
            # Of a debug run the encoder is in place; what is tested has its checkpoint.
            run = replace(run, hparams={**run.hparams, "pretrainer": None})
        brain = build_brain(run)
        if record:
            self.note(STAGE_ONE, record)
            if run.hparams["pretrainer"] is not None:
                self.check_encoder(brain.model, STAGE_ONE, record)
        splits = replace(self.splits, notes=[*self.splits.notes, *self.notes])
        history, assessment = fit_and_test(brain, splits)
        self.result = write_result(run, splits, brain, history, assessment)

    def stage_run(self, name: str) -> Run:
        """Make a stage a run of its own, in its folder, with the keys of its section."""
        folder, section = self.folders.folder(name), self.run.hparams[name]
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
        if not self.trial:
            record = self.folders.check_stage(before)
            load_pretrained(stage.hparams, stage.hparams_file)
            if stage.hparams["pretrainer"] is not None:
                self.check_encoder(model, before, record)
        return model

    def check_encoder(self, model: Any, before: str, record: Mapping[str, Any]) -> None:
        """Refuse an encoder that is not the one that a stage has left."""
        if weights_digest(model.audio_encoder) != record["encoder"]:
            raise ExperimentError(
                f"{self.folders.folder(before)}: {ENCODER_WEIGHTS} does not hold what was written, "
                "or the pretrainer loads another file. Delete the folder and run --stage "
                f"{before}."
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
        folder, encoder = stage.folder, stage.hparams["modules"]["clap"].audio_encoder
        if name == STAGE_ONE and not self.trial:
            self.note(WARM_UP, self.folders.check_stage(WARM_UP))

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
                "settings": self.folders.settings(name),
                "notes": self.notes,
                "lobe": encoder_description(encoder),
                "encoder": weights_digest(encoder),
                "data": self.folders.data(),
            }
            write_json(folder / STAGE_RECORD, record)
            # Several times as large, and of no more use.
            shutil.rmtree(folder / SAVE)

        on_main(write)
        self.notes = []

    def label_record(self, model: FrameClassifier) -> dict[str, Any]:
        """Say what the labels of this run are made from, now that the encoder is loaded."""
        return label_record(self.options, model, self.splits.contents)

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
