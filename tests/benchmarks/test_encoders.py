"""The encoder benchmark: its tables are complete, its figures agree with other ways to them."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from argparse import Namespace
from collections import UserDict
from functools import partial

import numpy as np
import pytest
import torch

from tests.conftest import ROOT

pytestmark = pytest.mark.benchmark

TINY = ["--size", "tiny", "--threads", "1", "--rounds", "1", "--batches", "1", "--batch-size", "4"]


@pytest.fixture(scope="module")
def encoders():
    """The script, imported under the name by which its processes know it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("encoders")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("durations") / "corpus.csv"
    seconds = np.random.default_rng(0).lognormal(1.28, 0.6, 600).clip(0.6, 30).round(3)
    path.write_text("seconds\n" + "\n".join(map(str, seconds)) + "\n")
    return ["--durations", str(path), "--column", "seconds"]


def run(encoders, *arguments: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        encoders.main([*TINY, *arguments])
    return output.getvalue()


def table_under(printed: str, heading: str) -> list[dict[str, str]]:
    section = printed.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line.strip("| ") for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = [re.split(r" *\| ", line) for line in lines]
    # The last cell of a row may be empty, and is stripped with the frame.
    return [dict(zip(header, cells + [""], strict=False)) for cells in rows]


@pytest.fixture(scope="module")
def printed(encoders, corpus) -> str:
    """One run with everything that it measures, for several tests."""
    attention = ["--attention-dropout", "0", "--attention-seconds", "2"]
    return run(encoders, "--families", "wavlm", *corpus, *attention)


@pytest.fixture(scope="module")
def rows(printed) -> dict[str, dict[str, str]]:
    return {row["row"]: row for row in table_under(printed, "Rows")}


def test_table_has_a_row_for_each_piece(printed, rows):
    pieces = ["our lobe", "sdpa", "sampler", "prompts", "freezing, stock", "freezing"]
    assert list(rows) == ["stock path", *pieces, "fused Adam", "all but freezing", "all together"]
    varied = ("lobe", "attention", "batches", "prompts", "front end", "Adam")
    settings = {name: [row[column] for column in varied] for name, row in rows.items()}
    assert settings["stock path"] == ["stock", "eager", "random", "every", "trained", "plain"]
    assert settings["all together"] == ["ours", "sdpa", "pooled", "distinct", "frozen", "fused"]
    # Each gain is that of one column, but where the name says that it is of several.
    several = {"all together", "all but freezing"}
    gains = table_under(printed, "What each piece brings by itself")
    assert {gain["row / row"].split(" / ")[0] for gain in gains} == set(rows) - {"stock path"}
    for gain in gains:
        row, against = gain["row / row"].split(" / ")
        changed = sum(a != b for a, b in zip(settings[row], settings[against], strict=True))
        assert changed == 1 or row in several or gain["piece"].endswith("no graph")
        expected = float(rows[row]["training utt/s"]) / float(rows[against]["training utt/s"])
        assert float(gain["training"]) == pytest.approx(expected, abs=0.01)


def test_figures_are_those_of_the_lobes(rows):
    differences = {name: float(row["alone vs batch"] or 0) for name, row in rows.items()}
    assert differences["stock path"] > 1e-2
    assert 0 < differences["our lobe"] <= 1e-4 and 0 < differences["all together"] <= 1e-4
    assert all(float(row["peak MiB"]) > 0 for row in rows.values())
    assert {(row["batch size"], row["rounds"]) for row in rows.values()} == {("4", "1")}


def test_padding_is_that_of_the_epoch(rows, corpus):
    seconds = np.loadtxt(corpus[1], skiprows=1)
    # A sort in numpy is the least padding there is; random batches by numpy's own shuffle.
    sorted_batches = np.sort(seconds).reshape(-1, 4)
    shuffled = np.random.default_rng(5).permutation(seconds).reshape(-1, 4)
    least, random = (
        100 * (1 - of.sum() / (4 * of.max(axis=1).sum())) for of in (sorted_batches, shuffled)
    )
    assert float(rows["stock path"]["padding %"]) == pytest.approx(random, abs=5)
    assert least <= float(rows["sampler"]["padding %"]) < random / 3


def test_attention_and_heads_are_measured_and_the_header_says_on_what(printed, rows):
    for said in ("tiny, cpu, fp32", f"torch {torch.__version__.split('+')[0]}", "600 utterances"):
        assert said in printed.split("\n## ")[0], said
    eager, sdpa = table_under(printed, "WavLM attention alone")
    assert [eager["attention"], sdpa["attention"]] == ["eager", "sdpa"]
    assert eager["eager / it, time"] == eager["it / eager, peak"] == "1.00"
    assert all(float(row["seconds"]) > 0 and float(row["peak MiB"]) > 0 for row in (eager, sdpa))
    assert 0.1 < float(re.search(r"ratio (\d+\.\d+)\.", printed).group(1)) < 10
    goals = printed.split("## Goals")[1]
    assert len(re.findall(r"goal at (?:least|most) .*: (?:not )?reached", goals)) == 7
    for name, training, inference in (("our lobe", 1, 1), ("all together", 5, 4)):
        for figure, least in (("training", training), ("inference", inference)):
            value = rows[name][f"{figure} x stock"]
            assert f"{figure}, {name} over stock path: {value}, goal at least {least}:" in goals


def test_other_families_have_the_stock_path_and_all_together(encoders, corpus):
    arguments = ["--families", "hubert", "--parts", "rows", "--precision", "bf16"]
    measured = table_under(run(encoders, *arguments, *corpus), "Rows")
    assert [row["row"] for row in measured] == ["stock path", "all together"]
    assert [row["attention"] for row in measured] == ["sdpa", "auto"]
    # Embeddings are compared in float32, whatever the precision of training.
    assert float(measured[1]["alone vs batch"]) <= 1e-4


@pytest.fixture(scope="module")
def options(encoders, corpus, tmp_path_factory) -> Namespace:
    """Options of a run whose models are saved."""
    options = encoders.parse([*TINY, *corpus])
    options.folder = tmp_path_factory.mktemp("models")
    encoders.save_models(options)
    return options


def model_of(encoders, options: Namespace, family: str, name: str):
    (row,) = (row for row in encoders.tables.rows_of(options, family) if row.name == name)
    torch.manual_seed(0)
    return encoders.build_model(options, family, row, ["emotion"])


@pytest.mark.parametrize("family", ["wavlm", "hubert", "wav2vec2", "data2vec"])
def test_both_paths_have_the_same_weights(encoders, options, family):
    ours, stock = (
        model_of(encoders, options, family, name).eval() for name in ("all together", "stock path")
    )
    for tower in ("audio_encoder", "text_encoder"):
        weights = dict(getattr(stock, tower).model.named_parameters())
        for name, weight in getattr(ours, tower).model.named_parameters():
            assert torch.equal(weight, weights.pop(name)), name
        assert all(name.startswith("pooler.") for name in weights)
    # On one unpadded utterance the stock path is right, and both agree.
    wavs, wav_lens, sentences = torch.randn(1, 8000), torch.ones(1), ["this person sounds sad"]
    with torch.no_grad():
        frames, expected = (model.audio_encoder(wavs, wav_lens) for model in (ours, stock))
        torch.testing.assert_close(frames, expected, atol=1e-4, rtol=0)
        vectors, expected = (model.text_encoder(sentences) for model in (ours, stock))
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_attention_implementations_and_prompts_change_no_embedding(encoders, options):
    wavs, wav_lens, sentences, _ = encoders.make_batch(options, [5, 6, 7, 8, 9, 10])
    counts, audio, text = [], [], []
    for name in ("our lobe", "sdpa", "all together"):
        model = model_of(encoders, options, "wavlm", name).eval()
        model.text_encoder.register_forward_pre_hook(
            lambda _, inputs: counts.append(len(inputs[0]))
        )
        with torch.no_grad():
            audio.append(model.encode_audio(wavs, wav_lens))
            text.append(model.encode_text(sentences["emotion"]))
    for one, *others in (audio, text):
        assert all(torch.allclose(other, one, atol=1e-5) for other in others)
    # Six utterances of four emotions: every prompt, or each once.
    assert counts == [6, 6, 4]


def make_step(encoders, options, model, name):
    (row,) = (row for row in encoders.tables.ROWS if row.name == name)
    return encoders.make_step(options, model, encoders.contrastive.EmoCLAPObjective(), row)


def test_adam_in_one_pass_trains_as_the_plain_one(encoders, options):
    weights = []
    for name in ("stock path", "fused Adam"):
        torch.manual_seed(0)
        model = model_of(encoders, options, "wavlm", name)
        step = make_step(encoders, options, model, name)
        before = model.audio_encoder.model.encoder.layers[0].attention.q_proj.weight.clone()
        for _ in range(2):
            step(*encoders.make_batch(options, [0, 1, 2, 3]))
        weights.append(model.audio_encoder.model.encoder.layers[0].attention.q_proj.weight - before)
    plain, fused = weights
    # Two steps of 2e-5 at most, each rounded to the float32 of the weight.
    assert plain.abs().max() > 1e-5
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "has_graph", "has_gradient"),
    [("stock path", True, True), ("freezing, stock", True, False), ("freezing", False, False)],
)
def test_a_step_trains_what_the_row_says(encoders, options, name, has_graph, has_gradient):
    model = model_of(encoders, options, "wavlm", name)
    step = make_step(encoders, options, model, name)
    audio = model.audio_encoder.model
    graphs = []
    audio.feature_projection.register_forward_pre_hook(
        lambda _, inputs: graphs.append(inputs[0].requires_grad)
    )
    before = audio.encoder.layers[0].attention.q_proj.weight.clone()
    step(*encoders.make_batch(options, [0, 1, 2, 3]))
    # The stock lobe's freezing builds the graph all the same; that is what the row shows.
    assert graphs == [has_graph]
    gradients = [weight.grad for weight in audio.feature_extractor.parameters()]
    assert all((gradient is not None) == has_gradient for gradient in gradients)
    assert not torch.equal(before, audio.encoder.layers[0].attention.q_proj.weight)


