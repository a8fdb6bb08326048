"""Whether a model that was loaded answers at all: tried once, on a sound and on its own texts.

Weights that fit and are finite can still be of no use: a variance below zero, a number that
overflows, a tokenizer that has lost its words. Such a model would answer every recording with
NaN, or with the same probability for every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gemoclap_sb.models.building import built
from gemoclap_sb.models.ensemble import TextEnsemble
from gemoclap_sb.models.errors import ConfigurationError, shown
from gemoclap_sb.models.gemoclap import class_embeddings
from gemoclap_sb.models.limits import SCALES
from gemoclap_sb.models.towers import AudioTower, TextTower

_SECONDS = 0.25
_NOT_WHOLE = "Its files are not whole; export the run again, or download the whole model."


def check_audio(tower: AudioTower, where: str) -> None:
    """Refuse a tower that cannot embed a quarter of a second, by a ConfigurationError."""
    # A tone that rises through all frequencies; nothing is drawn from anybody's generator.
    time = torch.arange(max(1, round(_SECONDS * tower.sample_rate)))
    parts = [tower, *tower.members]
    for part in parts:
        # Other speeds ask nothing else of the weights, and each takes as long again.
        part.hears_once = True
    with torch.inference_mode():
        embedding = built(where, "audio", tower, 0.3 * torch.sin(time**1.3)[None])
    for part in parts:
        part.hears_once = False
    if not (is_unit(embedding) if tower.of_unit_length else embedding.isfinite().all()):
        kind = "unit vector of finite" if tower.of_unit_length else "vector of finite"
        raise ConfigurationError(
            f"{where}: expected a model that embeds a recording, found one whose embedding of a "
            f"tone is no {kind} numbers. Its weights are of no use; take another export."
        )


def check_tokens(
    texts: TextTower | TextEnsemble, class_sentences: Sequence[Sequence[str]], where: str
) -> None:
    """Refuse a tokenizer for which two classes are the same text, by a ConfigurationError."""
    for tower in getattr(texts, "members", [texts]):
        tokenizer = getattr(tower.text_encoder, "tokenizer", None)
        if tokenizer is None:
            continue
        whole = f"{tokenizer.name_or_path}: expected a tokenizer that tells the classes apart"
        kinds: dict[tuple[tuple[int, ...], ...], str] = {}
        known = False
        for sentences in class_sentences:
            ids = built(where, "tokenizer", tokenizer, list(sentences))["input_ids"]
            # The ends of a sentence are special tokens, and so is a word that is not known.
            known |= any(set(row) - set(tokenizer.all_special_ids) for row in ids)
            if (same := kinds.setdefault(tuple(map(tuple, ids)), sentences[0])) != sentences[0]:
                raise ConfigurationError(
                    f"{whole}, found the same tokens for {shown(same)} and {shown(sentences[0])}. "
                    f"{_NOT_WHOLE}"
                )
        if not known:
            raise ConfigurationError(
                f"{whole}, found one that knows none of their words. {_NOT_WHOLE}"
            )


def class_texts(classifier: Any, where: str) -> Tensor:
    """Embed the classes' own texts ``[C, D]`` by a `GEmoCLAPClassifier` that has just been made.

    ConfigurationError if that cannot be done, gives no unit vectors, or the same one twice.
    """
    sentences = classifier.prompts.class_sentences(classifier.attribute)
    unit, encode = classifier.mods.embedding_model.unit, classifier.encode_text
    classes = built(where, "words and templates", class_embeddings, sentences, encode, unit)
    check_classes(classes, sentences, where)
    return classes


def check_classes(classes: Tensor, sentences: Sequence[Sequence[str]], where: str) -> None:
    """Refuse embeddings ``[C, D]`` of classes that are no unit vectors, or not all different."""
    if not is_unit(classes):
        raise ConfigurationError(
            f"{where}: expected a model that embeds its classes' texts, found embeddings that are "
            "no unit vectors of finite numbers. Its weights are of no use; take another export."
        )
    rows: dict[tuple[float, ...], str] = {}
    for row, (first, *_) in zip(classes.tolist(), sentences, strict=True):
        if (same := rows.setdefault(tuple(row), first)) != first:
            raise ConfigurationError(
                f"{where}: expected a model that tells its classes apart, found the same embedding "
                f"of {shown(same)} and {shown(first)}: one would always be as probable as the "
                "other. Take another export."
            )


def check_scale(scale: Tensor, where: str) -> None:
    """Refuse a factor on the cosines by which all classes would be as probable, or none."""
    if not SCALES[0] <= scale.item() <= SCALES[1]:
        raise ConfigurationError(
            f"{where}: expected a temperature of {SCALES[0]:g} to {SCALES[1]:g}, found "
            f"{scale.item():g} in the weights. Take another export."
        )


def is_unit(embeddings: Tensor) -> bool:
    """Say whether all embeddings ``[..., D]`` are finite and of unit length."""
    return bool(((embeddings.norm(dim=-1) - 1).abs() < 1e-3).all())
