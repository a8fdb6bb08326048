"""A small untrained model that tells recordings apart.

Random weights put all recordings, and all sentences, almost in one direction: such a model
answers the same whatever it hears, and a test that compares answers shows little. Here the
common direction is taken out, so that labels and probabilities vary.
"""

from __future__ import annotations

import numpy as np
import torch

from gemoclap_sb.models.gemoclap import GEmoCLAP, pool_frames
from tests.run_folders import RATE, make_prompts, scratch_model


def telling_model(heads: tuple[str, ...] = ("emotion",)) -> GEmoCLAP:
    model = scratch_model(heads=heads)
    seconds = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.01, (40, RATE))
    pitches = np.linspace(80, 1500, 40)[:, None]
    tones = 0.3 * np.sin(2 * np.pi * pitches * seconds * (1 + 0.2 * seconds)) + noise
    wavs = torch.from_numpy(tones.astype(np.float32))
    sentences = sum((sum(make_prompts().class_sentences(head), []) for head in heads), [])
    with torch.no_grad():
        pooled = pool_frames(model.audio_encoder, model.pooling, wavs, torch.ones(len(wavs)))
        for head in heads:
            _centre(model.audio_projections[head], pooled)
        _centre(model.text_projection, model.text_encoder(sentences))
    return model


def _centre(projection: torch.nn.Module, inputs: torch.Tensor) -> None:
    last = [module for module in projection.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.bias -= projection(inputs).mean(dim=0)
