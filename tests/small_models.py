"""Small real models of the Hugging Face classes, saved the way the hub saves the large ones.

Weights cannot be downloaded where the tests run. A few thousand random weights in
the real classes take the same loading path and expose the same mistakes.
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
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec")
NORMS = ("layer", "group")

_SSL_CLASSES = {
    "wavlm": (WavLMConfig, WavLMModel),
    "hubert": (HubertConfig, HubertModel),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioModel),
}

_TEXT = (
    "this person sounds angry",
    "this person sounds happy",
    "this person sounds sad",
    "this person sounds neutral",
    "a male speaker",
    "a female speaker",
    "the speaker is calm, surprised, fearful or disgusted",
)


def _spread_weights(model: PreTrainedModel, seed: int) -> None:
    """Move every parameter off its initial constant, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def save_small_ssl(
    folder: str | Path,
    family: str = "wavlm",
    norm: str = "layer",
    hidden_size: int = 32,
    layers: int = 2,
    seed: int = 0,
    **overrides: object,
) -> Path:
    """Save a small self-supervised speech model and its preprocessor configuration.

    `norm` is the front end's kind (`feat_extract_norm`). As in the published models,
    `"layer"` comes with a pre-norm encoder and `"group"` with a post-norm one.
    data2vec-audio has a layer-norm front end and a post-norm encoder only; there `norm`
    leaves the model as it is. `overrides` go to the configuration class.
    """
    folder = Path(folder)
    config_class, model_class = _SSL_CLASSES[family]
    settings: dict[str, object] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "conv_dim": [16] * 7,
        "conv_bias": norm == "layer",
        "num_conv_pos_embedding_groups": 4,
        "mask_time_length": 2,
    }
    if family == "data2vec":
        settings |= {"conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 3}
    else:
        settings |= {
            "num_conv_pos_embeddings": 16,
            "feat_extract_norm": norm,
            "do_stable_layer_norm": norm == "layer",
        }
    if family == "wavlm":
        # Small enough that ten seconds reach the logarithmic buckets and the last one.
        settings |= {"num_buckets": 32, "max_bucket_distance": 80}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config_class(**(settings | overrides)))
    _spread_weights(model, seed)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=norm == "layer"
    ).save_pretrained(folder)
    return folder


def save_small_roberta(
    folder: str | Path, hidden_size: int = 32, layers: int = 2, seed: int = 0
) -> Path:
    """Save a small RoBERTa with a byte-level BPE tokenizer trained on a few sentences."""
    folder = Path(folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXT, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = bpe.model.save(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=64)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobertaModel(config, add_pooling_layer=False)
    _spread_weights(model, seed)
    model.save_pretrained(folder)
    return folder