def test_stock_pooling_is_the_mean_of_valid_frames_but_for_its_noise(encoders, options):
    frames, lengths = torch.randn(3, 10, 64), torch.tensor([10, 7, 1])
    pooled = model_of(encoders, options, "wavlm", "stock path").pooling(frames, lengths)
    expected = np.stack([frames[i, :n].numpy().mean(0) for i, n in enumerate(lengths.tolist())])
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-4)


def test_an_utterance_is_the_same_in_every_batch(encoders):
    options = encoders.parse(TINY)
    options.seconds, options.duration_scale = np.array([1.0, 3.0, 0.01]), 0.5
    wavs, wav_lens, sentences, labels = encoders.make_batch(options, [0, 1, 2])
    alone = encoders.make_batch(options, [0])
    # The shortest is kept at 0.05 s, above the encoders' first frame.
    assert torch.round(wav_lens * wavs.shape[1]).tolist() == [8000, 24000, 800]
    assert torch.equal(wavs[0, :8000], alone[0][0]) and not wavs[0, 8000:].any()
    assert alone[2]["emotion"] == sentences["emotion"][:1]
    for name, of in sentences.items():
        assert of == [encoders.SENTENCES[name][label] for label in labels[name]]


def test_a_batch_that_does_not_fit_is_halved_for_the_family_and_said(encoders, monkeypatch, capsys):
    names = ("training", "inference", "memory", "padding", "difference")

    def measure(function, options, family, row, size):
        if row.name == "our lobe" and size > largest:
            raise torch.OutOfMemoryError("full")
        return dict.fromkeys(names, 1.0) | {"size": size}

    largest = 10
    monkeypatch.setattr(encoders, "in_child", measure)
    options = encoders.parse(["--families", "wavlm", "hubert", "--rounds", "2"])
    options.deadline = float("inf")
    encoders.run_rows(options)
    printed = capsys.readouterr().out
    for row in table_under(printed, "Rows"):
        assert row["batch size"] == ("8" if row["family"] == "wavlm" else "32")
        assert row["rounds"] == "2"
    for size in (32, 16):
        assert printed.count(f"wavlm, our lobe: no memory for batches of {size}.") == 1
    largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        encoders.run_rows(options)
    # No round starts that would pass the deadline, but for the first.
    largest, options.deadline = 32, 0.0
    results = encoders.measure_rows(options)["hubert"]
    assert [len(row["training"]) for row in results.values()] == [1, 1]


