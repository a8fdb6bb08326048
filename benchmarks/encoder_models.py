"""Models for the encoder benchmark: the published architectures with random weights.

Nothing is downloaded. Each is written with `save_pretrained`, so that the stock lobe and
ours load the same weights from the same folder.

LayerDrop is set to 0 for both paths: a skipped layer would be time saved by chance. The
base models have the GroupNorm front end, the large ones the layer-norm front end and the
pre-norm encoder of the published large checkpoints.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

SIZES = ("tiny", "base", "large")
FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec")
_CLASSES = {
    "wavlm": (WavLMConfig, WavLMModel),
    "hubert": (HubertConfig, HubertModel),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioModel),
}
_TINY = {
    # Heads of sixteen columns, the smallest that flex_attention takes.
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_LARGE_FRONT_END = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_TINY_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "vocab_size": 600,
}
# Of FacebookAI/roberta-base, which the project pairs with every audio encoder.
_ROBERTA_BASE = {"vocab_size": 50265, "max_position_embeddings": 514}


def audio_config(family: str, size: str, attention_dropout: float = 0.1) -> object:
    """Make transformers' configuration of an audio encoder.

    Parameters
    ----------
    family : str
        One of `FAMILIES`.
    size : str
        One of `SIZES`.
    attention_dropout : float
        Dropout of the attention probabilities in training.

    Returns
    -------
    PreTrainedConfig
        Its `layerdrop` is 0.
    """
    config_class, _ = _CLASSES[family]
    settings: dict[str, object] = {"layerdrop": 0.0, "attention_dropout": attention_dropout}
    if size == "tiny":
        settings |= _TINY
        # data2vec-audio has a stack of short positional convolutions, the others one long one.
        settings["num_conv_pos_embeddings"] = 2 if family == "data2vec" else 16
    elif size == "large":
        # data2vec-audio knows one front end and a post-norm encoder only.
        settings |= _LARGE if family == "data2vec" else _LARGE | _LARGE_FRONT_END
    return config_class(**settings)


def save_audio_model(
    folder: Path, family: str, size: str, attention_dropout: float, seed: int
) -> None:
    """Save an audio encoder with random weights, and its preprocessor's configuration.

    Parameters
    ----------
    folder : Path
        Where to write.
    family, size, attention_dropout
        See `audio_config`.
    seed : int
        Of the weights.
    """
    _, model_class = _CLASSES[family]
    torch.manual_seed(seed)
    model_class(audio_config(family, size, attention_dropout)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def save_text_model(folder: Path, size: str, sentences: list[str], seed: int) -> None:
    """Save a RoBERTa with random weights and a byte-level BPE tokenizer.

    Parameters
    ----------
    folder : Path
        Where to write.
    size : str
        One of `SIZES`. `base` and `large` are roberta-base.
    sentences : list of str
        What the tokenizer is trained on: every word becomes a token, as in the published
        vocabulary.
    seed : int
        Of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_TINY_TEXT["vocab_size"],
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences, trainer)
    bpe.model.save(str(folder))
    tokenizer = RobertaTokenizerFast.from_pretrained(folder, model_max_length=64)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(_TINY_TEXT if size == "tiny" else _ROBERTA_BASE),
    )
    torch.manual_seed(seed)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
