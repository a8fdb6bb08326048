"""A trained model in use: SpeechBrain's EncoderClassifier, asked with any words.

`GEmoCLAPClassifier.from_pretrained` reads data only: it constructs the package's own
classes from ``config.json`` and fills them from ``model.safetensors``. SpeechBrain's
``from_hparams`` works too, but executes what a folder's YAML says.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.logger import get_logger
from torch import Tensor, nn

from gemoclap_sb.data.audio import AudioError, read_audio
from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.inference.bulk import (
    CPU_BATCH_SECONDS,
    GPU_BATCH_SECONDS,
    BulkOptions,
    FileEmbedding,
    embed_batch,
    embed_files,
    read_recording,
)
from gemoclap_sb.inference.loading import load_parts, load_text_tower, local_folder
from gemoclap_sb.inference.results import Classification, Match, embedding_of
from gemoclap_sb.inference.timeline import Timeline, classify_windows
from gemoclap_sb.models.ensemble import TextEnsemble
from gemoclap_sb.models.gemoclap import class_embeddings
from gemoclap_sb.models.towers import TextTower, class_log_posteriors

logger = get_logger(__name__)

CACHED_SENTENCES = 10_000

Labels = Sequence[str] | Mapping[str, str] | None
Paths = Iterable[str | os.PathLike]


class GEmoCLAPClassifier(EncoderClassifier):
    """Classify recordings by words, embed recordings and sentences, search recordings.

    Made by `from_pretrained`, or by SpeechBrain's ``from_hparams`` on a folder that you trust.
    Its constructor and return values are those of ``EncoderClassifier``.

    What happens at the edges: a recording shorter than the encoder's first frame (25 ms for
    WavLM) is padded with silence to one frame; one longer than ``longest_seconds`` (60) is
    read and embedded in equal pieces whose embeddings are averaged, so that memory does not
    grow with it (see ``timeline`` for what happens within it); silence gets a class like
    anything else, which says nothing. An utterance's result does not depend on its batch.

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
        self.text_tower: TextTower | TextEnsemble | None = None
        self._source: str | os.PathLike | None = None
        self._sentences: OrderedDict[str, Tensor] = OrderedDict()

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
        """
        folder = local_folder(source, **hub_options)
        modules, hparams, text_tower = load_parts(folder, attribute)
        # SpeechBrain warns of a "cuda" without a number.
        numbered = "cuda:0" if str(device) == "cuda" else str(device)
        run_opts = None if device is None else {"device": numbered}
        classifier = cls(modules=modules, hparams=hparams, run_opts=run_opts)
        classifier._source = folder
        if text_tower is not None:
            classifier.text_tower = text_tower.to(classifier.device)
            own = classifier.prompts.templates[classifier.attribute]
            classifier.mods.classifier.classes.copy_(classifier._classes(None, own)[1])
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
            classifier._source = source.path if isinstance(source, FetchSource) else source
        return classifier

    @property
    def attribute(self) -> str:
        """What is classified: ``emotion``, or another head of the model."""
        return self.hparams.attribute

    @property
    def labels(self) -> list[str]:
        """The model's own labels, in the order of their indices."""
        return list(self.prompts.words[self.attribute])

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that the model takes, in Hz."""
        return self.hparams.sample_rate

    def load_audio(self, path: str | os.PathLike, savedir: str | None = None) -> Tensor:
        """Read a file as the model wants it: float32 ``[T]``, on the model's device.

        A local file of any rate, channel count and format that libsndfile reads. An address
        (``https://...``) or a ``FetchSource`` goes through SpeechBrain, which keeps what it
        fetches in ``savedir``. AudioError if the file cannot be used.
        """
        if _is_remote(path):
            return super().load_audio(path, savedir)
        return read_audio(path, self.sample_rate).to(self.device)

    def encode_batch(
        self, wavs: Tensor, wav_lens: Tensor | None = None, normalize: bool = False
    ) -> Tensor:
        """Embed waveforms ``[B, T]`` or ``[T]``, mono, at the model's rate.

        ``wav_lens`` ``[B]`` are relative to the longest; by default all are as long. Returns
        ``[B, 1, D]``, L2-normalised whatever ``normalize`` says, but for a plain classifier's.
        """
        with torch.inference_mode():
            embeddings = super().encode_batch(wavs, wav_lens, normalize)
        # Tensors made in inference mode cannot take part in anybody's training.
        return embeddings.clone()

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Embed N sentences, ``[N, D]``, L2-normalised.

        One asked for before is not encoded again. ValueError for no sentence or one that is longer
        than the text encoder takes, and for a plain classifier.
        """
        if isinstance(sentences, str) or not sentences:
            raise ValueError(f"sentences: expected a list of one or more, found {sentences!r}.")
        self.mods.classifier.check_texts()
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
            If labels or templates cannot serve.
        """
        names, classes = self._classes(labels, templates)
        return self._classified(self.encode_batch(wavs, wav_lens)[:, 0], names, classes)

    def classify_file(
        self,
        path: str | os.PathLike,
        labels: Labels = None,
        templates: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Classify one file, whatever its length.

        ``path`` and ``kwargs`` are `load_audio`'s; the rest is as in `classify_batch`, with
        B = 1. AudioError if the file cannot be read.
        """
        names, classes = self._classes(labels, templates)
        if _is_remote(path):
            embedding = self.encode_batch(self.load_audio(path, **kwargs))[:, 0]
        else:
            tower = self.mods.embedding_model
            recording = read_recording(path, tower.sample_rate, tower.longest)
            if recording.error is not None:
                raise AudioError(recording.error)
            [row] = embed_batch(tower, [recording], self.device)
            embedding = embedding_of(row)[None].to(self.device)
        return self._classified(embedding, names, classes)

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
        options = BulkOptions(**options)
        return embed_files(self.mods.embedding_model, paths, self.device, options)

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
        if top_k < 1:
            raise ValueError(f"top_k: expected 1 or more, found {top_k!r}.")
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
            Length of a window, and from one's beginning to the next's, in seconds. Training
            saw whole utterances, mostly of 2 s and more: expect less of shorter windows.
        labels, templates
            See `classify_batch`.
        progress : bool
            Show a bar on standard error, where that is a terminal.

        Raises
        ------
        ValueError
            If ``window`` or ``hop`` is not positive, or labels or templates cannot serve.
        AudioError
            If the file cannot be read, to its end.
        """
        names, classes = self._classes(labels, templates)

        def classify(wavs: Tensor, wav_lens: Tensor) -> Tensor:
            return self._classified(self.encode_batch(wavs, wav_lens)[:, 0], names, classes)[0]

        on_cpu = torch.device(self.device).type == "cpu"
        seconds = CPU_BATCH_SECONDS if on_cpu else GPU_BATCH_SECONDS
        return classify_windows(
            classify, names, path, window, hop, self.sample_rate, seconds, progress
        )

    def _classes(self, labels: Labels, templates: Sequence[str] | None) -> tuple[list[str], Tensor]:
        """Names of the classes asked for, and their embeddings ``[C, D]``."""
        if labels is None and templates is None:
            return self.labels, self.mods.classifier.classes
        self.mods.classifier.check_texts()
        prompts = self.prompts.asked(self.attribute, labels, templates)
        sentences = prompts.class_sentences(self.attribute)
        names = list(prompts.words[self.attribute])
        unit = self.mods.embedding_model.unit
        return names, class_embeddings(sentences, self.encode_text, unit)

    def _classified(
        self, embeddings: Tensor, names: list[str], classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        out_prob = class_log_posteriors(embeddings, classes, self.mods.classifier.scale)
        score, index = out_prob.max(dim=-1)
        return out_prob, score, index, [names[i] for i in index.tolist()]

    def _text(self) -> TextTower | TextEnsemble:
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