def test_ratios_are_taken_within_rounds(encoders):
    tables = encoders.tables
    # The machine was three times slower in the second round; the ratio does not see it.
    assert tables.ratios([8.0, 8 / 3, None], [4.0, 4 / 3, 4.0]) == pytest.approx([2.0, 2.0])
    assert tables.middle([1.0, None, 3.0, 9.0]) == "3.00" and tables.middle([None]) == ""
    line = "- memory: 0.60, goal at most 0.5: not reached"
    assert tables.goal("memory", 0.6, "most", 0.5) == line


def test_turns_change_their_order(encoders):
    taken: list[str] = []
    calls = [partial(taken.append, name) for name in "ab"]
    seconds = encoders.by_turns(encoders.parse(TINY), calls, 2)
    assert taken == ["a", "b", "b", "a"] and [len(of) for of in seconds] == [2, 2]


def test_flex_is_measured_on_cuda_only_and_without_dropout(encoders):
    options = encoders.parse(["--gradient-checkpointing"])
    on_cpu = {row.name for row in encoders.tables.rows_of(options, "wavlm")}
    options.on_cpu = False
    on_gpu = {row.name for row in encoders.tables.rows_of(options, "wavlm")}
    assert on_gpu - on_cpu == {"flex", "all together, flex"}
    assert on_gpu == {name for gain in encoders.tables.GAINS for name in gain[1:]}


def test_what_becomes_of_a_measuring_process(encoders):
    options = UserDict()
    options.threads, options.seed = 1, 7
    assert encoders.in_child(getattr, options, "seed") == 7

    def execute(code: str) -> None:
        encoders.in_child(partial(exec, code, {}), options)

    with pytest.raises(ZeroDivisionError):
        execute("1 / 0")
    with pytest.raises(RuntimeError, match="the process died"):
        execute("import os; os._exit(3)")
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        execute("import torch; raise torch.OutOfMemoryError('full')")
