"""The gradient of a batch in micro-batches is that of the batch as a whole."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path

import pytest
import speechbrain as sb
import torch
import torch.distributed as dist
from hyperpyyaml import load_hyperpyyaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gemoclap_sb.lobes import MaskedMeanPooling, ResNetEncoder
from gemoclap_sb.models import AudioClassifier
from gemoclap_sb.objectives import (
    CrossEntropyObjective,
    EmoCLAPObjective,
    MultiTaskObjective,
    SoftLabelObjective,
)
from gemoclap_sb.objectives.gathering import gather_batch
from gemoclap_sb.training.gradient_cache import (
    GradientCache,
    MicroBatches,
    micro_batch_count,
)
from tests.run_folders import ROOT, scratch_model

WEIGHTS = {"emotion": 0.7, "gender": 0.3}
OBJECTIVES = {
    "emo": EmoCLAPObjective(),
    "ml": MultiTaskObjective(WEIGHTS, target="normalized"),
    "sl": SoftLabelObjective(WEIGHTS, similarity="both", cross_entropy_weight=0.5),
    "sl intra": SoftLabelObjective(WEIGHTS, similarity="intra", reduction="sum"),
}
SENTENCES = ["so angry", "so sad", "so happy", "so neutral"]
SEED = 11


def batch(count: int = 11) -> tuple[tuple, dict[str, torch.Tensor]]:
    """Noise of different lengths with sentences for two heads, and labels."""
    generator = torch.Generator().manual_seed(3)
    samples = torch.randint(3000, 12000, (count,), generator=generator)
    samples[4] = 12000
    wavs = torch.randn(count, 12000, generator=generator)
    wavs[torch.arange(12000) >= samples[:, None]] = 0
    emotion, gender = torch.arange(count) * 7 % 4, torch.arange(count) % 2
    sentences = {
        "emotion": [SENTENCES[i] for i in emotion],
        "gender": [["a woman", "a man"][i] for i in gender],
    }
    return (wavs, samples / 12000, sentences), {"emotion": emotion, "gender": gender}


def model() -> nn.Module:
    """Two heads with classifiers; its BatchNorm stands still."""
    made = scratch_model(heads=("emotion", "gender"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made.add_classifiers({"emotion": 4})
    return made.eval()


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerance):
    assert found.keys() == expected.keys() and expected
    tolerance = {"rtol": 1e-5, "atol": 1e-5, **tolerance}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **tolerance, msg=lambda m, n=name: n + m)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())


def cached(made: nn.Module, given: tuple, loss_of, size: int, autocast=None) -> torch.Tensor:
    parts = MicroBatches(*given, micro_batch_count(len(given[0]), size))
    cache = GradientCache(parts, "cpu")
    outputs = cache.embed(made)
    loss = loss_of(outputs)
    loss.backward()
    cache.backward(made, autocast)
    return loss.detach()


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_the_whole_batch(name, size):
    given, labels = batch()
    whole, parts = model(), model()
    expected = OBJECTIVES[name](whole(*given), labels)
    expected.backward()
    found = cached(parts, given, lambda outputs: OBJECTIVES[name](outputs, labels), size)
    torch.testing.assert_close(found, expected.detach())
    assert_same(gradients(parts), gradients(whole))


def test_outputs_stand_in_the_order_of_the_batch():
    (wavs, wav_lens, sentences), _ = batch()
    made = model()
    parts = MicroBatches(wavs, wav_lens, sentences, 3)
    flat = sum(parts.places, [])
    assert sorted(flat) == list(range(11)) != flat
    outputs = GradientCache(parts, "cpu").embed(made)
    with torch.no_grad():
        expected = made(wavs, wav_lens, sentences)
    for head in expected:
        torch.testing.assert_close(outputs[head].audio, expected[head].audio)
        torch.testing.assert_close(outputs[head].text, expected[head].text)


def test_cross_entropy_baseline():
    given, labels = batch()
    lobe = ResNetEncoder(n_mels=20, channels=[4, 8], strides=[1, 2], output_size=48)
    whole = AudioClassifier(lobe, MaskedMeanPooling(48), num_classes=4).eval()
    parts = copy.deepcopy(whole)
    objective, given = CrossEntropyObjective(), (*given[:2], {})
    objective(whole(*given), labels).backward()
    cached(parts, given, lambda outputs: objective(outputs, labels), 3)
    assert_same(gradients(parts), gradients(whole))


def test_frozen_towers_and_temperatures():
    given, labels = batch()
    whole, parts = model(), model()
    for made in (whole, parts):
        made.text_encoder.requires_grad_(False)
        made.text_projection.requires_grad_(False)
        made.audio_scales.requires_grad_(False)
    OBJECTIVES["ml"](whole(*given), labels).backward()
    cached(parts, given, lambda outputs: OBJECTIVES["ml"](outputs, labels), 4)
    assert_same(gradients(parts), gradients(whole))


def in_parts_with_a_graph(made: nn.Module, given: tuple, labels: dict, size: int) -> dict:
    """The same micro-batches, all kept in memory with their graphs: gradients by autograd alone."""
    parts = MicroBatches(*given, micro_batch_count(len(given[0]), size))
    order = torch.argsort(torch.tensor(sum(parts.places, [])))
    found = [made(*part) for part in parts]
    outputs = {
        head: output._replace(
            audio=torch.cat([of[head].audio for of in found])[order],
            text=torch.cat([of[head].text for of in found])[order],
        )
        for head, output in found[-1].items()
    }
    OBJECTIVES["ml"](outputs, labels).backward()
    return gradients(made)


def ssl_model(small_encoders, folder: Path, **options) -> nn.Module:
    """An experiment's model over a small WavLM, with dropout everywhere."""
    with open(ROOT / "hparams/ml_wavlm.yaml", encoding="utf-8") as stream:
        overrides = {
            "audio_source": str(small_encoders["wavlm"]),
            "text_source": str(small_encoders["text"]),
            "output_folder": str(folder),
            "pretrained_folder": str(folder / "cache"),
            "embedding_size": 16,
            "projection_dropout": 0.2,
            **options,
        }
        torch.manual_seed(0)
        return load_hyperpyyaml(stream, overrides)["clap"].train()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_and_spec_augment_are_drawn_again(small_encoders, tmp_path, checkpointing):
    given, labels = batch()
    options = {"apply_spec_augment": True, "gradient_checkpointing": checkpointing}
    whole = ssl_model(small_encoders, tmp_path, **options)
    parts = copy.deepcopy(whole)
    sb.utils.seed.seed_everything(SEED, verbose=False)
    expected = in_parts_with_a_graph(whole, given, labels, 4)
    sb.utils.seed.seed_everything(SEED, verbose=False)
    cached(parts, given, lambda outputs: OBJECTIVES["ml"](outputs, labels), 4)
    assert_same(gradients(parts), expected)
    # Another seed is other noise, which the comparison above would have shown.
    sb.utils.seed.seed_everything(SEED + 1, verbose=False)
    whole.zero_grad()
    other = in_parts_with_a_graph(whole, given, labels, 4)
    with pytest.raises(AssertionError):
        assert_same(gradients(parts), other)


