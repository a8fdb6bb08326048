"""GEmoCLAPBrain: SpeechBrain's loop around a model, an objective and prompts.

No mathematics here: the model embeds, the objective compares, the metrics
count.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from torch import LongTensor, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.evaluation.metrics import ClassificationMetrics, classification_metrics
from gemoclap_sb.objectives.gathering import gather_batch


class GEmoCLAPBrain(sb.Brain):
    """Train and evaluate a contrastive language-audio model.

    ``modules`` holds ``clap`` (`gemoclap_sb.models.gemoclap.GEmoCLAP`, or anything with
    its methods ``forward``, ``encode_classes`` and ``class_scores``).
    ``hparams`` holds ``objective``, ``prompts``, ``seed``, ``epoch_counter``,
    ``train_logger`` and ``history``, and may hold ``wav_augment`` (a SpeechBrain
    ``Augmenter``) and ``lr_schedule`` (a function of the share of training that
    is done, such as `gemoclap_sb.training.schedules.WarmupCosine`).

    All randomness of a training step comes from (seed, epoch, step, process).
    A run that is killed and resumed therefore draws what an uninterrupted one
    draws.
    """

    @property
    def model(self) -> nn.Module:
        """The model without the wrappers of DDP and torch.compile."""
        model = self.modules.clap
        while True:
            inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
            if inner is None:
                return model
            model = inner

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> tuple[Any, dict]:
        """Embed a batch.

        Returns
        -------
        tuple
            The model's outputs per head, and LongTensor labels per attribute.
        """
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        prompts = self.hparams.prompts
        names = {name: list(batch[name]) for name in self.attributes}
        if stage == sb.Stage.TRAIN and getattr(self.hparams, "wav_augment", None) is not None:
            augment = self.hparams.wav_augment
            index = torch.arange(len(wavs))
            wavs, wav_lens = augment(wavs, wav_lens)
            names = {
                name: [labels[i] for i in augment.replicate_labels(index)]
                for name, labels in names.items()
            }
        sentences = {
            head: prompts.sentences(head, names, draw=stage == sb.Stage.TRAIN)
            for head in self.model.heads
            if head in prompts.templates
        }
        labels = {
            name: prompts.encode(name, labels).to(self.device) for name, labels in names.items()
        }
        return self.modules.clap(wavs, wav_lens, sentences), labels

    def compute_objectives(
        self, predictions: tuple[Any, dict], batch: PaddedBatch, stage: sb.Stage
    ) -> Tensor:
        """Loss of a batch; outside of training, also the predicted classes."""
        outputs, labels = predictions
        if stage == sb.Stage.TRAIN:
            return self.hparams.objective(*gather_batch(outputs, labels))
        scores = self.model.class_scores(outputs[self.target], self.classes)
        self.predicted.append(scores.argmax(dim=-1).cpu())
        self.expected.append(labels[self.target].cpu())
        return self.hparams.objective(outputs, labels)

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Seed the step, so that it does not depend on the steps before it; set its rate."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        sequence = np.random.SeedSequence([self.hparams.seed, self.epoch, self.step, rank])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if getattr(self.hparams, "lr_schedule", None) is not None:
            epochs_done = self.epoch - 1 + self.step / len(self.train_sampler)
            rate = self.hparams.lr_schedule(epochs_done / self.hparams.epoch_counter.limit)
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Before an epoch, or an evaluation."""
        self.epoch = epoch
        if stage == sb.Stage.TRAIN:
            return
        self.expected: list[LongTensor] = []
        self.predicted: list[LongTensor] = []
        self.model.eval()
        with torch.no_grad(), self.evaluation_ctx:
            self.classes = self.model.encode_classes(self._class_sentences())

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After an epoch: metrics, log, checkpoint. After a test: metrics."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        metrics = self.metrics()
        stats = {"loss": float(stage_loss), "war": metrics.war, "uar": metrics.uar}
        if stage == sb.Stage.TEST:
            self.test_metrics = metrics
            self.hparams.train_logger.log_stats(
                {"Epoch loaded": self.hparams.epoch_counter.current}, test_stats=stats
            )
            return
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.hparams.history.append(
            {
                "epoch": epoch,
                "lr": learning_rate,
                "train_loss": float(self.train_loss),
                **{f"valid_{name}": float(value) for name, value in stats.items()},
            }
        )
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": learning_rate},
            train_stats={"loss": self.train_loss},
            valid_stats=stats,
        )
        if self.checkpointer is not None:
            # SpeechBrain appends to its default list of keys, hence one of our own.
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, "uar": float(metrics.uar), "war": float(metrics.war)},
                max_keys=["uar"],
                importance_keys=[],
            )

    def metrics(self) -> ClassificationMetrics:
        """WAR, UAR, recalls and confusion of the stage that has just run."""
        return classification_metrics(
            torch.cat(self.expected).tolist(),
            torch.cat(self.predicted).tolist(),
            self.hparams.prompts.labels(self.target),
        )

    @property
    def target(self) -> str:
        """The attribute that is classified: the model's first head."""
        return self.model.heads[0]

    @property
    def attributes(self) -> list[str]:
        """Columns of the manifest that a batch must carry."""
        return needed_attributes(self.model, self.hparams.objective, self.hparams.prompts)

    def _class_sentences(self) -> list[list[str]]:
        prompts = self.hparams.prompts
        return prompts.class_sentences(self.target) if self.target in prompts.templates else []

    def _wrap_distributed(self) -> None:
        if not self.distributed_launch or self.device_type != "cpu":
            super()._wrap_distributed()
            return
        # SpeechBrain converts to SyncBatchNorm, which exists on GPUs only. On CPUs each
        # process normalises by its own share, and the main one's statistics are kept.
        for name, module in self.modules.items():
            self.modules[name] = DistributedDataParallel(
                module, find_unused_parameters=self.find_unused_parameters
            )

    def _train_loader_specifics(self, dataset: Any, loader_kwargs: dict) -> dict:
        loader_kwargs = super()._train_loader_specifics(dataset, loader_kwargs)
        if isinstance(self.train_sampler, DistributedSamplerWrapper):
            # Unshuffled, the processes of a step get batches of like length.
            self.train_sampler.shuffle = False
        elif loader_kwargs.get("batch_sampler") is not None:
            # SpeechBrain tells a batch sampler its epoch only when it made it itself.
            self.train_sampler = loader_kwargs["batch_sampler"]
        return loader_kwargs


def needed_attributes(model: nn.Module, objective: Any, prompts: Any) -> list[str]:
    """Attributes whose labels the objective, the heads and their prompts read.

    Parameters
    ----------
    model : nn.Module
        Has ``heads``.
    objective : Any
        Has ``attributes``.
    prompts : Prompts
        Knows which attributes the templates name.

    Returns
    -------
    list of str
        In order, each once.
    """
    named = [field for head in model.heads for field in prompts.fields(head)]
    return list(dict.fromkeys([*model.heads, *objective.attributes, *named]))
