"""Self-supervised speech encoders as audio lobes: WavLM, HuBERT, wav2vec 2.0, data2vec-audio.

Weights come through SpeechBrain's Hugging Face interface; the modules are transformers' own, run
here so that an utterance has the same frames in every batch. The oracle is transformers itself,
given the utterance alone and unpadded.

Sources: Chen et al., "WavLM", arXiv 2110.13900; Hsu et al., "HuBERT", arXiv 2106.07447; Baevski
et al., "wav2vec 2.0", arXiv 2006.11477, and "data2vec", arXiv 2202.03555; Hu et al., "LoRA",
arXiv 2106.09685; Yang et al., "SUPERB", arXiv 2105.01051, for the weighted sum of layers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from speechbrain.integrations.huggingface.huggingface import HFTransformersInterface
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from gemoclap_sb.lobes.adapters import insert_lora
from gemoclap_sb.lobes.attention import fuse_wavlm_attention
from gemoclap_sb.lobes.layer_frames import check_layers
from gemoclap_sb.lobes.lengths import (
    length_groups,
    mask_from_lengths,
    receptive_field,
    sample_lengths,
)
from gemoclap_sb.lobes.linear import fuse_linear_layers
from gemoclap_sb.lobes.packed_front_end import can_pack, packed_features
from gemoclap_sb.lobes.padding import (
    attention_mask,
    front_end_features,
    normalize_waveforms,
    positional_embedding,
    run_layer,
    spec_augment,
)
from gemoclap_sb.lobes.run_encoders import encoder_folder
from gemoclap_sb.lobes.source_weights import SourceWeights
from gemoclap_sb.lobes.ssl_checkpoints import check_config, check_source, reads_normalized
from gemoclap_sb.lobes.ssl_options import SAMPLE_RATE, check_options


class SSLEncoder(SourceWeights, HFTransformersInterface):
    """A self-supervised speech encoder: waveforms [B, T] to frames [B, F, D].

    `output_size` is D. LayerDrop is off: a skipped layer leaves parameters without a gradient,
    which distributed training refuses. The other dropouts are the checkpoint's.

    Parameters
    ----------
    source : str or Path
        Hub id (`microsoft/wavlm-large`), a local folder in transformers' format, or a run that
        has one as its `encoder/` (see `gemoclap_sb.lobes.encoder_folders`).
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
        adapter_options = dict(adapter_options or {})
        given = locals()
        # The interface calls override_config before it returns, which needs the options.
        nn.Module.__init__(self)
        self.options = {name: given[name] for name in SSLEncoder.__init__.__kwdefaults__}
        check_options(self.options)
        self.source, save_path = encoder_folder(source), str(save_path)
        check_source(self.source)
        # transformers would otherwise take a half-precision checkpoint's own type.
        super().__init__(self.source, save_path, dtype=torch.float32, output_loading_info=True)
        if normalize_wav is None:
            self.options["normalize_wav"] = reads_normalized(self.source, save_path)
        self._assemble()
        # Frozen wherever it is not used, and some checkpoints leave it out.
        self.remember_source(save_path, {"masked_spec_embed"})

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> SSLEncoder:
        """Build the module that `to_config` described, with random weights.

        ValueError if `model` or `normalize_wav` is missing, or a key is no option.
        """
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        defaults = cls.__init__.__kwdefaults__ | {"adapter_options": {}}
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
        """Describe the module for JSON: the options, and transformers' configuration as `model`."""
        model = json.loads(self.config.to_json_string(use_diff=False))
        for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
            model.pop(key, None)
        return {"model": model, **self.options}

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Encode 16 kHz waveforms [B, T] as float32 frames [B, F, D], zero past `frame_lengths`.

        `wav_lens` [B] are relative to T; None where nothing is padded. ValueError for wrong shapes,
        or an utterance shorter than one frame. What the padding holds is not read.
        """
        return self._encode(wavs, wav_lens, None)

    def layer_frames(self, wavs: Tensor, wav_lens: Tensor | None, layers: Sequence[int]) -> Tensor:
        """Give the frames of layers from 1 to `depth` side by side, [B, F, len(layers) x D].

        Of a layer they are what transformers calls its hidden states; of the model's last one,
        its output, after the final layer norm where there is one. Waveforms, F and errors as in
        `forward`, and a ValueError for layers that are none.
        """
        return self._encode(wavs, wav_lens, check_layers(layers, self.depth))

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.model.encoder.layers)

    def _encode(self, wavs: Tensor, wav_lens: Tensor | None, layers: list[int] | None) -> Tensor:
        """Give the output frames, or those of `layers` side by side."""
        samples = self._measure(wavs, wav_lens)
        valid = None if samples is None else mask_from_lengths(samples, wavs.shape[1])
        wavs = normalize_waveforms(wavs.float(), valid, self.options["normalize_wav"])
        if self.options["pad_short"]:
            wavs = F.pad(wavs, (0, max(0, self.shortest - wavs.shape[1])))
            samples = None if samples is None else samples.clamp(min=self.shortest)
        if samples is None or not self._may_split(wavs):
            return self._frames(wavs, samples, layers)
        counts = self.frame_lengths(samples)
        groups = length_groups(counts.tolist())
        parts = [self._frames(*_unpadded(wavs[rows], samples[rows]), layers) for rows in groups]
        frames = parts[0].new_zeros(len(wavs), int(counts.max()), parts[0].shape[2])
        for rows, part in zip(groups, parts, strict=True):
            frames[rows, : part.shape[1]] = part
        return frames

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Count the valid frames of utterances of that many samples, int64 [B]."""
        if self.options["pad_short"]:
            samples = samples.clamp(min=self.shortest)
        return self.model._get_feat_extract_output_lengths(samples).long()

    def train(self, mode: bool = True) -> SSLEncoder:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.options["freeze"]:
            self.model.eval()
        elif self.options["freeze_feature_extractor"]:
            self.model.feature_extractor.eval()
        return self

    def override_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Check that the checkpoint can serve and set what the options say."""
        options = self.options
        check_config(self.source, config, options)
        config.apply_spec_augment = options["apply_spec_augment"]
        config.layerdrop = 0.0
        if options["attention_dropout"] is not None:
            config.attention_dropout = options["attention_dropout"]
        return config

    def _from_pretrained(self, source: str, save_path: str, **kwargs: object) -> None:
        """Load transformers' weights and refuse a checkpoint that leaves some of them random."""
        is_speechbrain, file, _ = self._check_model_source(source, save_path)
        if is_speechbrain:
            raise ValueError(
                f"{source}: expected weights in transformers' format (model.safetensors), found "
                f"SpeechBrain's {file}; save the model with save_pretrained first"
            )
        kwargs["attn_implementation"] = self._stock_attention()
        super()._from_pretrained(source, save_path, **kwargs)
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

    def _assemble(self) -> None:
        """Apply the options to the loaded model; the same for both ways of construction."""
        options, encoder = self.options, self.model.encoder
        depth, layers = len(encoder.layers), options["layers"]
        self.output_size: int = self.config.hidden_size
        self.shortest = receptive_field(self.config.conv_kernel, self.config.conv_stride)
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
        fuse_linear_layers(self.model)
        mask_is_used = options["apply_spec_augment"] and self.config.mask_time_prob > 0
        if hasattr(self.model, "masked_spec_embed") and not mask_is_used:
            self.model.masked_spec_embed.requires_grad_(False)
        if layers == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(depth + 1))
        self.train()

    @torch.compiler.disable
    def _measure(self, wavs: Tensor, wav_lens: Tensor | None) -> Tensor | None:
        """Count the samples of each utterance; None if none of them is padded."""
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
        return samples if shortest < wavs.shape[1] else None

    def _may_split(self, wavs: Tensor) -> bool:
        """Whether the utterances of a batch may go through the model in several parts.

        Where they are computed one after the other anyway, and none reads what others hold.
        """
        is_eager_cpu = wavs.device.type == "cpu" and not torch.compiler.is_compiling()
        return is_eager_cpu and not any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
            for module in self.model.modules()
        )

    def _frames(self, wavs: Tensor, samples: Tensor | None, layers: list[int] | None) -> Tensor:
        """Run the model on normalised waveforms: frames [B, F, D], zero past each utterance's."""
        depth, is_weighted = self.depth, self.options["layers"] == "weighted"
        # Only a weighted sum wants them all, which takes memory.
        wanted = layers or (range(depth + 1) if is_weighted else [depth])
        with torch.set_grad_enabled(_builds_graph(self.model)):
            states, valid = self._hidden_states(wavs, samples, set(wanted))
        if layers is not None:
            frames = torch.cat([states[layer] for layer in layers], dim=-1)
        elif is_weighted:
            weights = torch.softmax(self.layer_weights, dim=0)
            frames = sum(weight * states[layer] for layer, weight in enumerate(weights))
        else:
            frames = states[depth]
        if valid is not None:
            frames = frames.masked_fill(~valid.unsqueeze(-1), 0.0)
        return frames.float()

    def _hidden_states(
        self, wavs: Tensor, samples: Tensor | None, wanted: Collection[int]
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Run the model up to the last of the wanted layers; return their states and the mask.

        Layer 0 is the encoder's input.
        """
        model, encoder = self.model, self.model.encoder
        recompute = self.options["gradient_checkpointing"] and self.training
        with torch.set_grad_enabled(_builds_graph(model.feature_extractor)):
            if can_pack(model.feature_extractor, wavs):
                lengths = [wavs.shape[1]] * len(wavs) if samples is None else samples.tolist()
                features = packed_features(model.feature_extractor, wavs, lengths, recompute)
            else:
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

        states = {0: hidden} if 0 in wanted else {}
        mask = valid
        if valid is not None and self.config.model_type != "wavlm":
            mask = attention_mask(valid, hidden.dtype, self._stock_attention() == "eager")
        arguments = {"attention_mask": mask}
        for place, layer in zip(range(1, max(wanted) + 1), encoder.layers, strict=False):
            hidden = run_layer(layer, hidden, recompute=recompute, **arguments)
            if isinstance(hidden, tuple):
                # Older versions of transformers give a tuple without a position bias too.
                hidden, *bias = hidden
                if bias:
                    arguments["position_bias"] = bias[0]
            if place in wanted:
                states[place] = hidden
        if self.pre_norm and self.depth in wanted:
            states[self.depth] = encoder.layer_norm(hidden)
        return states, valid


def _unpadded(wavs: Tensor, samples: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cut [B, T] to its longest utterance; None in place of `samples` where none is padded."""
    longest = int(samples.max())
    return wavs[:, :longest], None if bool((samples == longest).all()) else samples


def _builds_graph(module: nn.Module) -> bool:
    """Say whether gradients are on and any parameter wants one."""
    return torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
