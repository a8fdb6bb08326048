"""The two towers: what they give, what plugs in, what does not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gemoclap_sb.lobes import (
    AttentiveStatisticsPooling,
    ByteTextEncoder,
    MaskedMeanPooling,
    ResNetEncoder,
    SSLEncoder,
    TextEncoder,
)
from gemoclap_sb.models.audio_classifier import AudioClassifier
from gemoclap_sb.models.gemoclap import GEmoCLAP, LogitScale
from gemoclap_sb.objectives.contrastive import EmoCLAPObjective, MultiTaskObjective
from gemoclap_sb.objectives.cross_entropy import CrossEntropyObjective
from tests.small_models import save_small_roberta, save_small_ssl

WORDS = ("angry", "happy", "sad")


class MyLobe(nn.Module):
    """A user's own lobe: the mean energy of each 20 ms, in ten lines."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 6)

    def forward(self, wavs, wav_lens=None):
        frames = wavs.unfold(1, 320, 320).pow(2).mean(dim=2, keepdim=True)
        return self.linear(frames)


class CountingTextEncoder(nn.Module):
    """Counts the sentences it is asked for."""

    output_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 4)
        self.asked: list[list[str]] = []

    def forward(self, sentences):
        self.asked.append(list(sentences))
        return self.table(torch.tensor([len(sentence) for sentence in sentences]))


def scratch_model(heads=("emotion",), **options) -> GEmoCLAP:
    torch.manual_seed(0)
    lobe = ResNetEncoder(
        n_mels=20, channels=[4, 8], strides=[1, 2], time_masks=0, frequency_masks=0
    )
    return GEmoCLAP(
        audio_encoder=lobe,
        pooling=AttentiveStatisticsPooling(lobe.output_size, 8),
        text_encoder=ByteTextEncoder(hidden_size=16, heads=2),
        embedding_size=8,
        heads=heads,
        **options,
    )


def batch(count: int = 3, samples: int = 8000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, samples, generator=generator) * 0.1, torch.linspace(0.5, 1, count)


