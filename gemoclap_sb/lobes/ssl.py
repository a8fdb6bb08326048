"""Self-supervised speech encoders as audio lobes: WavLM, HuBERT, wav2vec 2.0, data2vec-audio.

Weights come through SpeechBrain's Hugging Face interface; the modules are
transformers' own, run here so that an utterance has the same frames in every batch.
The oracle is transformers itself, given the utterance alone and unpadded.

Sources: Chen et al., "WavLM", arXiv 2110.13900; Hsu et al., "HuBERT", arXiv
2106.07447; Baevski et al., "wav2vec 2.0", arXiv 2006.11477, and "data2vec", arXiv
2202.03555; Hu et al., "LoRA", arXiv 2106.09685; Yang et al., "SUPERB", arXiv
2105.01051, for the weighted sum of layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from speechbrain.integrations.huggingface.huggingface import HFTransformersInterface
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from gemoclap_sb.lobes.adapters import insert_lora
from gemoclap_sb.lobes.attention import fuse_wavlm_attention
from gemoclap_sb.lobes.lengths import mask_from_lengths, sample_lengths
from gemoclap_sb.lobes.padding import (
    attention_mask,
    front_end_features,
    normalize_waveforms,
    positional_embedding,
    run_layer,
    spec_augment,
)
from gemoclap_sb.lobes.ssl_options import (
    SAMPLE_RATE,
    check_checkpoint,
    check_options,
    receptive_field,
)


class SSLEncoder(HFTransformersInterface):
    """A self-supervised speech encoder: waveforms [B, T] to frames [B, F, D].

    LayerDrop is off: a skipped layer leaves parameters without a gradient, which
    distributed training refuses. The other dropouts are the checkpoint's.

    Parameters
    ----------
    source : str or Path
        Hub id (`microsoft/wavlm-large`) or a local folder in transformers' format.
    save_path : str or Path
        Where downloads are kept.
    freeze : bool
        Train nothing: no gradient, no graph, always in evaluation mode.
    freeze_feature_extractor : bool
        The same for the convolutional front end alone.
    normalize_wav : bool or None
        Zero mean and unit variance per utterance; None does what the checkpoint's
        `preprocessor_config.json` says.
    layers : str or int
        `"last"`; `"weighted"`, a learnt convex sum of the encoder's input and all layers, which
        also trains on top of a frozen encoder; or n from 1 to the depth, the output of the n-th
        layer (later ones are dropped).
    attention : str
        For WavLM see `FusedWavLMAttention`; `"eager"` is transformers' own. The other families
        know `"sdpa"` (also `"auto"`) and `"eager"`.
    attention_dropout : float or None
        In place of the checkpoint's attention dropout.
    apply_spec_augment : bool
        Mask spans of time or features while training, as the checkpoint's configuration says.
    gradient_checkpointing : bool
        Keep only each layer's input while training and run the layer again in backward.
    pad_short : bool
        Pad an utterance shorter than one frame with zeros to one frame, instead of an error.
    adapter : str or None
        `"lora"`: freeze the encoder and train SpeechBrain's LoRA beside it.
    adapter_options : Mapping or None
        See `gemoclap_sb.lobes.adapters.insert_lora`.

    Attributes
    ----------
    output_size : int
        D.

    Raises
    ------
    ValueError
        If an option is unknown or contradicts another, or the checkpoint cannot serve.

    Examples
    --------
    >>> from transformers import WavLMConfig
    >>> small = WavLMConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     intermediate_size=64, conv_dim=[8] * 7, num_conv_pos_embedding_groups=4)
    >>> encoder = SSLEncoder.from_config({"model": small.to_dict(), "normalize_wav": True})
    >>> frames = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> frames.shape, encoder.frame_lengths(torch.tensor([16000, 8000])).tolist()
    (torch.Size([2, 49, 32]), [49, 24])
    """

    def __init__(
        self,
        source: str | Path,
        save_path: str | Path,
        *,
        freeze: bool = False,
        freeze_feature_extractor: bool = False,
        normalize_wav: bool | None = None,
        layers: str | int = "last",
        attention: str = "auto",
        attention_dropout: float | None = None,
        apply_spec_augment: bool = False,
        gradient_checkpointing: bool = False,
        pad_short: bool = False,
        adapter: str | None = None,
        adapter_options: Mapping[str, object] | None = None,
    ) -> None:
        # The interface calls override_config before it returns, which needs the options.
        nn.Module.__init__(self)
        self.options = {
            "freeze": freeze,
            "freeze_feature_extractor": freeze_feature_extractor,
            "normalize_wav": normalize_wav,
            "layers": layers,
            "attention": attention,
            "attention_dropout": attention_dropout,
            "apply_spec_augment": apply_spec_augment,
            "gradient_checkpointing": gradient_checkpointing,
            "pad_short": pad_short,
            "adapter": adapter,
            "adapter_options": dict(adapter_options or {}),
        }
        check_options(self.options)
        self.source = str(source)
        super().__init__(
            source=self.source,
            save_path=str(save_path),
            freeze=False,
            # transformers would otherwise take a half-precision checkpoint's own type.
            dtype=torch.float32,
            output_loading_info=True,
        )
        if normalize_wav is None:
            self.options["normalize_wav"] = self._read_preprocessor(str(save_path))
        self._assemble()

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> SSLEncoder:
        """Build the same module from what `to_config` gave, with random weights.

        Parameters
        ----------
        config : Mapping
            `model` (transformers' configuration, `model_type` included), `normalize_wav`, and any
            other option of the constructor.

        Returns
        -------
        SSLEncoder
            Its state dictionary has the keys of the original's.

        Raises
        ------
        ValueError
            If a key is missing or unknown.
        """
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        defaults = {name: default for name, default in cls.__init__.__kwdefaults__.items()} | {
            "adapter_options": {}
        }
        options = dict(config)
        model = options.pop("model", None)
        unknown = sorted(set(options) - set(defaults))
        if unknown or model is None or options.get("normalize_wav") is None:
            raise ValueError(
                "expected a configuration written by SSLEncoder.to_config, with 'model' and "
                f"'normalize_wav'; found {sorted(config)}, of which unknown: {unknown}"
            )
        encoder.source = "the configuration"
        encoder.options = defaults | options
        check_options(encoder.options)
        encoder.config = encoder.override_config(AutoConfig.for_model(**model))
        encoder.model = AutoModel.from_config(
            encoder.config, attn_implementation=encoder._stock_attention(), dtype=torch.float32
        )
        encoder._assemble()
        return encoder

    def to_config(self) -> dict[str, object]:
        """Describe the module so that `from_config` can rebuild it, ready for JSON.

        Returns
        -------
        dict
            The options, and transformers' configuration under `model`. No paths, no weights.
        """
        model = json.loads(self.config.to_json_string(use_diff=False))
        for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
            model.pop(key, None)
        return {"model": model, **self.options}

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Encode a padded batch.

        Parameters
        ----------
        wavs : Tensor
            Waveforms at 16 kHz, float [B, T], padded at the end with anything.
        wav_lens : Tensor or None
            Lengths relative to T, [B]; None where nothing is padded.

        Returns
        -------
        Tensor
            Frames, float32 [B, F, D], zero past each utterance's `frame_lengths`.

        Raises
        ------
        ValueError
            If the shapes are wrong, or an utterance is shorter than one frame.
        """
        samples, padded = self._measure(wavs, wav_lens)
        wavs = normalize_waveforms(
            wavs.float(),
            mask_from_lengths(samples, wavs.shape[1]) if padded else None,
            self.options["normalize_wav"],
        )
        if self.options["pad_short"]:
            wavs = F.pad(wavs, (0, max(0, self.shortest - wavs.shape[1])))
            samples = samples.clamp(min=self.shortest)
        with torch.set_grad_enabled(torch.is_grad_enabled() and _trains(self.model)):
            states, valid = self._hidden_states(wavs, samples if padded else None)
        frames = states[-1]
        if self.options["layers"] == "weighted":
            weights = torch.softmax(self.layer_weights, dim=0)
            frames = sum(weight * state for weight, state in zip(weights, states, strict=True))
        if valid is not None:
            frames = frames.masked_fill(~valid.unsqueeze(-1), 0.0)
        return frames.float()

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Count the valid frames of utterances.

        Parameters
        ----------
        samples : Tensor
            Their lengths in samples, LongTensor [B].

        Returns
        -------
        Tensor
            LongTensor [B].
        """
        if self.options["pad_short"]:
            samples = samples.clamp(min=self.shortest)
        return self.model._get_feat_extract_output_lengths(samples).long()

    def train(self, mode: bool = True) -> SSLEncoder:
        """Set training mode, in which frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.options["freeze"]:
            self.model.eval()
        elif self.options["freeze_feature_extractor"]:
            self.model.feature_extractor.eval()
        return self

    def override_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Check that the checkpoint can serve and set what the options say."""
        check_checkpoint(config, self.options, self.source)
        config.apply_spec_augment = self.options["apply_spec_augment"]
        config.layerdrop = 0.0
        if self.options["attention_dropout"] is not None:
            config.attention_dropout = self.options["attention_dropout"]
        return config

    def _from_pretrained(
        self, source: str, save_path: str, cache_dir: str, **kwargs: object
    ) -> None:
        """Load transformers' weights and refuse a checkpoint that leaves some of them random."""
        is_speechbrain, file, _ = self._check_model_source(source, save_path)
        if is_speechbrain:
            raise ValueError(
                f"{source}: expected weights in transformers' format (model.safetensors), found "
                f"SpeechBrain's {file}; save the model with save_pretrained first"
            )
        kwargs["attn_implementation"] = self._stock_attention()
        super()._from_pretrained(source, save_path=save_path, cache_dir=cache_dir, **kwargs)
        self.model, report = self.model
        # The mask's embedding is used by SpecAugment only, and some checkpoints leave it out.
        ignored = set() if self.options["apply_spec_augment"] else {"masked_spec_embed"}
        missing = sorted(set(report["missing_keys"]) - ignored)
        mismatched = sorted(str(key) for key in report["mismatched_keys"])
        if missing or mismatched:
            raise ValueError(
                f"{source}: expected weights for every parameter of {type(self.model).__name__}, "
                f"found none for {missing} and other shapes for {mismatched}; "
                "check that config.json belongs to the weights"
            )

    def _stock_attention(self) -> str:
        """Name the attention that transformers is asked for; WavLM's is replaced afterwards."""
        eager = self.config.model_type == "wavlm" or self.options["attention"] == "eager"
        return "eager" if eager else "sdpa"

    def _read_preprocessor(self, save_path: str) -> bool:
        """Ask the checkpoint's preprocessor whether waveforms are normalised."""
        try:
            self.load_feature_extractor(self.source, cache_dir=save_path)
        except OSError as error:
            raise ValueError(
                f"{self.source}: expected a preprocessor_config.json, found none that loads; "
                "say normalize_wav=True or False"
            ) from error
        preprocessor = self.feature_extractor
        del self.feature_extractor
        if preprocessor.sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"{self.source}: expected a model of {SAMPLE_RATE} Hz, found "
                f"{preprocessor.sampling_rate} Hz in preprocessor_config.json"
            )
        return bool(preprocessor.do_normalize)

    def _assemble(self) -> None:
        """Apply the options to the loaded model; the same for both ways of construction."""
        options, encoder = self.options, self.model.encoder
        depth, layers = len(encoder.layers), options["layers"]
        self.output_size: int = self.config.hidden_size
        self.shortest = receptive_field(self.config)
        # Pre-norm encoders normalise after the last layer, post-norm ones before the first.
        self.pre_norm = bool(getattr(self.config, "do_stable_layer_norm", False))
        if isinstance(layers, int) and layers > depth:
            raise ValueError(f"expected layers from 1 to {depth} in {self.source}, found {layers}")
        if isinstance(layers, int) and layers < depth:
            del encoder.layers[layers:]
            if self.pre_norm:
                encoder.layer_norm = nn.Identity()
        if self.config.model_type == "wavlm" and options["attention"] != "eager":
            fuse_wavlm_attention(self.model, options["attention"])
        if options["freeze"]:
            self.model.requires_grad_(False)
        elif options["adapter"] == "lora":
            insert_lora(self.model, **options["adapter_options"])
        elif options["freeze_feature_extractor"]:
            self.model.feature_extractor.requires_grad_(False)
        mask_is_used = options["apply_spec_augment"] and self.config.mask_time_prob > 0
        if hasattr(self.model, "masked_spec_embed") and not mask_is_used:
            self.model.masked_spec_embed.requires_grad_(False)
        if layers == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(depth + 1))
        self.train()

    @torch.compiler.disable
    def _measure(self, wavs: Tensor, wav_lens: Tensor | None) -> tuple[Tensor, bool]:
        """Count the samples of each utterance, and say whether any utterance is padded."""
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[:1], device=wavs.device)
        samples = sample_lengths(wavs, wav_lens)
        # One look at the values, so that a GPU is waited for once.
        shortest = int(samples.min())
        if shortest < self.shortest and not self.options["pad_short"]:
            raise ValueError(
                f"expected at least {self.shortest} samples "
                f"({1000 * self.shortest / SAMPLE_RATE:g} ms, one frame) per utterance, found "
                f"{shortest} in row {int(samples.argmin())} of the batch; leave it out, or set "
                "pad_short=True"
            )
        # Zeros appended to a short utterance count as its own, so they do not make it padded.
        return samples, shortest < wavs.shape[1]

    def _hidden_states(
        self, wavs: Tensor, samples: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Run the model; return its last state, or all of them, and the mask of valid frames."""
        model, encoder = self.model, self.model.encoder
        recompute = self.options["gradient_checkpointing"] and self.training
        front_end_trains = torch.is_grad_enabled() and _trains(model.feature_extractor)
        with torch.set_grad_enabled(front_end_trains):
            features = front_end_features(model.feature_extractor, wavs, samples, recompute)
        valid = None
        if samples is not None:
            valid = mask_from_lengths(self.frame_lengths(samples), features.shape[1])
        hidden = model.feature_projection(features)
        # HuBERT returns the projection alone, the others its normalised input beside it.
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if self.options["apply_spec_augment"] and model.training:
            hidden = spec_augment(model, hidden, valid)
        if valid is not None:
            hidden = hidden.masked_fill(~valid.unsqueeze(-1), 0.0)
        hidden = hidden + positional_embedding(encoder.pos_conv_embed, hidden, valid)
        hidden = encoder.dropout(hidden if self.pre_norm else encoder.layer_norm(hidden))

        states = [hidden]
        mask = valid
        if valid is not None and self.config.model_type != "wavlm":
            mask = attention_mask(valid, hidden.dtype, self._stock_attention() == "eager")
        arguments = {"attention_mask": mask}
        for layer in encoder.layers:
            hidden = run_layer(layer, hidden, recompute=recompute, **arguments)
            if isinstance(hidden, tuple):
                hidden, arguments["position_bias"] = hidden
            states.append(hidden)
        if self.pre_norm:
            states[-1] = encoder.layer_norm(hidden)
        return (states if self.options["layers"] == "weighted" else states[-1:]), valid


def _trains(module: nn.Module) -> bool:
    """Say whether any parameter wants a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())
