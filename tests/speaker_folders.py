"""Small speaker encoders of SpeechBrain, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.processing.features import InputNormalization
from torch import nn

# The hyperparams.yaml of speechbrain/spkrec-ecapa-voxceleb, but for the sizes.
ECAPA = """\
# ############################################################################
# Model: ECAPA big for Speaker verification
# ############################################################################

# Feature parameters
n_mels: 24

# Pretrain folder (HuggingFace)
pretrained_path: speechbrain/spkrec-ecapa-voxceleb

# Output parameters
out_n_neurons: 5

# Model params
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 12

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 12
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""

# A folder of one's own: x-vectors at 8 kHz, statistics of the training set, and no paths.
XVECTOR = """\
sample_rate: 8000
n_mels: 20
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    sample_rate: !ref <sample_rate>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 3
    tdnn_channels: [16, 16, 24]
    tdnn_kernel_sizes: [5, 3, 1]
    tdnn_dilations: [1, 2, 1]
    lin_neurons: 64
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !new:torch.nn.Identity
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm: !ref <mean_var_norm>
"""


def save_ecapa(folder: Path, seed: int = 0) -> Path:
    """Save what ECAPA describes, with random weights that have seen random features."""
    sizes = {"channels": [16, 16, 16, 16, 48], "attention_channels": 8, "lin_neurons": 12}
    _save(folder, ECAPA, lambda: ECAPA_TDNN(24, **sizes), 24, seed)
    torch.save(Classifier(12, out_neurons=5).state_dict(), folder / "classifier.ckpt")
    _statistics(12)._save(folder / "mean_var_norm_emb.ckpt")
    labels = CategoricalEncoder()
    labels.update_from_iterable(map(str, range(5)))
    labels.save(folder / "label_encoder.txt")
    return folder


def save_xvector(folder: Path) -> Path:
    """Save what XVECTOR describes."""
    sizes = {"tdnn_channels": [16, 16, 24], "tdnn_kernel_sizes": [5, 3, 1]}
    sizes |= {"tdnn_dilations": [1, 2, 1], "tdnn_blocks": 3, "lin_neurons": 64, "in_channels": 20}
    _save(folder, XVECTOR, lambda: Xvector(**sizes), 20)
    _statistics(20)._save(folder / "mean_var_norm.ckpt")
    return folder


def stock(folder: Path, savedir: Path) -> EncoderClassifier:
    """Stock SpeechBrain on the same folder, which it would look for on the hub otherwise."""
    text = (folder / "hyperparams.yaml").read_text()
    overrides = {"pretrained_path": str(folder)} if "pretrained_path" in text else {}
    return EncoderClassifier.from_hparams(
        source=str(folder), overrides=overrides, savedir=str(savedir), run_opts={"device": "cpu"}
    )


def _save(folder: Path, text: str, make, size: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(text)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = make()
        for _ in range(3):
            model(torch.randn(4, 50, size) * 3 + 1)
    torch.save(model.state_dict(), folder / "embedding_model.ckpt")


def _statistics(size: int) -> InputNormalization:
    norm = InputNormalization(norm_type="global")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        norm(torch.randn(3, 40, size) * 4 - 2)
    return norm
