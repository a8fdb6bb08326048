"""Sentences to vectors.

`TextEncoder` is a pretrained encoder of the Hugging Face hub, RoBERTa in the paper (Pan et al.,
arXiv 2306.07848, section 2.1; Liu et al., arXiv 1907.11692). `ByteTextEncoder` is a small RoBERTa
over UTF-8 bytes that trains from nothing and needs no vocabulary file. Both give the hidden state
of the first token; RoBERTa's pooler is left out, since nothing would train it.

SpeechBrain's own ``TextEncoder`` is not used: it calls ``set_grad_enabled(True)`` in ``forward``
and so builds a graph inside ``torch.no_grad()``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.integrations.huggingface.huggingface import HFTransformersInterface
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, RobertaConfig, RobertaModel
from transformers.configuration_utils import PreTrainedConfig

from gemoclap_sb.lobes.configured import Configured
from gemoclap_sb.lobes.normalization import SentenceNormalization
from gemoclap_sb.lobes.source_weights import SourceWeights

_BOS, _PAD, _EOS, _FIRST_BYTE = 0, 1, 2, 3


class TextEncoder(SourceWeights, HFTransformersInterface):
    """Pretrained text encoder: RoBERTa, XLM-R, BERT, or another of that kind.

    Loaded through SpeechBrain's Hugging Face interface. Code from the hub is never run.

    Parameters
    ----------
    source : str
        Hub id (``FacebookAI/roberta-base``, ``FacebookAI/xlm-roberta-base``) or a folder.
    save_path : str
        Folder in which downloads are kept.
    freeze : bool
        Whether the encoder keeps its weights. It then stays in eval mode and builds no graph.
    gradient_checkpointing : bool
        Whether training recomputes activations in the backward pass to save memory.

    Raises
    ------
    ValueError
        If the model is an encoder-decoder, or has no hidden size.

    Examples
    --------
    >>> encoder = TextEncoder("FacebookAI/roberta-base", "pretrained")  # doctest: +SKIP
    >>> encoder(["this person sounds sad"]).shape  # doctest: +SKIP
    torch.Size([1, 768])
    """

    def __init__(
        self,
        source: str,
        save_path: str,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(source=str(source), save_path=str(save_path), freeze=freeze)
        self.source = str(source)
        self._set_up(self.source, gradient_checkpointing, cache_dir=str(save_path))
        self.remember_source(save_path, self._random)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Encode N sentences, [N, output_size]; ValueError for none, or one that is too long."""
        sentences = _checked(sentences)
        tokens = self.tokenizer(sentences, padding=True, return_tensors="pt")
        counts = tokens["attention_mask"].sum(dim=1)
        if counts.max() > self.max_tokens:
            longest = int(counts.argmax())
            raise ValueError(
                f"sentences[{longest}]: expected at most {self.max_tokens} tokens, found "
                f"{int(counts[longest])}. Shorten it: {sentences[longest][:60]!r}..."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.model(**tokens.to(self.model.device)).last_hidden_state[:, 0]

    def train(self, mode: bool = True) -> TextEncoder:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.model.eval()
        return self

    def override_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Refuse what cannot work; called by SpeechBrain before weights are loaded."""
        if config.is_encoder_decoder:
            raise ValueError(
                f"text_source: expected a text encoder such as RoBERTa, found the "
                f"encoder-decoder {config.model_type!r}."
            )
        return config

    def to_config(self) -> dict[str, Any]:
        """Plain data from which `from_config` builds the same encoder, without weights."""
        model = json.loads(self.model.config.to_json_string(use_diff=False))
        # The source may be a path on the machine that trained.
        model.pop("_name_or_path", None)
        settings = {name: getattr(self, name) for name in ("freeze", "gradient_checkpointing")}
        return {"model": model, **settings}

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer's files into a folder."""
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer_folder: str | Path) -> TextEncoder:
        """Build the encoder of `to_config` and `save_tokenizer`; weights are random."""
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.config = encoder.override_config(AutoConfig.for_model(**config["model"]))
        encoder.model = AutoModel.from_config(encoder.config, **_without_pooler(encoder.config))
        encoder.freeze = config["freeze"]
        if encoder.freeze:
            encoder.freeze_model(encoder.model)
        encoder._set_up(str(tokenizer_folder), config["gradient_checkpointing"])
        return encoder

    def _from_pretrained(self, source: str, **kwargs: Any) -> None:
        # SpeechBrain's hook between reading the configuration and loading the weights.
        # A half-precision checkpoint would otherwise keep its own type.
        kwargs |= {"dtype": torch.float32, **_without_pooler(self.config)}
        super()._from_pretrained(source, output_loading_info=True, **kwargs)
        if isinstance(self.model, tuple):
            self.model, report = self.model
            self._random = set(report["missing_keys"]) | {k[0] for k in report["mismatched_keys"]}
        else:
            # SpeechBrain's own format does not tell.
            self._random = {name for name, _ in self.model.named_parameters()}

    def _set_up(self, tokenizer: str, gradient_checkpointing: bool, **options: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, **options)
        # The first token must stay first.
        self.tokenizer.padding_side = "right"
        self.output_size = int(self.model.config.hidden_size)
        self.max_tokens = min(self.tokenizer.model_max_length, _position_count(self.model))
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})


