"""What `SSLEncoder` may be asked for, and which checkpoints can serve.

Mistakes are reported before anything is downloaded or built.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedConfig

from gemoclap_sb.lobes.attention import IMPLEMENTATIONS

SAMPLE_RATE = 16_000
MODEL_TYPES = ("wavlm", "hubert", "wav2vec2", "data2vec-audio")


def check_options(options: Mapping[str, object]) -> None:
    """Refuse unknown and contradictory options.

    Parameters
    ----------
    options : Mapping
        The keyword arguments of `SSLEncoder`.

    Raises
    ------
    ValueError
        Naming the option, what was expected and what was found.

    Examples
    --------
    >>> check_options({"layers": 0, "attention": "auto", "adapter": None})
    Traceback (most recent call last):
    ValueError: layers: expected 'last', 'weighted' or a number from 1, found 0
    """
    layers, attention, adapter = options["layers"], options["attention"], options["adapter"]
    is_number = isinstance(layers, int) and not isinstance(layers, bool) and layers >= 1
    if layers not in ("last", "weighted") and not is_number:
        raise ValueError(
            f"layers: expected 'last', 'weighted' or a number from 1, found {layers!r}"
        )
    if attention not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention: expected one of {', '.join(IMPLEMENTATIONS)}, found {attention!r}"
        )
    dropout = options["attention_dropout"]
    if dropout is not None and not 0.0 <= dropout < 1.0:
        raise ValueError(f"attention_dropout: expected null or 0 <= p < 1, found {dropout!r}")
    if adapter not in (None, "lora"):
        raise ValueError(f"adapter: expected 'lora' or null, found {adapter!r}")
    if adapter and options["freeze"]:
        raise ValueError("freeze: expected False with an adapter, found True; drop one of the two")
    if adapter and attention == "eager":
        raise ValueError(
            "attention: expected 'auto', 'sdpa' or 'flex' with an adapter, found 'eager', which "
            "reads the projections' weights past their adapters"
        )
    if options["adapter_options"] and not adapter:
        raise ValueError("adapter_options: expected adapter='lora' with them, found no adapter")


def check_checkpoint(config: PreTrainedConfig, options: Mapping[str, object], source: str) -> None:
    """Refuse a model that cannot serve, or not with these options.

    Parameters
    ----------
    config : PreTrainedConfig
        transformers' configuration of the model.
    options : Mapping
        The keyword arguments of `SSLEncoder`.
    source : str
        Where the model comes from, for the message.

    Raises
    ------
    ValueError
        Naming the source, what was expected and what was found.
    """
    if config.model_type not in MODEL_TYPES:
        raise ValueError(
            f"{source}: expected a model_type among {', '.join(MODEL_TYPES)}, "
            f"found {config.model_type!r}"
        )
    if getattr(config, "add_adapter", False):
        raise ValueError(
            f"{source}: its configuration has add_adapter=true, a strided stack that mixes "
            "padding into the frames; use a checkpoint without it"
        )
    if options["attention"] == "flex" and config.model_type != "wavlm":
        raise ValueError(
            f"attention: expected 'auto', 'sdpa' or 'eager' for {config.model_type!r}, found "
            "'flex', which is for WavLM's position bias"
        )
    augments = config.mask_time_prob > 0 or config.mask_feature_prob > 0
    if options["apply_spec_augment"] and not augments:
        raise ValueError(
            f"{source}: apply_spec_augment=True, but mask_time_prob and mask_feature_prob "
            "are both 0 in its config.json; set one there or turn the option off"
        )


def receptive_field(config: PreTrainedConfig) -> int:
    """Count the samples that the first frame sees.

    Parameters
    ----------
    config : PreTrainedConfig
        transformers' configuration, with `conv_kernel` and `conv_stride`.

    Returns
    -------
    int
        400 (25 ms) for the published models.

    Examples
    --------
    >>> from transformers import WavLMConfig
    >>> receptive_field(WavLMConfig())
    400
    """
    samples = 1
    layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
    for kernel, stride in reversed(layers):
        samples = (samples - 1) * stride + kernel
    return samples
