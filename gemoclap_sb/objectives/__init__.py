"""What training minimises: contrastive losses over label matrices, and cross-entropy.

This room knows tensors only: no SpeechBrain but its loss functions, no encoder, no corpus. An
objective is a module ``(outputs, labels) -> scalar``; it says which ``heads`` and ``attributes``
it reads.
"""

from gemoclap_sb.objectives.cluster_contrastive import (
    ClusterContrastiveObjective,
    EmbeddingOutput,
    cluster_contrastive_loss,
)
from gemoclap_sb.objectives.contrastive import (
    EmoCLAPObjective,
    MultiTaskObjective,
    SoftLabelObjective,
)
from gemoclap_sb.objectives.cross_entropy import (
    ClassifierOutput,
    CrossEntropyObjective,
    MultiTaskCrossEntropyObjective,
)
from gemoclap_sb.objectives.divergences import (
    ContrastiveOutput,
    audio_contrastive_loss,
    kl_contrastive_loss,
    similarity_logits,
)
from gemoclap_sb.objectives.frame_cross_entropy import FrameCrossEntropyObjective, FrameOutput
from gemoclap_sb.objectives.gathering import gather_batch
from gemoclap_sb.objectives.label_matrices import (
    label_matrix,
    soft_label_matrix,
    target_distribution,
)
from gemoclap_sb.objectives.margin_softmax import MarginSoftmaxObjective

__all__ = [
    "ClassifierOutput",
    "ClusterContrastiveObjective",
    "ContrastiveOutput",
    "CrossEntropyObjective",
    "EmbeddingOutput",
    "EmoCLAPObjective",
    "FrameCrossEntropyObjective",
    "FrameOutput",
    "MarginSoftmaxObjective",
    "MultiTaskCrossEntropyObjective",
    "MultiTaskObjective",
    "SoftLabelObjective",
    "audio_contrastive_loss",
    "cluster_contrastive_loss",
    "gather_batch",
    "kl_contrastive_loss",
    "label_matrix",
    "similarity_logits",
    "soft_label_matrix",
    "target_distribution",
]
