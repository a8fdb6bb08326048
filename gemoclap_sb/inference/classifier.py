"""A trained model in use: SpeechBrain's EncoderClassifier, asked with any words.

    classifier = GEmoCLAPClassifier.from_pretrained("folder or hub id")
    classifier.classify_file("speech.wav")
    classifier.classify_file("speech.wav", labels=["bored", "afraid"])

`GEmoCLAPClassifier.from_pretrained` reads data only: it constructs the package's own
classes from ``config.json`` and fills them from ``model.safetensors``. SpeechBrain's
``from_hparams`` works too, but executes what a folder's YAML says.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchSource
from torch import Tensor, nn

from gemoclap_sb.data.audio import read_audio
from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.inference.bulk import FileEmbedding, embed_file
from gemoclap_sb.inference.loading import load_parts, load_text_tower, local_folder
from gemoclap_sb.inference.many_files import Classification, ManyFiles, Match
from gemoclap_sb.models.towers import TextTower, class_log_posteriors

__all__ = ["Classification", "FileEmbedding", "GEmoCLAPClassifier", "Match"]

CACHED_SENTENCES = 10_000


class GEmoCLAPClassifier(ManyFiles, EncoderClassifier):
    """Classify recordings by words, embed recordings and sentences, search recordings.

    Made by `from_pretrained`, or by SpeechBrain's ``from_hparams`` on a folder that you
    trust. Return values are those of ``EncoderClassifier``.

    What happens at the edges: a recording shorter than the encoder's first frame (25 ms
    for WavLM) is padded with silence to one frame; one longer than ``longest_seconds``
    (60) is read and embedded in equal pieces whose embeddings are averaged, so that
    memory does not grow with it (see ``timeline`` for what happens within it); silence
    gets a class like anything else, which says nothing. An utterance's result does not
    depend on its batch.

    Parameters
    ----------
    modules, hparams, run_opts, freeze_params
        See ``speechbrain.inference.interfaces.Pretrained``.

    Examples
    --------
    >>> classifier = GEmoCLAPClassifier.from_pretrained("exported")  # doctest: +SKIP
    >>> classifier.classify_file("speech.wav")[3]  # doctest: +SKIP
    ['ang']
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
        self.text_tower: TextTower | None = None
        self._source: str | os.PathLike | None = None
        self._sentences: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        device: str | None = None,
        attribute: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
    ) -> GEmoCLAPClassifier:
        """Load an exported model, which can be anybody's: nothing in it is executed.

        Parameters
        ----------
        source : str or os.PathLike
            An exported folder, or a model of the Hugging Face hub (``owner/name``).
        device : str, optional
            ``cpu``, ``cuda:0``, ...; by default a GPU where there is one.
        attribute : str, optional
            What to classify, for a model with several heads; by default its first.
        revision, token, cache_dir, local_files_only
            For the hub, as ``huggingface_hub.snapshot_download`` takes them.

        Returns
        -------
        GEmoCLAPClassifier

        Raises
        ------
        ConfigurationError
            If ``config.json`` or ``tokenizer/`` is missing, damaged, or asks for anything
            but the package's own classes.
        WeightsError
            If ``model.safetensors`` is missing, damaged, a pickle, or of another model.
        """
        folder = local_folder(
            source,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        modules, hparams = load_parts(folder, attribute)
        run_opts = None if device is None else {"device": _numbered(device)}
        classifier = cls(modules=modules, hparams=hparams, run_opts=run_opts)
        classifier._source = folder
        sentences = classifier.prompts.class_sentences(classifier.attribute)
        classifier.mods.classifier.classes.copy_(classifier._encode_classes(sentences))
        return classifier

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike | FetchSource,
        hparams_file: str = "hyperparams.yaml",
        **kwargs: Any,
    ) -> GEmoCLAPClassifier | None:
        """SpeechBrain's way to load a folder. It executes the folder's YAML: trust its author.

        Parameters
        ----------
        source, hparams_file, **kwargs
            See ``speechbrain.inference.interfaces.Pretrained.from_hparams``.

        Returns
        -------
        GEmoCLAPClassifier or None
            None with ``download_only``. The text tower is loaded when it is first needed.
        """
        classifier = super().from_hparams(source, hparams_file, **kwargs)
        if classifier is not None:
            classifier._source = source.path if isinstance(source, FetchSource) else source
        return classifier

    @property
    def attribute(self) -> str:
        """What is classified: ``emotion``, or another head of the model."""
        return self.hparams.attribute

    @property
    def labels(self) -> list[str]:
        """The model's own labels, in the order of their indices."""
        return self.prompts.labels(self.attribute)

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that the model takes, in Hz."""
        return self.hparams.sample_rate

    def load_audio(self, path: str | os.PathLike, savedir: str | None = None) -> Tensor:
        """Read a file as the model wants it.

        Parameters
        ----------
        path : str, os.PathLike or FetchSource
            A local file of any rate, channel count and format that libsndfile reads. An
            address (``https://...``) or a ``FetchSource`` goes through SpeechBrain.
        savedir : str, optional
            Where SpeechBrain keeps what it fetches.

        Returns
        -------
        Tensor
            float32 ``[T]``, on the model's device.

        Raises
        ------
        AudioError
            If the file is missing, unreadable, empty, or holds NaN or Inf.
        """
        if _is_remote(path):
            return super().load_audio(path, savedir)
        return read_audio(path, self.sample_rate).to(self.device)

    def encode_batch(
        self, wavs: Tensor, wav_lens: Tensor | None = None, normalize: bool = False
    ) -> Tensor:
        """Embed waveforms.

        Parameters
        ----------
        wavs : Tensor
            ``[B, T]`` or ``[T]``, mono, at the model's rate.
        wav_lens : Tensor, optional
            ``[B]``, relative to the longest; by default all are as long.
        normalize : bool
            As SpeechBrain has it; embeddings are L2-normalised either way.

        Returns
        -------
        Tensor
            ``[B, 1, D]``, L2-normalised.
        """
        with torch.inference_mode():
            embeddings = super().encode_batch(wavs, wav_lens, normalize)
        # Tensors made in inference mode cannot take part in anybody's training.
        return embeddings.clone()

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Embed sentences; one that was asked for before is not encoded again.

        Parameters
        ----------
        sentences : Sequence[str]
            N sentences.

        Returns
        -------
        Tensor
            ``[N, D]``, L2-normalised.

        Raises
        ------
        ValueError
            If there is no sentence, or one is longer than the text encoder takes.
        """
        if isinstance(sentences, str) or not sentences:
            raise ValueError(f"sentences: expected a list of one or more, found {sentences!r}.")
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._sentences]
        if new:
            with torch.inference_mode():
                embeddings = self._text()(new)
            self._sentences.update(zip(new, embeddings.clone(), strict=True))
        rows = torch.stack([self._sentences[sentence] for sentence in sentences]).to(self.device)
        while len(self._sentences) > CACHED_SENTENCES:
            self._sentences.popitem(last=False)
        return rows

    def classify_batch(
        self,
        wavs: Tensor,
        wav_lens: Tensor | None = None,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        templates: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Classify waveforms.

        Parameters
        ----------
        wavs, wav_lens
            See `encode_batch`.
        labels : Sequence[str] or Mapping[str, str], optional
            Two or more words to choose from, in place of the model's labels. One of the
            model's own labels stands for its word. A mapping gives each label its word.
        templates : Sequence[str], optional
            Sentences with ``{}`` for the word, in place of the model's; a class is
            the mean of its sentences.

        Returns
        -------
        out_prob : Tensor
            Log posteriors ``[B, C]``.
        score : Tensor
            Log posterior of the best class, ``[B]``.
        index : Tensor
            The best class, ``[B]``.
        text_lab : list of str
            Its label.

        Raises
        ------
        ValueError
            If labels or templates cannot serve.
        """
        names, classes = self._classes(labels, templates)
        return self._classified(self.encode_batch(wavs, wav_lens), names, classes)

    def classify_file(
        self,
        path: str | os.PathLike,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        templates: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Classify one file, whatever its length.

        Parameters
        ----------
        path : str, os.PathLike or FetchSource
            See `load_audio`.
        labels, templates
            See `classify_batch`.
        **kwargs
            For `load_audio`.

        Returns
        -------
        tuple
            As `classify_batch`, with B = 1.

        Raises
        ------
        AudioError
            If the file cannot be read.
        """
        names, classes = self._classes(labels, templates)
        if _is_remote(path):
            embedding = self.encode_batch(self.load_audio(path, **kwargs))
        else:
            with torch.inference_mode():
                embedding = embed_file(self.mods.embedding_model, path, self.device)
        return self._classified(embedding.clone(), names, classes)

    def _classes(
        self,
        labels: Sequence[str] | Mapping[str, str] | None,
        templates: Sequence[str] | None,
    ) -> tuple[list[str], Tensor]:
        """Names of the classes asked for, and their embeddings ``[C, D]``."""
        if labels is None and templates is None:
            return self.labels, self.mods.classifier.classes
        for name, given in (("labels", labels), ("templates", templates)):
            if isinstance(given, str):
                raise ValueError(f"{name}: expected a list, found one string: {given!r}.")
        own = self.prompts.words[self.attribute]
        if labels is None:
            words = own
        elif isinstance(labels, Mapping):
            words = dict(labels)
        else:
            words = {label: own.get(label, label) for label in labels}
            if len(words) < len(labels):
                raise ValueError(f"labels: expected each label once, found {list(labels)}.")
        if templates is None:
            templates = self.prompts.templates[self.attribute]
        prompts = Prompts(
            {**self.prompts.words, self.attribute: words}, {self.attribute: templates}
        )
        return list(words), self._encode_classes(prompts.class_sentences(self.attribute))

    def _encode_classes(self, class_sentences: Sequence[Sequence[str]]) -> Tensor:
        """One embedding per class ``[C, D]``, as `GEmoCLAP.encode_classes` has it."""
        counts = [len(sentences) for sentences in class_sentences]
        flat = [sentence for sentences in class_sentences for sentence in sentences]
        means = [share.mean(dim=0) for share in self.encode_text(flat).split(counts)]
        return nn.functional.normalize(torch.stack(means).float(), dim=-1)

    def _classified(
        self, embeddings: Tensor, names: list[str], classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        scale = self.mods.classifier.scale
        out_prob = class_log_posteriors(embeddings[:, 0], classes, scale)
        score, index = out_prob.max(dim=-1)
        return out_prob, score, index, [names[i] for i in index.tolist()]

    def _text(self) -> TextTower:
        if self.text_tower is None:
            if self._source is None:
                raise RuntimeError(
                    "this classifier does not know its folder, so it has no text encoder. Make it "
                    "with GEmoCLAPClassifier.from_pretrained or .from_hparams."
                )
            folder = local_folder(self._source)
            self.text_tower = load_text_tower(folder).to(self.device)
        return self.text_tower


def _is_remote(path: object) -> bool:
    return isinstance(path, FetchSource) or str(path).startswith(("http://", "https://"))


def _numbered(device: str) -> str:
    # SpeechBrain warns of a "cuda" without a number.
    return "cuda:0" if str(device) == "cuda" else str(device)