def test_layers_that_normalise_by_the_batch_know_the_micro_batch_and_count_it_once():
    given, labels = batch()
    whole, parts = model().train(), model().train()
    before = dict(copy.deepcopy(whole).named_buffers())
    sb.utils.seed.seed_everything(SEED, verbose=False)
    expected = in_parts_with_a_graph(whole, given, labels, 4)
    sb.utils.seed.seed_everything(SEED, verbose=False)
    cached(parts, given, lambda outputs: OBJECTIVES["ml"](outputs, labels), 4)
    assert_same(gradients(parts), {n: g for n, g in expected.items() if "classifiers" not in n})
    counted = [name for name in before if name.endswith("num_batches_tracked")]
    assert counted
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(dict(parts.named_buffers())[name], buffer, msg=name)
        if name in counted:
            assert buffer == before[name] + 3


def test_half_precision(small_encoders, tmp_path):
    given, labels = batch()
    whole = ssl_model(small_encoders, tmp_path).eval()
    parts = copy.deepcopy(whole)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with autocast:
        expected = in_parts_with_a_graph(whole, given, labels, 4)

    def loss_of(outputs):
        assert outputs["emotion"].audio.dtype == torch.float32
        return OBJECTIVES["ml"](outputs, labels)

    layer = parts.audio_encoder.model.encoder.layers[0].feed_forward
    layer.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    seen: set[torch.dtype] = set()
    cache = GradientCache(MicroBatches(*given, 3), "cpu")
    with autocast:
        loss = loss_of(cache.embed(parts))
    loss.backward()
    cache.backward(parts, autocast)
    assert seen == {torch.bfloat16}
    # What is rounded is rounded alike.
    assert_same(gradients(parts), expected, rtol=1e-2, atol=1e-3)


