"""What a classifier knows of words: its own classes, any others, and sentences."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from speechbrain.inference.classifiers import EncoderClassifier
from torch import Tensor, nn

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.inference.loading import load_text_tower, local_folder
from gemoclap_sb.inference.memory import memory_advice
from gemoclap_sb.inference.sentences import SentenceCache, checked_sentences
from gemoclap_sb.models.ensemble import TextEnsemble
from gemoclap_sb.models.gemoclap import class_embeddings
from gemoclap_sb.models.towers import TextTower, class_log_posteriors

Labels = Sequence[str] | Mapping[str, str] | None

# Two threads that need a text tower at once load one.
_LOADING = Lock()


class WordClassifier(EncoderClassifier):
    """The words of `gemoclap_sb.inference.classifier.GEmoCLAPClassifier`.

    Its text tower is loaded when it is first needed: for other words than the model's own.
    """

    HPARAMS_NEEDED = ["attribute", "words", "templates", "label_encoder", "sample_rate"]

    def __init__(
        self,
        modules: Mapping[str, nn.Module] | None = None,
        hparams: Mapping[str, Any] | None = None,
        run_opts: Mapping[str, Any] | None = None,
        freeze_params: bool = True,
    ) -> None:
        super().__init__(modules, hparams, run_opts, freeze_params)
        self.prompts = Prompts(self.hparams.words, self.hparams.templates)
        self._text_tower: TextTower | TextEnsemble | None = None
        self._source: str | os.PathLike | None = None
        self._texts: tuple[str, str] | None = None
        self._sentences = SentenceCache()

    @property
    def attribute(self) -> str:
        """What is classified: ``emotion``, or another head of the model."""
        return self.hparams.attribute

    @property
    def embedding_size(self) -> int:
        """Numbers in an embedding, D."""
        return self.mods.embedding_model.output_size

    @property
    def labels(self) -> list[str]:
        """The model's own labels, in the order of their indices."""
        return list(self.prompts.words[self.attribute])

    @property
    def text_tower(self) -> TextTower | TextEnsemble:
        """Sentences to embeddings; loaded from the model's folder if it is not yet."""
        with _LOADING:
            if self._text_tower is None:
                if self._source is None:
                    raise RuntimeError(
                        "this classifier does not know its folder, so it has no text encoder. Make "
                        "it with GEmoCLAPClassifier.from_pretrained or .from_hparams."
                    )
                folder = local_folder(self._source)
                self._text_tower = load_text_tower(folder, self._texts).to(self.device)
            return self._text_tower

    def encode_text(self, sentences: Iterable[str]) -> Tensor:
        """Embed N sentences, ``[N, D]``, L2-normalised.

        Any number of them: 64 are encoded at a time, and one that was asked for before is not
        encoded again. ValueError if there is no sentence, or one is empty, no text, or longer
        than the text encoder takes, or the model has no text encoder.
        """
        sentences = checked_sentences(sentences)
        self.mods.classifier.check_texts()

        def encode(new: list[str]) -> Tensor:
            with memory_advice("Shorten the sentences."), torch.inference_mode():
                embeddings = self.text_tower(new)
            # Tensors made in inference mode cannot take part in anybody's training.
            return embeddings.clone()

        return self._sentences.embed(sentences, encode).to(self.device)

    def _classes(self, labels: Labels, templates: Sequence[str] | None) -> tuple[list[str], Tensor]:
        """Names of the classes asked for, and their embeddings ``[C, D]``."""
        if labels is None and templates is None:
            return self.labels, self.mods.classifier.classes
        self.mods.classifier.check_texts()
        prompts = self.prompts.asked(self.attribute, labels, templates)
        sentences = prompts.class_sentences(self.attribute)
        names = list(prompts.words[self.attribute])
        own = self.prompts.class_sentences(self.attribute)
        if all(of in own for of in sentences):
            return names, self.mods.classifier.classes[[own.index(of) for of in sentences]]
        return names, self._embed_classes(sentences)

    def _embed_classes(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Embed classes ``[C, D]``, each given by its sentences."""
        return class_embeddings(sentences, self.encode_text, self.mods.embedding_model.unit)

    def _classified(
        self, embeddings: Tensor, names: list[str], classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        out_prob = class_log_posteriors(embeddings, classes, self.mods.classifier.scale)
        score, index = out_prob.max(dim=-1)
        return out_prob, score, index, [names[i] for i in index.tolist()]


def absolute(source: str | os.PathLike) -> str | os.PathLike:
    """Make a folder's path one that stays valid when the working directory changes."""
    return Path(source).absolute() if Path(source).is_dir() else source
