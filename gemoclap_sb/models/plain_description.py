"""The description of an `AudioClassifier`, which has no text tower."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn

from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.pooled_audio import checked_tta_speeds

NO_TEXTS = (
    "this model is a plain classifier, without a text tower: it knows the classes it was trained "
    "on and no other words. Leave out other labels, templates and sentences, or export a GEmo-CLAP."
)


@strict
@dataclass(kw_only=True)
class ClassifierDescription:
    """The keys of an `AudioClassifier`'s description; its embeddings are the pooled vectors.

    With a ``cosine_scale`` they are at unit length.
    """

    audio_encoder: dict[str, Any] | nn.Module
    pooling: dict[str, Any] | nn.Module
    heads: list[str]
    num_classes: int
    embedding_size: int
    dropout: float | int
    trim_db: float | int | None = None
    tta_speeds: list[int] | None = None
    cosine_scale: float | int | None = None

    def validate_sizes(self) -> None:
        """Refuse what no classifier can have."""
        if self.trim_db is not None and not self.trim_db > 0:
            raise ValueError(f"expected a trim_db of more than 0, found {self.trim_db}")
        if self.cosine_scale is not None and not self.cosine_scale > 0:
            raise ValueError(f"expected a cosine_scale of more than 0, found {self.cosine_scale}")
        checked_tta_speeds(self.tta_speeds)
        if self.num_classes < 2 or self.embedding_size < 1 or len(self.heads) != 1:
            raise ValueError(
                "expected num_classes of 2 or more, an embedding_size of 1 or more and one head, "
                f"found {self.num_classes}, {self.embedding_size} and {self.heads}"
            )


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a description is that of an `AudioClassifier`, or of several."""
    members = config.get("members", [config])
    first = members[0] if isinstance(members, list) and members else None
    return isinstance(first, Mapping) and "num_classes" in first


def check_alike(one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> None:
    """Refuse members of an ensemble of two kinds, or with different numbers of classes."""
    counts = [of.get("num_classes", "texts in place of") for of in (one, other)]
    if counts[0] != counts[1]:
        raise ConfigurationError(
            f"{where}: expected members of one kind, found {counts[0]} and {counts[1]} classes."
        )


def check_labels(config: Mapping[str, Any], labels: Sequence[str], where: str) -> None:
    """Refuse labels that are not as many as the classes of a description that was checked."""
    count = config.get("members", [config])[0].get("num_classes", len(labels))
    if len(labels) != count:
        raise ConfigurationError(
            f"{where}: model.num_classes: expected as many as there are labels "
            f"({', '.join(labels)}), found {count}."
        )


def check_pooled_size(config: Mapping[str, Any], pooling: nn.Module, where: str) -> None:
    """Refuse an embedding_size that is not that of the pooled vector."""
    if pooling.output_size != config["embedding_size"]:
        raise ConfigurationError(
            f"{where}: model.embedding_size: expected {pooling.output_size}, the size of the "
            f"pooled vector, found {config['embedding_size']}."
        )