def test_no_more_than_a_micro_batch_has_a_graph():
    given, labels = batch(32)
    made, alive, most = model(), [0], [0]

    def kept(tensor):
        alive[0] += tensor.numel()
        most[0] = max(most[0], alive[0])
        return tensor

    def freed(tensor):
        alive[0] -= tensor.numel()
        return tensor

    peaks = {}
    for size in (2, 32):
        alive[0] = most[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(kept, freed):
            cached(made, given, lambda outputs: OBJECTIVES["ml"](outputs, labels), size)
        peaks[size] = most[0]
    assert peaks[2] < peaks[32] / 8


def test_micro_batches_are_of_like_length_and_never_of_one():
    (wavs, wav_lens, sentences), _ = batch()
    parts = MicroBatches(wavs, wav_lens, sentences, 3)
    places = parts.places
    samples = (wav_lens * wavs.shape[1]).round()
    assert [len(of) for of in places] == [4, 4, 3]
    for (some, lens, words), of in zip(parts, places, strict=True):
        assert some.shape[1] == samples[of].max()
        assert torch.equal((lens * some.shape[1]).round(), samples[of])
        assert words["emotion"] == [sentences["emotion"][i] for i in of]
        for wav, i, n in zip(some, of, samples[of].int().tolist(), strict=True):
            assert torch.equal(wav[:n], wavs[i, :n]) and not wav[n:].any()
    ends = [(samples[of].max(), samples[of].min()) for of in places]
    assert all(one[1] >= next_[0] for one, next_ in zip(ends, ends[1:], strict=False))
    for size in range(2, 40):
        for most in range(2, 12):
            count = micro_batch_count(size, most)
            assert size // count >= 2
            assert -(-size // count) <= most + (size % most == 1)


# Several processes


def one_process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet{world}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    (wavs, wav_lens, sentences), labels = batch()
    # Shares of unequal size, as in the last batch of an epoch.
    edges = torch.linspace(0, 11, world + 1).round().int().tolist()
    share = slice(edges[rank], edges[rank + 1])
    given = wavs[share], wav_lens[share], {head: of[share] for head, of in sentences.items()}
    labels = {name: of[share] for name, of in labels.items()}
    kept = {}
    for name, objective in OBJECTIVES.items():
        made = model()
        unlearnt = {"emo": ["gender"], "ml": [], "sl": ["gender"], "sl intra": ["gender"]}[name]
        for head in unlearnt:
            made.audio_projections[head].requires_grad_(False)
            made.audio_scales[head].requires_grad_(False)
            made.text_scales[head].requires_grad_(False)
        made.classifiers.requires_grad_(name == "sl")
        wrapped = DistributedDataParallel(made)
        cache = GradientCache(MicroBatches(*given, 2), "cpu")
        loss = objective(*gather_batch(cache.embed(made), labels))
        loss.backward()

        def no_sync(use, wrapped=wrapped):
            return wrapped.no_sync() if use else torch.enable_grad()

        cache.backward(wrapped, no_sync=no_sync)
        kept[name] = {"loss": loss.detach(), **gradients(made)}
    torch.save(kept, f"{folder}/{world}_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_together_are_one_big_batch(tmp_path):
    # What is imported is so once, and not in each process.
    multiprocessing.set_forkserver_preload([__name__])
    for world in (2, 3):
        torch.multiprocessing.start_processes(
            one_process, (world, str(tmp_path)), nprocs=world, start_method="forkserver"
        )
    given, labels = batch()
    for name, objective in OBJECTIVES.items():
        made = model()
        loss = objective(made(*given), labels)
        loss.backward()
        expected = {"loss": loss.detach(), **gradients(made)}
        for path in sorted(tmp_path.glob("*.pt")):
            assert_same(torch.load(path, weights_only=True)[name], expected)
    assert len(list(tmp_path.glob("*.pt"))) == 5
