"""GEmoCLAPBrain: the loop around a model, an objective and prompts.

The model embeds, the objective compares, the metrics count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData
from speechbrain.utils.logger import get_logger
from torch import LongTensor, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.evaluation.assessment import ScoredSet
from gemoclap_sb.evaluation.metrics import ClassificationMetrics, classification_metrics
from gemoclap_sb.lobes.normalization import SentenceNormalization
from gemoclap_sb.objectives.gathering import gather_batch
from gemoclap_sb.training.brain import DIVERGED, ResumableBrain, Rows, unwrapped
from gemoclap_sb.training.checkpoints import SELECTED_BY
from gemoclap_sb.training.gradient_cache import GradientCache, MicroBatches, micro_batch_count
from gemoclap_sb.training.hearing import check_hearing, heard
from gemoclap_sb.training.mixup import Mixup
from gemoclap_sb.training.processes import least_of_all, share_buffers
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.shared_evaluation import gather_batches, without_ddp

logger = get_logger(__name__)

SELECTING = ("uar", "war", "loss", "epoch")


class GEmoCLAPBrain(ResumableBrain):
    """Train and evaluate a contrastive language-audio model.

    ``modules`` holds ``clap`` (`gemoclap_sb.models.GEmoCLAP`, or anything with its methods
    ``forward``, ``encode_classes``, ``class_scores`` and ``class_scale``). Besides what
    `ResumableBrain` reads, ``hparams`` holds ``objective``, ``prompts`` and ``label_encoders``
    (`gemoclap_sb.data.labels.label_encoders`). It may hold ``lr_audio`` and ``lr_text`` (learning
    rates of the encoders alone), ``select_by``, and what training hears: ``wav_augment`` (a
    SpeechBrain ``Augmenter``), ``random_speed`` (`gemoclap_sb.lobes.RandomSpeed`),
    ``crop_seconds`` (random parts of at most that length) and ``mixup`` (alpha of
    `gemoclap_sb.training.mixup`; 0 mixes nothing). With a ``micro_batch_size`` a batch takes the
    memory of so many utterances (`gemoclap_sb.training.gradient_cache`).
    A batch has ``sig``, and for each label its text ``NAME`` and its index ``NAME_encoded``.
    """

    def check_options(self) -> None:
        """Refuse values of the optional ``hparams`` that would fail in the middle of training."""
        selecting, mixup = self.selected_by, getattr(self.hparams, "mixup", 0.0)
        if selecting not in SELECTING:
            raise ExperimentError(
                f"select_by: expected one of {', '.join(SELECTING)}, found {selecting!r}."
            )
        check_hearing(self.hparams)
        if not (isinstance(mixup, int | float) and 0 <= mixup < math.inf):
            raise ExperimentError(f"mixup: expected 0 or more, found {mixup!r}.")
        if (size := self.micro_batch_size) is not None:
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ExperimentError(
                    f"micro_batch_size: expected null or a whole number, 1 or more, found {size!r}."
                )
            kinds = _BatchNorm | SentenceNormalization
            if norms := [of for of in self.model.modules() if isinstance(of, kinds)]:
                logger.warning(
                    "micro_batch_size %d: %d layers of the model (first a %s) normalise by the "
                    "batch, which is now the micro-batch.",
                    size,
                    len(norms),
                    type(norms[0]).__name__,
                )

    @property
    def micro_batch_size(self) -> int | None:
        """How many utterances are in memory with their graph; None for the whole batch."""
        return getattr(self.hparams, "micro_batch_size", None)

    @property
    def selected_by(self) -> str:
        """Figure whose best epoch is kept and tested; ``epoch`` itself for the last one."""
        return getattr(self.hparams, "select_by", SELECTED_BY)

    @property
    def labels(self) -> list[str]:
        """The classes of the target, in the order of their indices."""
        return list(self.hparams.label_encoders[self.target].lab2ind)

    @property
    def model(self) -> nn.Module:
        """The model without the wrappers of DDP and torch.compile."""
        return unwrapped(self.modules.clap)

    @property
    def target(self) -> str:
        """The attribute that is classified: the model's first head."""
        return self.model.heads[0]

    def own_rates(self) -> Iterable[tuple[nn.Module, float]]:
        """Rates of the encoders, where ``lr_audio`` or ``lr_text`` is given."""
        for name in ("audio", "text"):
            rate = getattr(self.hparams, f"lr_{name}", None)
            if rate is not None:
                if not (isinstance(rate, int | float) and 0 <= rate < math.inf):
                    raise ExperimentError(f"lr_{name}: expected 0 or more, found {rate!r}.")
                yield getattr(self.model, f"{name}_encoder"), rate

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> tuple[Any, dict]:
        """Embed a batch: the model's outputs per head, LongTensor labels per attribute."""
        given, labels = self.model_inputs(batch, stage)
        return self.modules.clap(*given), labels

    def model_inputs(
        self, batch: PaddedBatch, stage: sb.Stage
    ) -> tuple[tuple[Tensor, Tensor, dict], dict[str, LongTensor]]:
        """Give what the model is called with, as training or an evaluation hears it, and labels."""
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        self.mixup: Mixup | None = None
        prompts, objective = self.hparams.prompts, self.hparams.objective
        heads = [head for head in self.model.heads if head in prompts.templates]
        texts = {name: batch[name] for head in heads for name in prompts.fields(head)}
        labels = {
            name: _indices(batch[f"{name}_encoded"]).to(self.device)
            for name in dict.fromkeys([*self.model.heads, *objective.attributes])
        }
        if stage == sb.Stage.TRAIN:
            wavs, wav_lens, kept = heard(self.hparams, self.model, wavs, wav_lens)
            texts = {name: [of[i] for i in kept] for name, of in texts.items()}
            labels = {name: of[kept.to(of.device)] for name, of in labels.items()}
            if getattr(self.hparams, "mixup", 0.0):
                step = self.hparams.seed, self.epoch, self.step
                self.mixup = Mixup.draw(self.hparams.mixup, len(wavs), step)
                wavs, wav_lens = self.mixup.of_waveforms(wavs, wav_lens)
        draw = stage == sb.Stage.TRAIN
        sentences = {head: prompts.sentences(head, texts, draw) for head in heads}
        return (wavs, wav_lens, sentences), labels

    def add_gradients(self, batch: PaddedBatch) -> tuple[Any, Tensor]:
        """Add a batch's gradients to the parameters', micro-batch by micro-batch if so asked."""
        if self.micro_batch_size is None:
            return super().add_gradients(batch)
        with self.training_ctx:
            given, labels = self.model_inputs(batch, sb.Stage.TRAIN)
            # Under SyncBatchNorm the processes meet in every micro-batch.
            count = micro_batch_count(len(given[0]), self.micro_batch_size)
            count = round(least_of_all(torch.tensor(count, device=self.device)))
            cache = None
            if count == 1:
                outputs = self.modules.clap(*given), labels
            else:
                cache = GradientCache(MicroBatches(*given, count), self.device)
                # As DDP does it at the forward pass.
                share_buffers(self.modules)
                with without_ddp(self.modules):
                    outputs = cache.embed(self.modules.clap), labels
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        loss = self.backward(loss)
        if cache and (torch.isfinite(loss) or self.scaler.is_enabled()):
            cache.backward(self.modules.clap, self.training_ctx, self.no_sync)
        return outputs, loss

    def compute_objectives(
        self, predictions: tuple[Any, dict], batch: PaddedBatch, stage: sb.Stage
    ) -> Tensor:
        """Loss of a batch; outside of training, also the scores of its classes."""
        outputs, labels = predictions
        if stage == sb.Stage.TRAIN:
            if self.mixup is not None:
                return self.mixup.of_loss(self._loss, outputs, labels)
            return self._loss(outputs, labels)
        scores = self.model.class_scores(outputs[self.target], self.classes)
        self.ids.append(list(batch.id))
        self.scores.append(scores.float().cpu())
        self.expected.append(labels[self.target].cpu())
        return self.hparams.objective(outputs, labels)

    def _loss(self, outputs: Mapping[str, Any], labels: Mapping[str, Tensor]) -> Tensor:
        """Loss over the batches of all processes."""
        return self.hparams.objective(*gather_batch(outputs, labels))

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Before an evaluation, embed the classes' texts."""
        super().on_stage_start(stage, epoch)
        if stage == sb.Stage.TRAIN:
            return
        self.ids: list[list[str]] = []
        self.expected: list[LongTensor] = []
        self.scores: list[Tensor] = []
        prompts = self.hparams.prompts
        said = prompts.class_sentences(self.target) if self.target in prompts.templates else []
        self.model.eval()
        # Training is watched at the natural speed: the others would cost whole epochs.
        self.model.hears_once = stage == sb.Stage.VALID
        with torch.no_grad(), self.evaluation_ctx:
            self.classes = self.model.encode_classes(said)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After an evaluation, hear as in use again."""
        self.model.hears_once = False
        super().on_stage_end(stage, stage_loss, epoch)

    def gather_evaluation(self) -> None:
        """Join IDs, scores and classes of the processes' batches too."""
        super().gather_evaluation()
        found = gather_batches(list(zip(self.ids, self.scores, self.expected, strict=True)))
        self.ids, self.scores, self.expected = map(list, zip(*found, strict=True))

    def figures(self) -> dict[str, float]:
        """WAR and UAR of the evaluation that has just run; `metrics` has the rest.

        ExperimentError if a score is NaN or infinite, of which no class is the highest.
        """
        scores = torch.cat(self.scores)
        if not torch.isfinite(scores).all():
            raise ExperimentError(f"the model's class scores are NaN or infinite: {DIVERGED}")
        self.metrics: ClassificationMetrics = classification_metrics(
            torch.cat(self.expected).tolist(),
            scores.numpy().argmax(axis=1).tolist(),
            self.labels,
        )
        return {"war": self.metrics.war, "uar": self.metrics.uar}

    def state_figures(self) -> dict[str, float]:
        """Temperatures of a model that has some: each head's ``eps_a`` and ``eps_t``."""
        return {
            f"temperature_{head}_{tower}": scales[head]().item()
            for tower in ("audio", "text")
            if (scales := getattr(self.model, f"{tower}_scales", None)) is not None
            for head in self.model.heads
        }

    def score_best(self, dataset: Any, rows: Rows, logged: bool = True) -> ScoredSet:
        """Go back to the checkpoint that was selected, and score a set's classes with it.

        In the order of ``rows``, whatever the batches were.
        """
        self.evaluate_best(dataset, rows, logged)
        scores = torch.cat(self.scores)
        places = {name: i for i, name in enumerate(chain.from_iterable(self.ids))}
        ids = [name for name in rows if name in places]
        order = [places[name] for name in ids]
        return ScoredSet(ids, scores[order].numpy(), torch.cat(self.expected)[order].numpy())


def needed_labels(model: nn.Module, objective: Any, prompts: Prompts) -> list[str]:
    """Attributes that the heads, the objective and the heads' prompts read, each once."""
    named = [field for head in model.heads for field in prompts.fields(head)]
    return list(dict.fromkeys([*model.heads, *objective.attributes, *named]))


def _indices(encoded: Tensor | PaddedData) -> LongTensor:
    """Class indices of a batch, ``[N]``; of a label for each frame ``[N, F]``."""
    return encoded.data if isinstance(encoded, PaddedData) else encoded
