"""SSLEncoder in training: what is frozen, adapted, recomputed, cast and compiled."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.lobes import SSLEncoder
from tests.lobes.test_ssl import NO_DROPOUT, every_kind, make_wavs, pad


def train_step(lobe: SSLEncoder) -> tuple[float, dict[str, torch.Tensor]]:
    """One backward pass on two utterances, seeded; the loss and the gradients."""
    lobe.zero_grad()
    torch.manual_seed(0)
    frames = lobe(*pad(make_wavs([9000, 4000])))
    loss = (frames @ torch.linspace(-1, 1, frames.shape[-1])).square().mean()
    loss.backward()
    return loss.item(), {n: p.grad for n, p in lobe.named_parameters() if p.grad is not None}


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 1},
        {"layers": "weighted"},
        {"freeze_feature_extractor": True},
        {"apply_spec_augment": True},
        {"adapter": "lora"},
        {"adapter": "lora", "layers": 1},
        {"freeze": True, "layers": "weighted"},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_every_trainable_parameter_gets_a_gradient(small_ssl, tmp_path, family, norm, options):
    # DistributedDataParallel stops at one that does not.
    lobe = SSLEncoder(small_ssl(family, norm), tmp_path, **options)
    _, gradients = train_step(lobe)
    assert gradients.keys() == {n for n, p in lobe.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_frozen_encoder_builds_no_graph_and_stays_in_evaluation(small_ssl, tmp_path):
    lobe = SSLEncoder(small_ssl(), tmp_path, freeze=True).train()
    assert lobe.training and not any(module.training for module in lobe.model.modules())
    batch = pad(make_wavs([9000, 4000]))
    frames = lobe(*batch)
    assert not frames.requires_grad
    # Dropout would make two passes differ.
    torch.testing.assert_close(frames, lobe(*batch), atol=0, rtol=0)
    assert torch.is_grad_enabled()


def test_frozen_front_end_builds_no_graph(small_ssl, tmp_path):
    lobe = SSLEncoder(small_ssl(), tmp_path, freeze_feature_extractor=True).train()
    seen = []
    lobe.model.feature_extractor.conv_layers[-1].activation.register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad)
    )
    frames = lobe(*pad(make_wavs([9000, 4000])))
    assert seen == [False] and frames.requires_grad
    assert not any(module.training for module in lobe.model.feature_extractor.modules())
    assert lobe.model.encoder.training


def test_lora_starts_at_the_encoder_and_trains_little(small_ssl, tmp_path):
    folder = small_ssl()
    plain = SSLEncoder(folder, tmp_path).eval()
    options = {"rank": 2, "alpha": 4.0, "unfrozen_layers": ["encoder.layer_norm"]}
    lobe = SSLEncoder(folder, tmp_path, adapter="lora", adapter_options=options).eval()
    batch = pad(make_wavs([9000, 4000]))
    # One front end builds a graph and the other none, so they round in another order.
    torch.testing.assert_close(lobe(*batch), plain(*batch), atol=1e-5, rtol=0)
    trained = {
        n.removeprefix("model.encoder.") for n, p in lobe.named_parameters() if p.requires_grad
    }
    projections = [f"layers.{i}.attention.{p}_proj" for i in (0, 1) for p in "qv"]
    assert trained == {"layer_norm.weight", "layer_norm.bias"} | {
        f"{p}.adapter_{way}_proj.weight" for p in projections for way in ("down", "up")
    }
    optimizer = torch.optim.SGD([p for p in lobe.parameters() if p.requires_grad], lr=1e-4)
    before = train_step(lobe)[0]
    optimizer.step()
    assert train_step(lobe)[0] < before


@every_kind
def test_gradient_checkpointing_keeps_numbers_and_reruns_layers(small_ssl, tmp_path, family, norm):
    # With dropout on, so that the recomputation has to repeat its random numbers.
    folder = small_ssl(family, norm)
    expected_loss, expected = train_step(SSLEncoder(folder, tmp_path))
    lobe = SSLEncoder(folder, tmp_path, gradient_checkpointing=True)
    runs = []
    for part in (
        lobe.model.encoder.layers[0].attention.q_proj,
        lobe.model.feature_extractor.conv_layers[1].activation,
    ):
        # Recomputing stops where the last input that is wanted is there again.
        part.register_forward_pre_hook(lambda *_: runs.append(1))
    loss, gradients = train_step(lobe)
    assert len(runs) == 4
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3)
    lobe.eval()
    runs.clear()
    train_step(lobe)
    assert len(runs) == 2


@every_kind
def test_bfloat16_autocast_is_finite_and_close(small_ssl, tmp_path, family, norm):
    folder = small_ssl(family, norm, **NO_DROPOUT)
    lobe = SSLEncoder(folder, tmp_path)
    loss, gradients = train_step(lobe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lobe(torch.randn(1, 4000)).dtype == torch.float32
        half_loss, half_gradients = train_step(lobe)
    assert half_loss == pytest.approx(loss, rel=0.05)
    for name, gradient in gradients.items():
        if not name.endswith("k_proj.bias"):  # their gradient is zero
            assert half_gradients[name].isfinite().all()
            error = (half_gradients[name] - gradient).norm() / gradient.norm()
            assert error < 0.25, (name, error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("wavlm", {"dynamic": True}),
        ("wavlm", {"gradient_checkpointing": True}),
        ("hubert", {}),
        ("wav2vec2", {}),
        ("data2vec", {}),
    ],
    ids=str,
)
def test_compiled_lobe_matches(small_ssl, tmp_path, family, options):
    dynamic = options.pop("dynamic", False)
    lobe = SSLEncoder(small_ssl(family, "group", layers=1, **NO_DROPOUT), tmp_path, **options)
    loss, gradients = train_step(lobe)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # Graphs are traced as for inductor; only its code generation is left out, for speed.
    compiled = torch.compile(lobe, backend="aot_eager", dynamic=dynamic)
    compiled_loss, compiled_gradients = train_step(compiled)
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        found = compiled_gradients["_orig_mod." + name]
        torch.testing.assert_close(found, gradient, atol=1e-4, rtol=1e-3, msg=name)
    if dynamic:
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for lengths in ([12000, 3000], [15000, 3000, 2000]):
            batch = pad(make_wavs(lengths))
            torch.testing.assert_close(compiled(*batch), lobe(*batch), atol=1e-4, rtol=0)
        # Batches of other sizes do not compile again.
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
