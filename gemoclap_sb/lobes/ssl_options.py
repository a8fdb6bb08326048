"""What `SSLEncoder` may be asked for; a mistake is reported before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

SAMPLE_RATE = 16_000
MODEL_TYPES = ("wavlm", "hubert", "wav2vec2", "data2vec-audio")
FUSED = ("auto", "sdpa", "flex")
ATTENTIONS = (*FUSED, "eager")


def check_options(options: Mapping[str, object]) -> None:
    """Refuse unknown and contradictory options by a ValueError that names them.

    >>> check_options({"layers": 0, "attention": "auto", "adapter": None})
    Traceback (most recent call last):
    ValueError: layers: expected 'last', 'weighted' or n >= 1, found 0
    """
    layers, attention, adapter = options["layers"], options["attention"], options["adapter"]
    is_number = isinstance(layers, int) and not isinstance(layers, bool) and layers >= 1
    if layers not in ("last", "weighted") and not is_number:
        raise ValueError(f"layers: expected 'last', 'weighted' or n >= 1, found {layers!r}")
    if attention not in ATTENTIONS:
        raise ValueError(f"attention: expected one of {ATTENTIONS}, found {attention!r}")
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
