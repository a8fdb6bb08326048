"""Pieces of this package in recipes that know nothing of it, exchanged in their YAML.

The Brains are what SpeechBrain's recipes write for emotion (`IEMOCAP`,
`train_with_wav2vec2.yaml`) and for speakers (`VoxCeleb`), in short.
"""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.losses import nll_loss

from gemoclap_sb.objectives import label_matrix
from tests.run_folders import write_tone
from tests.small_models import save_small_ssl

EMOTION = """
encoder_source: {source}
save_folder: {save_folder}
number_of_classes: 3
encoder_size: 32

{lobe}
    source: !ref <encoder_source>
    freeze_feature_extractor: True
    save_path: !ref <save_folder>
avg_pool: !new:speechbrain.nnet.pooling.StatisticsPooling
    return_std: False
output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_size>
    n_neurons: !ref <number_of_classes>
    bias: False
log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True
compute_cost: !name:speechbrain.nnet.losses.nll_loss
modules:
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>
opt_class: !name:torch.optim.SGD
    lr: 0.1
"""
STOCK = "wav2vec2: !new:speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2"
OURS = "wav2vec2: !new:gemoclap_sb.lobes.SSLEncoder"

SPEAKER = """
encoder_folder: {folder}
number_of_speakers: 3

compute_features: !new:gemoclap_sb.models.PassThrough
mean_var_norm: !new:gemoclap_sb.models.PassThrough
embedding_model: !new:gemoclap_sb.models.AudioTower
    config: !ref <encoder_folder>/config.json
    freeze: True
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 24
    out_neurons: !ref <number_of_speakers>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <encoder_folder>/embedding_model.ckpt
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
opt_class: !name:torch.optim.SGD
    lr: 0.1
"""

AUXILIARY = """
kl_weight: {weight}
kl_scale: 5.0
kl_loss: !name:gemoclap_sb.objectives.kl_contrastive_loss
    reduction: batchmean
text_encoder: !new:gemoclap_sb.lobes.ByteTextEncoder
    hidden_size: !ref <encoder_size>
    dropout: 0.0
sentences: ["this person sounds angry", "this person sounds happy", "this person sounds sad"]
modules:
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>
    text_encoder: !ref <text_encoder>
"""


class EmotionBrain(sb.Brain):
    def compute_forward(self, batch, stage):
        wavs, lens = batch.to(self.device).sig
        outputs = self.modules.wav2vec2(wavs, lens)
        outputs = self.hparams.avg_pool(outputs, lens)
        self.pooled = outputs.view(outputs.shape[0], -1)
        return self.hparams.log_softmax(self.modules.output_mlp(self.pooled))

    def compute_objectives(self, predictions, batch, stage):
        loss = self.hparams.compute_cost(predictions, batch.label)
        self.losses = [*getattr(self, "losses", []), float(loss.detach())]
        return loss


class AuxiliaryBrain(EmotionBrain):
    def compute_objectives(self, predictions, batch, stage):
        loss = self.hparams.compute_cost(predictions, batch.label)
        texts = self.modules.text_encoder([self.hparams.sentences[i] for i in batch.label])
        audio, texts = F.normalize(self.pooled, dim=-1), F.normalize(texts, dim=-1)
        logits = self.hparams.kl_scale * audio @ texts.T
        kl = self.hparams.kl_loss(logits, logits.T, label_matrix(batch.label))
        self.seen = (predictions, logits, batch.label, loss + self.hparams.kl_weight * kl)
        return self.seen[-1]


class SpeakerBrain(sb.Brain):
    def compute_forward(self, batch, stage):
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.mean_var_norm(self.modules.compute_features(wavs), lens)
        self.embeddings = self.modules.embedding_model(feats, lens)
        return self.modules.classifier(self.embeddings)

    def compute_objectives(self, predictions, batch, stage):
        return nll_loss(predictions.squeeze(1).log_softmax(dim=-1), batch.label)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_small_ssl(tmp_path_factory.mktemp("encoder"), "wav2vec2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    rows = {
        str(i): {
            "wav": str(write_tone(folder / f"{i}.wav", 0.4 + 0.1 * i, 90 * (i + 1))),
            "label": i % 3,
        }
        for i in range(6)
    }

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav):
        return sb.dataio.dataio.read_audio(wav)

    return DynamicItemDataset(rows, [audio_pipeline], ["id", "sig", "label"])