def test_embeddings_have_unit_length_and_gradients_reach_everything():
    model = scratch_model(heads=("emotion", "gender"))
    wavs, wav_lens = batch()
    sentences = {
        "emotion": [f"this person sounds {word}" for word in WORDS],
        "gender": ["a female speaker", "a male speaker", "a female speaker"],
    }
    outputs = model(wavs, wav_lens, sentences)
    for output in outputs.values():
        np.testing.assert_allclose(np.linalg.norm(output.audio.detach(), axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(output.text.detach(), axis=1), 1, rtol=1e-5)
    labels = {"emotion": torch.tensor([0, 1, 2]), "gender": torch.tensor([0, 1, 0])}
    MultiTaskObjective({"emotion": 0.8, "gender": 0.2})(outputs, labels).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_encoders_run_once_for_all_heads():
    text = CountingTextEncoder()
    runs = []
    lobe = MyLobe()
    lobe.register_forward_hook(lambda *_: runs.append(1))
    model = GEmoCLAP(lobe, text, embedding_size=4, heads=("emotion", "gender"), audio_size=6)
    sentences = {"emotion": ["a", "bb", "a"], "gender": ["ccc", "bb", "ccc"]}
    model(*batch(), sentences)
    assert len(runs) == 1
    assert text.asked == [["a", "bb", "ccc"]]


def test_other_sentences_are_no_reason_to_compile_again():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = GEmoCLAP(MyLobe(), CountingTextEncoder(), embedding_size=4, audio_size=6)
    compiled = torch.compile(model, backend=backend)
    compiled(*batch(), {"emotion": ["a", "bb", "a"]})
    first = len(graphs)
    found = compiled(*batch(), {"emotion": ["bb", "ccc", "dddd"]})["emotion"].text
    assert len(graphs) == first > 0
    torch.testing.assert_close(found, model.encode_text(["bb", "ccc", "dddd"]))


def test_distinct_prompts_give_the_loss_and_gradients_of_all_prompts():
    model = scratch_model().eval()
    sentences = [f"this person sounds {WORDS[i % 3]}" for i in range(12)]
    distinct = model.encode_text(sentences)
    every = torch.cat([model.encode_text([sentence]) for sentence in sentences])
    weights = torch.randn(distinct.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(distinct, every, rtol=0, atol=1e-5)
    parameters = [p for p in model.text_encoder.parameters() if p.requires_grad]
    one = torch.autograd.grad((distinct * weights).sum(), parameters)
    two = torch.autograd.grad((every * weights).sum(), parameters)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_class_embedding_is_the_mean_over_templates():
    model = scratch_model().eval()
    sentences = [["so angry", "very angry"], ["so sad", "very sad", "sad"]]
    found = model.encode_classes(sentences).detach().numpy()
    for row, of in zip(found, sentences, strict=True):
        mean = np.mean([model.encode_text([s])[0].detach().numpy() for s in of], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)


def save_models(folder):
    ssl = save_small_ssl(folder / "ssl", "wavlm", "layer")
    return ssl, save_small_roberta(folder / "text")


@pytest.mark.parametrize("kind", ["scratch", "ssl"])
def test_scores_do_not_depend_on_the_batch(kind, tmp_path):
    if kind == "scratch":
        model = scratch_model()
    else:
        ssl, text = save_models(tmp_path)
        model = GEmoCLAP(
            SSLEncoder(str(ssl), str(tmp_path)), TextEncoder(str(text), str(tmp_path)), 8
        )
    model.eval()
    generator = torch.Generator().manual_seed(2)
    lengths = [16000, 7000, 12345, 3200]
    wavs = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    with torch.no_grad():
        classes = model.encode_classes([[word] for word in WORDS])
        alone = torch.cat(
            [model.encode_audio(wav[None], torch.ones(1)) @ classes.T for wav in wavs]
        )
        padded = nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        together = model.encode_audio(padded, torch.tensor(lengths) / max(lengths)) @ classes.T
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_users_own_lobe_and_stock_lobe_plug_in_from_yaml(tmp_path):
    from hyperpyyaml import load_hyperpyyaml

    ssl, _ = save_models(tmp_path)
    yaml = f"""
text_encoder: !new:gemoclap_sb.lobes.ByteTextEncoder
    hidden_size: 16
    heads: 2
stock: !new:speechbrain.integrations.huggingface.wavlm.WavLM
    source: {ssl}
    save_path: {tmp_path}
own: !new:tests.models.test_gemoclap.MyLobe
stock_clap: !new:gemoclap_sb.models.GEmoCLAP
    audio_encoder: !ref <stock>
    text_encoder: !ref <text_encoder>
    embedding_size: 8
    audio_size: 32
own_clap: !new:gemoclap_sb.models.GEmoCLAP
    audio_encoder: !ref <own>
    text_encoder: !ref <text_encoder>
    embedding_size: 8
    audio_size: 6
"""
    hparams = load_hyperpyyaml(yaml)
    labels = {"emotion": torch.tensor([0, 1, 2])}
    for name in ("stock_clap", "own_clap"):
        outputs = hparams[name](*batch(), {"emotion": list(WORDS)})
        assert outputs["emotion"].audio.shape == (3, 8)
        EmoCLAPObjective()(outputs, labels).backward()
        assert hparams[name].audio_projections["emotion"] is not None


def test_lobe_without_a_size_is_explained():
    with pytest.raises(ValueError, match="audio_size: MyLobe has no `output_size`"):
        GEmoCLAP(MyLobe(), CountingTextEncoder())


def test_lobe_of_another_shape_is_explained():
    class AllLayers(MyLobe):
        def forward(self, wavs, wav_lens=None):
            return super().forward(wavs)[None]

    model = GEmoCLAP(AllLayers(), CountingTextEncoder(), embedding_size=4, audio_size=6)
    with pytest.raises(ValueError, match="AllLayers.*output_all_hiddens: False"):
        model.encode_audio(*batch())


def test_other_heads_than_the_models_are_named():
    with pytest.raises(ValueError, match=r"heads \['emotion'\], found \['gender'\]"):
        scratch_model()(*batch(), {"gender": list(WORDS)})


def test_logit_scale_has_a_ceiling_and_can_be_fixed():
    scale = LogitScale(14.3)
    with torch.no_grad():
        scale.log_scale.fill_(20.0)
    assert scale().item() == pytest.approx(100.0)
    # It can come back from above the ceiling.
    scale().backward()
    assert scale.log_scale.grad.item() == pytest.approx(100.0)
    assert not LogitScale(5.0, learnable=False).log_scale.requires_grad
    with pytest.raises(ValueError, match="0 < value <= 100, found 0.0"):
        LogitScale(0.0)


def test_baseline_is_a_linear_layer_and_cross_entropy():
    torch.manual_seed(0)
    lobe = MyLobe()
    model = AudioClassifier(lobe, MaskedMeanPooling(6), num_classes=3).eval()
    wavs, wav_lens = torch.randn(2, 3200), torch.tensor([1.0, 0.5])
    outputs = model(wavs, wav_lens)
    frames = lobe(wavs).detach().numpy()
    pooled = np.stack([frames[0].mean(axis=0), frames[1, :5].mean(axis=0)])
    weight, bias = (p.detach().numpy() for p in model.classifier.parameters())
    logits = pooled @ weight.T + bias
    np.testing.assert_allclose(outputs["emotion"].logits.detach(), logits, rtol=1e-4, atol=1e-6)
    targets = [2, 0]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([log_p[i, t] for i, t in enumerate(targets)])
    loss = CrossEntropyObjective()(outputs, {"emotion": torch.tensor(targets)})
    assert loss.item() == pytest.approx(expected, rel=1e-5)
