"""FrameBrain: the loop around a classifier of frames.

Utterances are heard whole and at their own speed, so that each frame keeps its label; what a lobe
masks in training (SpecAugment) it masks here too.
"""

from __future__ import annotations

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import LongTensor, Tensor, nn

from gemoclap_sb.lobes.lengths import mask_from_lengths
from gemoclap_sb.objectives.frame_cross_entropy import FrameOutput
from gemoclap_sb.training.brain import ResumableBrain, unwrapped
from gemoclap_sb.training.processes import mean_of_all
from gemoclap_sb.training.settings import ExperimentError
from gemoclap_sb.training.shared_evaluation import gather_batches


class FrameBrain(ResumableBrain):
    """Train and evaluate a `gemoclap_sb.models.FrameClassifier`.

    ``modules`` holds it as ``clap``; besides what `ResumableBrain` reads, ``hparams`` holds an
    ``objective`` such as `gemoclap_sb.objectives.FrameCrossEntropyObjective`. A batch has ``sig``
    and ``frame_labels`` ``[B, F, scales]``. The last epoch is kept.
    """

    selected_by = "epoch"

    @property
    def model(self) -> nn.Module:
        """The model without the wrappers of DDP and torch.compile."""
        return unwrapped(self.modules.clap)

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> FrameOutput:
        """Score the frames of a batch at each scale."""
        return self.modules.clap(*batch.to(self.device).sig)

    def compute_objectives(
        self, predictions: FrameOutput, batch: PaddedBatch, stage: sb.Stage
    ) -> Tensor:
        """Loss of a batch, each frame counting alike; outside of training, also what was right."""
        labels = batch.frame_labels.data.to(self.device)
        check_lengths(batch, predictions.lengths)
        loss = self.hparams.objective(predictions, labels)
        if stage == sb.Stage.TRAIN:
            # DDP averages over processes, whose shares have other numbers of frames.
            own = predictions.lengths.sum().to(loss.dtype)
            return loss * (own / mean_of_all(own))
        self.right.append(frames_right(predictions, labels))
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Before an evaluation, begin to count."""
        super().on_stage_start(stage, epoch)
        self.right: list[tuple[int, ...]] = []

    def gather_evaluation(self) -> None:
        """Join what was counted of the batches of all processes too."""
        super().gather_evaluation()
        self.right = gather_batches(self.right)

    def figures(self) -> dict[str, float]:
        """Share of frames whose label is found, mean over the scales."""
        *right, frames = np.sum(self.right, axis=0).tolist()
        return {"frame_accuracy": sum(right) / (len(right) * frames)}


def check_lengths(batch: PaddedBatch, lengths: Tensor) -> None:
    """Refuse labels that are not as many as an utterance has frames; ExperimentError names it."""
    labelled = torch.round(batch.frame_labels.lengths * batch.frame_labels.data.shape[1]).long()
    if wrong := (labelled != lengths.cpu()).nonzero().flatten().tolist():
        place = wrong[0]
        raise ExperimentError(
            f"utterance {batch.id[place]!r}: expected a label for each of its {lengths[place]} "
            f"frames, found {labelled[place]}. Delete the labels and run --stage pseudo_labels."
        )


@torch.no_grad()
def frames_right(output: FrameOutput, labels: LongTensor) -> tuple[int, ...]:
    """How many frames' labels are found at each scale, and last how many frames there are."""
    frames = output.logits[0].shape[1]
    valid = mask_from_lengths(output.lengths, frames)
    cut = labels[:, :frames]
    found = [
        int(
            (scores[:, : cut.shape[1]].argmax(-1) == cut[..., scale])[
                valid[:, : cut.shape[1]]
            ].sum()
        )
        for scale, scores in enumerate(output.logits)
    ]
    return (*found, int(valid.sum()))