def fit(brain_class, hparams, dataset):
    torch.manual_seed(3)
    brain = brain_class(hparams["modules"], hparams["opt_class"], hparams, {"device": "cpu"})
    before = {name: p.detach().clone() for name, p in brain.modules.named_parameters()}
    brain.fit(range(2), dataset, train_loader_kwargs={"batch_size": 3}, progressbar=False)
    after = dict(brain.modules.named_parameters())
    return brain, {name for name, value in before.items() if not torch.equal(value, after[name])}


def emotion_hparams(encoder, folder, lobe, more=""):
    torch.manual_seed(5)
    text = EMOTION.format(source=encoder, save_folder=folder, lobe=lobe)
    if more:
        text = text.replace("modules:", "plain_modules:") + more
    return load_hyperpyyaml(text)


@pytest.mark.parametrize("lobe", [STOCK, OURS])
def test_ssl_encoder_in_place_of_wav2vec2(encoder, dataset, tmp_path, lobe):
    """One line of YAML apart, the same Brain trains the same parts."""
    brain, changed = fit(EmotionBrain, emotion_hparams(encoder, tmp_path, lobe), dataset)
    assert np.isfinite(brain.losses).all() and len(brain.losses) == 4
    assert "output_mlp.w.weight" in changed
    assert any("encoder.layers.1" in name for name in changed)
    assert not any("feature_extractor" in name for name in changed)


def test_both_lobes_say_the_same_of_one_utterance(encoder, tmp_path):
    """Alone, because the stock lobe's features depend on the batch, and at unit variance."""
    wavs, lens = torch.randn(1, 12000), torch.ones(1)
    frames = []
    for lobe in (STOCK, OURS):
        modules = emotion_hparams(encoder, tmp_path, lobe)["modules"]
        with torch.no_grad():
            frames.append(modules["wav2vec2"].eval()(wavs, lens))
    torch.testing.assert_close(frames[1], frames[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["scratch", "pretrained"])
def test_exported_encoder_as_frozen_embedding_model(exported, models, dataset, kind):
    hparams = load_hyperpyyaml(SPEAKER.format(folder=exported[kind]))
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    state = {k: v.clone() for k, v in hparams["embedding_model"].state_dict().items()}
    brain, changed = fit(SpeakerBrain, hparams, dataset)
    assert changed and all(name.startswith("classifier.") for name in changed)
    for name, value in hparams["embedding_model"].state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert not hparams["embedding_model"].training
    assert brain.embeddings.grad_fn is None
    wav, _ = soundfile.read(dataset.data["4"]["wav"], dtype="float32")
    wav = torch.from_numpy(wav)[None]
    with torch.no_grad():
        expected = models[kind].encode_audio(wav, torch.ones(1))
    found = brain.modules.embedding_model(wav, torch.ones(1))
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-5)


def test_exported_encoder_can_also_be_trained_on(exported, dataset):
    text = SPEAKER.format(folder=exported["scratch"]).replace("freeze: True", "freeze: False")
    hparams = load_hyperpyyaml(text)
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    _, changed = fit(SpeakerBrain, hparams, dataset)
    assert any(name.startswith("embedding_model.audio_encoder.") for name in changed)


def log_softmax(values):
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_kl_contrastive_loss_beside_cross_entropy(encoder, dataset, tmp_path, weight):
    hparams = emotion_hparams(encoder, tmp_path, OURS, AUXILIARY.format(weight=weight))
    brain, changed = fit(AuxiliaryBrain, hparams, dataset)
    assert any(name.startswith("wav2vec2.") for name in changed)
    assert any(name.startswith("text_encoder.") for name in changed) == (weight > 0)

    predictions, logits, labels, loss = (value.detach().numpy() for value in brain.seen)
    cross_entropy = -predictions[np.arange(len(labels)), labels].mean()
    agree = (labels[:, None] == labels[None, :]).astype(np.float64)
    target = np.exp(log_softmax(agree))
    divergences = [
        (target * (np.log(target) - log_softmax(scores.astype(np.float64)))).sum() / len(labels)
        for scores in (logits, logits.T)
    ]
    assert loss == pytest.approx(cross_entropy + weight * np.mean(divergences), abs=1e-5)