class ByteTextEncoder(Configured):
    """Small RoBERTa over UTF-8 bytes, trained from nothing.

    A byte is a token, so any script can be read and no vocabulary is fetched. Attention is `sdpa`.
    Vectors are normalised by those of other sentences: prompts differ in one word, and what they
    have in common would otherwise hide it.

    Parameters
    ----------
    hidden_size : int
        Size of the vectors, a multiple of ``heads``.
    layers : int
        Transformer layers.
    heads : int
        Attention heads.
    dropout : float
        Dropout in training. Prompts differ in a word, and 0.1 is noise enough to hide it: the text
        tower then learns several epochs later.
    max_bytes : int
        Longest sentence.
    gradient_checkpointing : bool
        Whether training recomputes activations in the backward pass to save memory.

    Raises
    ------
    ValueError
        If ``hidden_size`` is not a multiple of ``heads``.

    Examples
    --------
    >>> encoder = ByteTextEncoder(hidden_size=32)
    >>> encoder(["this person sounds sad", "悲しい"]).shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        hidden_size: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        max_bytes: int = 256,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(locals())
        if hidden_size % heads:
            raise ValueError(f"hidden_size: expected a multiple of {heads=}, found {hidden_size}")
        self.output_size = hidden_size
        self.max_bytes = max_bytes
        self.model = RobertaModel(
            RobertaConfig(
                vocab_size=_FIRST_BYTE + 256,
                hidden_size=hidden_size,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * hidden_size,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                # Two for the ends, and RoBERTa counts positions from after its padding id.
                max_position_embeddings=max_bytes + 2 + _PAD + 1,
                type_vocab_size=1,
                # RoBERTa's 0.02 is meant for 768: in a narrow model it hides a word among
                # the others, and all sentences begin with a cosine of 0.99999.
                initializer_range=hidden_size**-0.5,
                pad_token_id=_PAD,
            ),
            add_pooling_layer=False,
        )
        self.normalization = SentenceNormalization(hidden_size)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Encode N sentences, [N, output_size]; ValueError for none, or one that is too long."""
        rows = [
            torch.tensor([_BOS, *(byte + _FIRST_BYTE for byte in self._bytes(sentence)), _EOS])
            for sentence in _checked(sentences)
        ]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_PAD)
        ids = ids.to(self.model.device)
        output = self.model(input_ids=ids, attention_mask=ids.ne(_PAD).long())
        return self.normalization(output.last_hidden_state[:, 0].float())

    def _bytes(self, sentence: str) -> bytes:
        encoded = sentence.encode("utf-8")
        if len(encoded) > self.max_bytes:
            raise ValueError(
                f"sentence: expected at most max_bytes = {self.max_bytes} bytes, found "
                f"{len(encoded)}. Shorten it or raise max_bytes: {sentence[:60]!r}..."
            )
        return encoded


def _checked(sentences: Sequence[str]) -> list[str]:
    if isinstance(sentences, str):
        raise ValueError("sentences: expected a list of sentences, found one string.")
    if not sentences:
        raise ValueError("sentences: expected one or more, found an empty list.")
    return list(sentences)


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Leave the pooler out where the class has one: it would have no gradient."""
    model_class = AutoModel._model_mapping[type(config)]
    takes = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


def _position_count(model: nn.Module) -> int:
    """Tokens that the model has positions for."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return int(getattr(model.config, "max_position_embeddings", None) or 2**31)
    # RoBERTa's family counts positions from after its padding id.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
