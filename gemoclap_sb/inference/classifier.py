"""A trained model in use: SpeechBrain's EncoderClassifier, asked with any words.

`GEmoCLAPClassifier.from_pretrained` reads data only: it constructs the package's own
classes from ``config.json`` and fills them from ``model.safetensors``. SpeechBrain's
``from_hparams`` works too, but executes what a folder's YAML says.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.logger import get_logger
from torch import Tensor

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.inference.answering import class_texts
from gemoclap_sb.inference.bulk import BulkOptions, FileEmbedding, batch_seconds, embed_files
from gemoclap_sb.inference.loading import checked_device, load_parts, local_folder
from gemoclap_sb.inference.memory import memory_advice
from gemoclap_sb.inference.recordings import (
    embed_inputs,
    embed_together,
    is_one,
    local_file,
    read_local,
)
from gemoclap_sb.inference.results import Classification, Match, embedding_of
from gemoclap_sb.inference.timeline import Timeline, classify_windows
from gemoclap_sb.inference.waveforms import checked_batch, checked_count
from gemoclap_sb.inference.words import Labels, WordClassifier, absolute

logger = get_logger(__name__)

Paths = Iterable[str | os.PathLike]
Answer = list[dict[str, float | str]]


class GEmoCLAPClassifier(WordClassifier):
    """Classify recordings by words, embed recordings and sentences, search recordings.

    Made by `from_pretrained`, or by SpeechBrain's ``from_hparams`` on a folder that you trust.
    Its constructor and return values are those of ``EncoderClassifier``.

    What happens at the edges: a recording shorter than the encoder's first frame (25 ms for
    WavLM) is padded with silence to one frame; one longer than ``longest_seconds`` (60) is
    read and embedded in equal pieces whose embeddings are averaged, so that memory does not
    grow with it (see ``timeline`` for what happens within it); silence gets a class like
    anything else, which says nothing. An utterance's result does not depend on its batch.

    Called, it answers as transformers' pipelines do; see `forward`. Threads may share it.

    Examples
    --------
    >>> classifier = GEmoCLAPClassifier.from_pretrained("default", device="cpu")
    >>> second = 0.1 * np.sin(np.arange(44100) / 20)
    >>> best, *_ = classifier(second, sampling_rate=44100)
    >>> sorted(best), best["label"] in classifier.labels
    (['label', 'score'], True)
    >>> classifier([{"array": second, "sampling_rate": 44100}], top_k=1) == [[best]]
    True
    >>> classifier.classify_batch(torch.randn(3, 16000))[0].shape
    torch.Size([3, 7])
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        device: str | None = None,
        attribute: str | None = None,
        **hub_options: Any,
    ) -> GEmoCLAPClassifier:
        """Load an exported model, which can be anybody's: nothing in it is executed.

        Parameters
        ----------
        source : str or os.PathLike
            An exported folder, a hub id (``owner/name``), or ``"default"``: this package's own.
        device : str, optional
            ``cpu``, ``cuda:0``, ...; by default a GPU where there is one.
        attribute : str, optional
            What to classify, for a model with several heads; by default its first.
        **hub_options
            ``revision``, ``token``, ``cache_dir``, ``local_files_only``, for
            ``huggingface_hub.snapshot_download``.

        Raises
        ------
        ConfigurationError
            If ``config.json`` or ``tokenizer/`` is missing, damaged, or asks for anything
            but the package's own classes.
        WeightsError
            If ``model.safetensors`` is missing, damaged, a pickle, or of another model.
        ValueError
            If there is no such device here, or no such head.
        """
        run_opts = None if device is None else {"device": checked_device(device)}
        folder = absolute(local_folder(source, **hub_options))
        modules, hparams, texts = load_parts(folder, attribute)
        classifier = cls(modules=modules, hparams=hparams, run_opts=run_opts)
        classifier._source = folder
        if isinstance(texts, str):
            classifier._texts = classifier.attribute, texts
        elif texts is not None:
            classifier._text_tower = texts.to(classifier.device)
            classifier.mods.classifier.classes.copy_(class_texts(classifier, str(folder)))
        return classifier

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike | FetchSource,
        hparams_file: str = "hyperparams.yaml",
        **kwargs: Any,
    ) -> GEmoCLAPClassifier | None:
        """SpeechBrain's way to load a folder. It executes the folder's YAML: trust its author.

        Arguments are those of ``speechbrain.inference.interfaces.Pretrained.from_hparams``;
        with ``download_only`` it returns None. The text tower is loaded when it is needed.
        """
        classifier = super().from_hparams(source, hparams_file, **kwargs)
        if classifier is not None:
            classifier._source = absolute(getattr(source, "path", source))
        return classifier

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that the model takes, in Hz."""
        return self.hparams.sample_rate

    def load_audio(
        self, path: str | os.PathLike | FetchSource, savedir: str | os.PathLike | None = None
    ) -> Tensor:
        """Read a file as the model wants it: float32 ``[T]``, on the model's device.

        A local file of any rate, channels and format that libsndfile reads; or an address or a
        ``FetchSource``, fetched, and kept in ``savedir``. AudioError if it cannot be had or used.
        """
        with local_file(path, savedir) as local:
            return read_audio(local, self.sample_rate).to(self.device)

    def encode_batch(
        self,
        wavs: Tensor | np.ndarray,
        wav_lens: Tensor | np.ndarray | Sequence[float] | None = None,
        normalize: bool = False,
    ) -> Tensor:
        """Embed waveforms ``[B, T]`` or ``[T]``, mono, at the model's rate.

        Floats in [-1, 1], or PCM as int16, int32 or uint8. ``wav_lens`` ``[B]`` are relative to
        the longest, in (0, 1]; by default all are as long. Returns ``[B, 1, D]``, L2-normalised
        whatever ``normalize`` says, but for a plain classifier's. ValueError for another shape,
        type or length, and for samples that are not finite or far too large; RuntimeError if
        memory does not suffice.
        """
        wavs, wav_lens = checked_batch(wavs, wav_lens)
        with memory_advice("Give fewer or shorter waveforms at a time."), torch.inference_mode():
            embeddings = super().encode_batch(wavs, wav_lens, normalize)
        if rows := (~torch.isfinite(embeddings).all(dim=-1)).nonzero().tolist():
            raise AudioError(
                f"wavs[{rows[0][0]}] has no finite embedding: its samples reach "
                f"{wavs[rows[0][0]].abs().max():g}; expected [-1, 1]."
            )
        # Tensors made in inference mode cannot take part in anybody's training.
        return embeddings.clone()

    def classify_batch(
        self,
        wavs: Tensor | np.ndarray,
        wav_lens: Tensor | np.ndarray | Sequence[float] | None = None,
        labels: Labels = None,
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
        score, index : Tensor
            Log posterior of the best class, and which it is, ``[B]``.
        text_lab : list of str
            Its label.

        Raises
        ------
        ValueError
            If labels or templates cannot serve, or as `encode_batch` says.
        """
        names, classes = self._classes(labels, templates)
        return self._classified(self.encode_batch(wavs, wav_lens)[:, 0], names, classes)

    def forward(
        self,
        wavs: Any,
        wav_lens: Tensor | None = None,
        *,
        sampling_rate: int | None = None,
        top_k: int | None = None,
        labels: Labels = None,
        templates: Sequence[str] | None = None,
        batch_size: int = 1,
    ) -> Answer | list[Answer] | Iterator[Answer] | tuple[Tensor, Tensor, Tensor, list[str]]:
        """Answer a call, ``classifier(...)``, as transformers' audio classification does.

        A tensor by itself, or anything with ``wav_lens``, is a batch: see `classify_batch`. To
        classify many files and go on after one that cannot be read, see `classify_files`.

        Parameters
        ----------
        wavs : one recording or several
            One: the path of a file, an address (``https://...``), the bytes of a file, samples
            ``[T]`` as an array, or ``{"array": samples, "sampling_rate": rate}`` (``"raw"`` does
            as well). A list or tuple of these, or any iterable.
        sampling_rate : int, optional
            Of samples that come without one, in Hz; by default the model's.
        top_k : int, optional
            How many classes; by default all.
        labels, templates
            See `classify_batch`.
        batch_size : int
            How many of several recordings are embedded together.

        Returns
        -------
        list of dict
            ``{"score": probability, "label": label}``, the highest first. For a list or a tuple,
            a list of these; for another iterable an iterator, which reads as it is read.

        Raises
        ------
        ValueError
            If something is asked for that cannot be; an AudioError, which is one, if a recording
            cannot be read, or has samples that are not finite.
        """
        as_pipelines = sampling_rate is not None or top_k is not None
        if wav_lens is not None and as_pipelines:
            raise ValueError("wav_lens: of a batch, which takes neither sampling_rate nor top_k.")
        if wav_lens is not None or (isinstance(wavs, Tensor) and not as_pipelines):
            return self.classify_batch(wavs, wav_lens, labels, templates)
        checked_count("top_k", 1 if top_k is None else top_k)
        checked_count("batch_size", batch_size)
        names, classes = self._classes(labels, templates)
        scored = names, classes.cpu(), self.mods.classifier.scale.cpu()
        one = is_one(wavs)
        inputs = [("input", wavs)] if one else ((f"inputs[{i}]", of) for i, of in enumerate(wavs))
        tower = self.mods.embedding_model
        rows = embed_inputs(tower, inputs, self.device, sampling_rate, batch_size)
        answers = (Classification.of(row, *scored).ranked(top_k) for row in rows)
        if one:
            return next(answers)
        return list(answers) if isinstance(wavs, list | tuple) else answers

    def classify_file(
        self,
        path: str | os.PathLike | FetchSource,
        labels: Labels = None,
        templates: Sequence[str] | None = None,
        savedir: str | os.PathLike | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Classify one file, whatever its length.

        ``path`` and ``savedir`` are `load_audio`'s; the rest is as in `classify_batch`, with
        B = 1. AudioError if the file cannot be read.
        """
        names, classes = self._classes(labels, templates)
        with local_file(path, savedir) as local:
            tower = self.mods.embedding_model
            [row] = embed_together(tower, [read_local(local, tower)], self.device)
        return self._classified(embedding_of(row)[None].to(self.device), names, classes)

    def classify_files(
        self,
        paths: Paths,
        labels: Labels = None,
        templates: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[Classification]:
        """Classify any number of files, in order and as they come.

        Parameters
        ----------
        paths : Iterable
            Audio files; a generator is read as far as needed.
        labels, templates
            See `classify_batch`. What cannot serve is a ValueError at the call.
        **options
            ``batch_size``, ``window``, ``workers``, ``progress``: see
            `gemoclap_sb.inference.bulk.BulkOptions`.

        Returns
        -------
        Iterator of Classification
            One a path. A file that cannot be read has its error, and the rest go on.
        """
        names, classes = self._classes(labels, templates)
        rows = self.encode_files(paths, **options)
        classes, scale = classes.cpu(), self.mods.classifier.scale.cpu()
        return (Classification.of(row, names, classes, scale) for row in rows)

    def encode_files(self, paths: Paths, **options: Any) -> Iterator[FileEmbedding]:
        """Embed any number of files, in order and as they come; arguments of `classify_files`.

        One row a path, with its embedding ``[D]`` or its error.
        """
        return embed_files(self.mods.embedding_model, paths, self.device, BulkOptions(**options))

    def embed_files(self, paths: Paths, **options: Any) -> Tensor:
        """Embed N files that can all be read: ``[N, D]``, L2-normalised, on the CPU.

        AudioError of the first file that cannot; `encode_files` goes on after one.
        """
        vectors = [embedding_of(row) for row in self.encode_files(paths, **options)]
        size = self.mods.embedding_model.output_size
        return torch.stack(vectors) if vectors else torch.empty(0, size)

    def retrieve(self, text: str, paths: Paths, top_k: int = 10, **options: Any) -> list[Match]:
        """Find the recordings closest to a description, the closest first.

        ``text`` is a whole sentence, best in the words of the model's prompts. A file that
        cannot be read is left out, with a warning. ValueError if ``top_k`` is not positive.
        """
        checked_count("top_k", top_k)
        query = self.encode_text([text])[0].cpu()
        matches = []
        for row in self.encode_files(paths, **options):
            if row.error is not None:
                logger.warning("Left out of the search: %s", row.error)
                continue
            matches.append(Match(row.path, float(row.embedding @ query)))
        # A stable sort: of equals, the first given comes first.
        return sorted(matches, key=lambda match: -match.similarity)[:top_k]

    def timeline(
        self,
        path: str | os.PathLike,
        window: float = 2.0,
        hop: float = 0.5,
        labels: Labels = None,
        templates: Sequence[str] | None = None,
        *,
        progress: bool = True,
    ) -> Timeline:
        """Follow the classes along a recording of any length.

        Windows begin every ``hop`` seconds. What is left over after the last whole window is
        a shorter one if it holds at least half a window; a recording shorter than one window
        is one window.

        Parameters
        ----------
        path : str or os.PathLike
            A local file of any rate, length and number of channels.
        window, hop : float
            Length of a window, 0.1 to 600, and from one's beginning to the next's, 0.01 or more,
            in seconds. Training saw whole utterances, mostly of 2 s and more: expect less of
            shorter windows.
        labels, templates
            See `classify_batch`.
        progress : bool
            Show a bar on standard error, where that is a terminal.

        Raises
        ------
        ValueError
            If ``window`` or ``hop`` is out of its range, or labels or templates cannot serve.
        AudioError
            If the file cannot be read, to its end, or a batch of windows not be computed.
        """
        names, classes = self._classes(labels, templates)

        def classify(wavs: Tensor, wav_lens: Tensor) -> Tensor:
            return self._classified(self.encode_batch(wavs, wav_lens)[:, 0], names, classes)[0]

        seconds = batch_seconds(self.device)
        return classify_windows(
            classify, names, path, window, hop, self.sample_rate, seconds, progress
        )
