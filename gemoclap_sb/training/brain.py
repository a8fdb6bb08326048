"""SpeechBrain's loop, made so that a killed and resumed run ends as one that was not.

No mathematics here, and nothing of what is trained: that is a subclass's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
import yaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import (
    Checkpoint,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.data.samplers import LengthPooledBatchSampler, length_sorted_batches
from gemoclap_sb.training.buffers import KeptBuffers
from gemoclap_sb.training.checkpoints import best_key
from gemoclap_sb.training.processes import average_gradients, least_of_all, place, share_buffers
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.shared_evaluation import gather_batches, share_of, without_ddp

logger = get_logger(__name__)

Rows = Mapping[str, Mapping[str, object]]
_MOST_IDS = 32
DIVERGED = (
    "the training diverged. Train again with a lower learning rate, in another --output_folder."
)


@register_checkpoint_hooks
class ResumableBrain(sb.Brain):
    """A Brain whose training steps, batches and checkpoints do not depend on interruptions.

    All randomness of a training step comes from (seed, epoch, step, process). ``hparams``
    holds ``seed``, ``epoch_counter``, ``train_logger`` and ``history``, and may hold
    ``lr_schedule``, a function of the share of training that is done, such as
    `gemoclap_sb.training.schedules.WarmupCosine`. Batches are drawn by
    `gemoclap_sb.data.samplers.LengthPooledBatchSampler`; see `train_loader_options`.

    A subclass computes the forward pass and the loss, and may say by `figures` what an
    evaluation found besides, and join by `gather_evaluation` what the processes found for it. The
    checkpoint is kept whose ``selected_by`` is best, and ``tested`` is the one that an evaluation
    went back to. A batch of training whose loss is NaN or infinite is left out; more of them in an
    epoch than SpeechBrain's ``nonfinite_patience`` end the training.
    """

    selected_by = "loss"
    """Of the figures, the one that decides; only the loss is better when it is lower. With
    ``epoch`` it is always the last one."""
    test_is_logged = True
    tested: Checkpoint | None = None
    left_out = 0
    """Batches of the epoch whose loss was not finite."""

    def figures(self) -> dict[str, float]:
        """Say what the evaluation that has just run found, besides its loss."""
        return {}

    def state_figures(self) -> dict[str, float]:
        """Say what an epoch's record holds beside losses and figures."""
        return {}

    def own_rates(self) -> Iterable[tuple[nn.Module, float]]:
        """Modules with a learning rate of their own, in place of the optimiser's."""
        return ()

    def train_loader_options(self, rows: Rows) -> dict[str, Any]:
        """Options of the training dataloader: full batches of similar lengths.

        With a ``micro_batch_size`` they are drawn at random.
        """
        # Micro-batches are of like length by themselves, whatever the batch that they are cut from.
        mixed = getattr(self.hparams, "micro_batch_size", None) is not None
        sampler = LengthPooledBatchSampler(
            _durations(rows),
            batch_size=self.hparams.batch_size,
            pool_batches=1 if mixed else self.hparams.pool_batches,
            seed=self.hparams.seed,
        )
        return {"batch_sampler": sampler, "num_workers": self.hparams.num_workers}

    def evaluation_loader_options(self, rows: Rows) -> dict[str, Any]:
        """Options of a validation or test dataloader: sorted by length, shared by all processes."""
        batches = length_sorted_batches(_durations(rows), self.hparams.valid_batch_size)
        if self.debug:
            # SpeechBrain would have each process evaluate so many.
            batches = batches[: self.debug_batches]
        return {"batch_sampler": share_of(batches), "num_workers": self.hparams.num_workers}

    def evaluate_best(self, dataset: Any, rows: Rows, logged: bool = True) -> None:
        """Go back to the checkpoint that was selected, and test it; ``logged`` as the test."""
        self.test_is_logged = logged
        options = self.evaluation_loader_options(rows)
        self.evaluate(dataset, test_loader_kwargs=options, **best_key(self.selected_by))

    def best(self, history: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
        """Find the record of the epoch that was selected, the newest of equals."""
        sign = -1 if self.selected_by == "loss" else 1
        key = "epoch" if self.selected_by == "epoch" else f"valid_{self.selected_by}"
        return max(history, key=lambda r: (sign * r[key], r["epoch"]), default=None)

    def on_fit_start(self) -> None:
        """Before training."""
        slow = torch.backends.cpu.get_cpu_capability() == "AVX2"
        if slow and torch.device(self.device).type == "cpu" and self.precision == "bf16":
            logger.warning(
                "--precision bf16: this processor (AVX2) computes in bf16 several times more "
                "slowly than in float32. Leave the option out here."
            )
        super().on_fit_start()
        if self._optimizer_step_limit_exceeded:
            # It ended before; another epoch would be one without a step.
            self.hparams.epoch_counter.current = self.hparams.epoch_counter.limit

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Go back to the checkpoint that was selected; ExperimentError if it is not there.

        With ``--test_only`` to the best that is there.
        """
        if self.checkpointer is None:
            return
        # Before the history goes back too.
        best = self.best(self.hparams.history.records)
        self.tested = self.checkpointer.recover_if_possible(max_key=max_key, min_key=min_key)
        save = self.checkpointer.checkpoints_dir
        if self.tested is None:
            raise ExperimentError(f"{save} has no checkpoint to test: train first.")
        found = self.tested.meta.get("epoch")
        selected = (max_key or min_key) and best is not None and best["epoch"]
        if selected and found != selected and not self.test_only:
            raise ExperimentError(
                f"{save}: the checkpoint of epoch {selected}, the best by {self.selected_by}, is "
                f"gone or damaged; the best that is left is of epoch {found}. Put it back, delete "
                f"{save.parent} to train again, or look at what is left with --test_only."
            )

    def fit_batch(self, batch: PaddedBatch) -> torch.Tensor:
        """Train on a batch; its loss, on the CPU.

        As the base class does, but that a batch whose loss is not finite on some process is left
        out: it leaves no gradient, no trace in the buffers, and its loss is NaN.
        """
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        self.batch_ids, buffers = list(batch.id), KeptBuffers(self.modules)
        with self.no_sync(not should_step):
            outputs, loss = self.add_gradients(batch)
        if not torch.isfinite(loss):
            buffers.restore()
            if should_step and not self.scaler.is_enabled():
                # The backward pass that would have done so was left out.
                average_gradients(self.modules)
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu()

    def add_gradients(self, batch: PaddedBatch) -> tuple[Any, torch.Tensor]:
        """Add a batch's gradients to the parameters'; what the forward pass gave, and the loss."""
        with self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        return outputs, self.backward(loss)

    def backward(self, loss: torch.Tensor) -> torch.Tensor:
        """Go back from a loss as far as there is a graph; NaN if the batch is to be left out."""
        # What one process leaves out, all do: they wait for each other's gradients.
        if not least_of_all(torch.isfinite(loss).to(loss.dtype)):
            loss = loss + torch.nan
        self.check_loss_isfinite(loss)
        # The scaler of fp16 skips the step itself, and lowers its scale.
        if torch.isfinite(loss) or self.scaler.is_enabled():
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        return loss

    def check_loss_isfinite(self, loss: torch.Tensor) -> None:
        """Warn of a loss that is NaN or infinite; ExperimentError once patience is at its end."""
        if torch.isfinite(loss):
            return
        self.left_out += 1
        ids = gather_batches(self.batch_ids)
        found = (
            f"the loss is NaN or infinite in step {self.step} of epoch {self.epoch}, for "
            f"{_listed(ids)}"
        )
        if self.left_out > self.nonfinite_patience:
            raise ExperimentError(
                f"{found} ({self.left_out} batches of this epoch, --nonfinite_patience "
                f"{self.nonfinite_patience}): {DIVERGED}"
            )
        logger.warning("%s: left out.", found)

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """Take a batch into the running mean of the losses, unless it was left out."""
        counted = self.step - (self.left_out if self.modules.training else 0)
        if torch.isfinite(loss):
            avg_loss += (float(loss) - avg_loss) / counted
        return avg_loss

    def evaluate_batch(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Loss of a batch of validation or test, on the process whose batch it is."""
        with without_ddp(self.modules):
            loss = super().evaluate_batch(batch, stage)
        self.batch_losses.append(float(loss))
        if not torch.isfinite(loss):
            self.nonfinite_ids += batch.id
        return loss

    def gather_evaluation(self) -> None:
        """Join what the processes have found of their batches; see `gather_batches`."""
        self.batch_losses = gather_batches(self.batch_losses)
        self.nonfinite_ids = gather_batches(self.nonfinite_ids)

    def evaluation_loss(self, stage: sb.Stage) -> float:
        """Mean loss of all batches; ExperimentError if one is NaN or infinite.

        SpeechBrain's running mean would leave that out, and knows of this process's batches alone.
        """
        if not np.isfinite(self.batch_losses).all():
            raise ExperimentError(
                f"{stage.name}: the loss is NaN or infinite for {_listed(self.nonfinite_ids)}: "
                f"{DIVERGED}"
            )
        return math.fsum(self.batch_losses) / len(self.batch_losses)

    def init_optimizers(self) -> None:
        """Make the optimiser, with a parameter group for each module of `own_rates`."""
        super().init_optimizers()
        groups = self.optimizer.param_groups
        for module, rate in self.own_rates():
            own = {id(parameter) for parameter in module.parameters()}
            for group in list(groups):
                chosen = [p for p in group["params"] if id(p) in own]
                group["params"] = [p for p in group["params"] if id(p) not in own]
                if chosen:
                    self.optimizer.add_param_group({**group, "params": chosen, "lr": rate})
        if getattr(self.hparams, "lr_schedule", None) is not None:
            if not (whole := self.optimizer.defaults["lr"]):
                raise ExperimentError("lr: expected more than 0 beside an lr_schedule, found 0.")
            # Before a checkpoint is recovered, which holds the rates of its step.
            self.rate_shares = [group["lr"] / whole for group in groups]

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Seed the step, so that it does not depend on the steps before it; set its rates."""
        sequence = np.random.SeedSequence([self.hparams.seed, self.epoch, self.step, place()[0]])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if getattr(self.hparams, "lr_schedule", None) is not None:
            epochs_done = self.epoch - 1 + self.step / len(self.train_sampler)
            rate = self.hparams.lr_schedule(epochs_done / self.hparams.epoch_counter.limit)
            for group, share in zip(self.optimizer.param_groups, self.rate_shares, strict=True):
                group["lr"] = rate * share

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Before an epoch, or an evaluation."""
        self.epoch = epoch
        if stage == sb.Stage.TRAIN and self.step == 0:
            self.left_out = 0
        if stage != sb.Stage.TRAIN:
            self.batch_losses: list[float] = []
            self.nonfinite_ids: list[str] = []
            share_buffers(self.modules)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After an epoch: figures, log, checkpoint. After a test: figures."""
        if stage == sb.Stage.TRAIN:
            if self.left_out and self.left_out == self.step:
                raise ExperimentError(
                    f"the loss of every batch of epoch {epoch} is NaN or infinite: {DIVERGED}"
                )
            self.train_loss = float(stage_loss)
            return
        self.gather_evaluation()
        stats = {"loss": self.evaluation_loss(stage), **self.figures()}
        if stage == sb.Stage.TEST:
            if self.test_is_logged:
                self.hparams.train_logger.log_stats(
                    {"Epoch loaded": self.hparams.epoch_counter.current}, test_stats=stats
                )
            return
        progress = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        valid = {f"valid_{name}": value for name, value in stats.items()}
        record = {**progress, **self.state_figures(), "train_loss": self.train_loss, **valid}
        self.hparams.history.append(record)
        self.hparams.train_logger.log_stats(
            progress, train_stats={"loss": self.train_loss}, valid_stats=stats
        )
        if self.checkpointer is not None:
            keys = "min_keys" if self.selected_by == "loss" else "max_keys"
            # SpeechBrain appends to its default list of keys, hence one of our own.
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, **stats}, importance_keys=[], **{keys: [self.selected_by]}
            )

    @mark_as_saver
    def _save(self, path: Path) -> None:
        super()._save(path)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"left_out: {self.left_out}\n")

    @mark_as_loader
    def _recover(self, path: Path, end_of_epoch: bool) -> None:
        super()._recover(path, end_of_epoch)
        kept = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        self.left_out = kept.get("left_out", 0)

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


def unwrapped(module: nn.Module) -> nn.Module:
    """Give a module without the wrappers of DDP and torch.compile."""
    while True:
        inner = getattr(module, "module", None) or getattr(module, "_orig_mod", None)
        if inner is None:
            return module
        module = inner


def _listed(ids: Sequence[str]) -> str:
    """Name utterances, the first of many."""
    more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
    return f"the utterances {', '.join(ids[:_MOST_IDS])}{more}"


def _durations(rows: Rows) -> list[float]:
    """Seconds of each utterance, in order."""
    return [float(row["duration"]) for row in rows.values()]
