"""What a checkpoint must be to serve as an `SSLEncoder`; each mistake is a ValueError."""

from __future__ import annotations

import os
from collections.abc import Mapping

from transformers import AutoFeatureExtractor, PreTrainedConfig

from gemoclap_sb.files import read_json
from gemoclap_sb.lobes.run_encoders import CONFIG
from gemoclap_sb.lobes.ssl_options import MODEL_TYPES, SAMPLE_RATE


def check_source(source: str) -> None:
    """Refuse a local folder without a model of transformers, as a run without ``encoder/`` is."""
    if not os.path.isdir(source):
        return
    try:
        config = read_json(os.path.join(source, CONFIG))
    except (OSError, ValueError):
        config = None
    if not (isinstance(config, dict) and "model_type" in config):
        raise ValueError(
            f"{source}: expected a folder in transformers' format, with a model_type in its "
            f"{CONFIG}, or a run with such a folder as its encoder/; found neither"
        )


def check_config(source: str, config: PreTrainedConfig, options: Mapping[str, object]) -> None:
    """Refuse a configuration that cannot serve, or not with these options."""
    kind = config.model_type
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(f"{source}: expected a model_type among {known}, found {kind!r}")
    if getattr(config, "add_adapter", False):
        raise ValueError(
            f"{source}: its configuration has add_adapter=true, a strided stack that "
            "mixes padding into the frames; use a checkpoint without it"
        )
    if options["attention"] == "flex" and kind != "wavlm":
        raise ValueError(
            f"attention: expected 'auto', 'sdpa' or 'eager' for {kind!r}, found 'flex', which "
            "is for WavLM's position bias"
        )
    augments = config.mask_time_prob or config.mask_feature_prob
    if options["apply_spec_augment"] and not augments:
        raise ValueError(
            f"{source}: apply_spec_augment=True, but mask_time_prob and mask_feature_prob "
            "are both 0 in its config.json; set one there or turn the option off"
        )


def reads_normalized(source: str, save_path: str) -> bool:
    """Ask the checkpoint's preprocessor whether waveforms are normalised."""
    try:
        preprocessor = AutoFeatureExtractor.from_pretrained(source, cache_dir=save_path)
    except OSError as error:
        raise ValueError(
            f"{source}: expected a preprocessor_config.json, found none that loads; "
            "say normalize_wav=True or False"
        ) from error
    if preprocessor.sampling_rate != SAMPLE_RATE:
        raise ValueError(
            f"{source}: expected a model of {SAMPLE_RATE} Hz, found "
            f"{preprocessor.sampling_rate} Hz in preprocessor_config.json"
        )
    return bool(preprocessor.do_normalize)
