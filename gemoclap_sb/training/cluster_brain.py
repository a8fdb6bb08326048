"""ClusterBrain: the loop around a model that learns from clusters of speakers."""

from __future__ import annotations

from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import LongTensor, Tensor, nn

from gemoclap_sb.data.cluster_sampler import ClusterBatchSampler
from gemoclap_sb.objectives.gathering import gather_batch
from gemoclap_sb.training.brain import ResumableBrain, Rows, unwrapped
from gemoclap_sb.training.hearing import heard
from gemoclap_sb.training.shared_evaluation import gather_batches, share_of


class ClusterBrain(ResumableBrain):
    """Train and evaluate a `gemoclap_sb.models.ClusterEncoder`.

    ``modules`` holds it as ``clap``; besides what `ResumableBrain` reads, ``hparams`` holds an
    ``objective`` such as `gemoclap_sb.objectives.ClusterContrastiveObjective`, ``samplers`` (of
    training and of validation, `gemoclap_sb.data.cluster_sampler.ClusterBatchSampler`), and what
    `gemoclap_sb.training.hearing.heard` reads. A batch is `gemoclap_sb.data.cluster_dataset`'s. The
    last epoch is kept.
    """

    selected_by = "epoch"

    @property
    def model(self) -> nn.Module:
        """The model without the wrappers of DDP and torch.compile."""
        return unwrapped(self.modules.clap)

    def train_loader_options(self, rows: Rows | None = None) -> dict[str, Any]:
        """Options of the training dataloader."""
        return self._options(self.hparams.samplers["train"])

    def evaluation_loader_options(self, rows: Rows | None = None) -> dict[str, Any]:
        """Options of the validation dataloader: the same batches every time, shared by all."""
        sampler: ClusterBatchSampler = self.hparams.samplers["valid"]
        batches = [sampler.draw(0, number) for number in range(len(sampler))]
        if self.debug:
            batches = batches[: self.debug_batches]
        return self._options(share_of(batches))

    def _options(self, batches: Any) -> dict[str, Any]:
        workers = self.hparams.num_workers
        return {"batch_sampler": batches, "num_workers": workers, "collate_fn": PaddedBatch}

    def compute_forward(
        self, batch: PaddedBatch, stage: sb.Stage
    ) -> tuple[dict[str, Any], dict[str, LongTensor]]:
        """Give the outputs of a batch by head, and its labels."""
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        labels = {
            name: torch.as_tensor(batch[f"{name}_encoded"], device=self.device)
            for name in self.hparams.objective.attributes
        }
        if stage == sb.Stage.TRAIN:
            wavs, wav_lens, kept = heard(self.hparams, self.model, wavs, wav_lens)
            labels = {name: of[kept.to(of.device)] for name, of in labels.items()}
        return self.modules.clap(wavs, wav_lens), labels

    def compute_objectives(
        self, predictions: tuple[dict, dict], batch: PaddedBatch, stage: sb.Stage
    ) -> Tensor:
        """Loss of a batch, of all processes; outside of training, also what was right."""
        if stage == sb.Stage.TRAIN:
            return self.hparams.objective(*gather_batch(*predictions))
        self.right.append(right(*predictions, self.hparams.objective))
        return self.hparams.objective(*predictions)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Before an evaluation, begin to count."""
        super().on_stage_start(stage, epoch)
        self.right: list[dict[str, list[float]]] = []

    def gather_evaluation(self) -> None:
        """Join what was counted of the batches of all processes too."""
        super().gather_evaluation()
        self.right = gather_batches(self.right)

    def figures(self) -> dict[str, float]:
        """Shares of utterances whose nearest is of their cluster, whose speaker is told."""
        return {
            name: float(np.mean([value for of in self.right for value in of[name]]))
            for name in self.right[0]
        }


@torch.no_grad()
def right(outputs: dict, labels: dict, objective: Any) -> dict[str, list[float]]:
    """Tell of each utterance of a batch whether its nearest other is of its cluster.

    ``cluster_accuracy`` is that among the utterances of the same speaker, ``cluster_chance`` what
    a blind choice among them would have. ``speaker_accuracy`` is of the speakers' head.
    """
    embeddings = outputs[objective.cluster].embeddings.float()
    clusters, speakers = (labels[name] for name in objective.attributes)
    others = speakers[:, None] == speakers
    others &= ~torch.eye(len(speakers), dtype=torch.bool, device=others.device)
    same = (clusters[:, None] == clusters) & others
    # In half precision cosines that differ in the third digit are equals.
    with torch.autocast(embeddings.device.type, enabled=False):
        cosines = embeddings @ embeddings.T
    nearest = cosines.masked_fill(~others, -torch.inf).argmax(1)
    found = {
        "cluster_accuracy": clusters[nearest] == clusters,
        "cluster_chance": same.sum(1) / others.sum(1),
    }
    if objective.speaker in outputs:
        found["speaker_accuracy"] = outputs[objective.speaker].logits.argmax(1) == speakers
    return {name: of.float().tolist() for name, of in found.items()}
