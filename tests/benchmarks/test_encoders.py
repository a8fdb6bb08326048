"""The encoder benchmark: its table is complete, its figures agree with other ways to them."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import ROOT

ROWS = [
    "stock path",
    "our lobe",
    "sdpa",
    "sampler",
    "prompts",
    "freezing, stock",
    "freezing",
    "all but freezing",
    "all together",
]


@pytest.fixture(scope="module")
def benchmark():
    """The script and its rooms, imported as the script imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        names = ("batches", "models", "processes", "report", "rounds", "steps", "stock")
        rooms = {name: importlib.import_module(f"encoder_{name}") for name in names}
        yield SimpleNamespace(script=importlib.import_module("encoders"), **rooms)


@pytest.fixture(scope="module")
def durations(tmp_path_factory):
    path = tmp_path_factory.mktemp("durations") / "corpus.csv"
    seconds = np.random.default_rng(0).lognormal(1.28, 0.6, 600).clip(0.6, 30).round(3)
    path.write_text("seconds\n" + "\n".join(map(str, seconds)) + "\n")
    return path


def run(benchmark, *arguments: object) -> str:
    common = ["--size", "tiny", "--threads", 1, "--rounds", 1, "--batches", 1, "--batch-size", 4]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        benchmark.script.main([str(argument) for argument in [*common, *arguments]])
    return output.getvalue()


def table_under(printed: str, heading: str) -> list[dict[str, str]]:
    section = printed.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line.strip("| ") for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = [re.split(r" *\| ", line) for line in lines]
    # The last cell of a row may be empty, and is stripped with the frame.
    return [dict(zip(header, cells + [""], strict=False)) for cells in rows]


@pytest.fixture(scope="module")
def printed(benchmark, durations):
    """One run with everything that it measures, for several tests."""
    corpus = ["--durations", durations, "--column", "seconds"]
    attention = ["--attention-dropout", 0, "--attention-seconds", 2]
    return run(benchmark, "--families", "wavlm", *corpus, *attention)


def test_table_has_a_row_for_each_piece(printed):
    rows = {row["row"]: row for row in table_under(printed, "Rows")}
    assert list(rows) == ROWS
    varied = ("lobe", "attention", "batches", "prompts", "front end")
    settings = {name: [row[column] for column in varied] for name, row in rows.items()}
    assert settings["stock path"] == ["stock", "eager", "random", "every", "trained"]
    assert settings["all together"] == ["ours", "sdpa", "pooled", "distinct", "frozen"]
    # Each gain is that of one column, but where the name says that it is of several.
    several = {"all together", "all but freezing"}
    for gain in table_under(printed, "What each piece brings by itself"):
        row, against = gain["row / row"].split(" / ")
        changed = sum(a != b for a, b in zip(settings[row], settings[against], strict=True))
        assert changed == 1 or row in several or gain["piece"].endswith("no graph")
        expected = float(rows[row]["training utt/s"]) / float(rows[against]["training utt/s"])
        assert float(gain["training"]) == pytest.approx(expected, abs=0.01)


def test_figures_are_those_of_the_lobes(printed):
    rows = {row["row"]: row for row in table_under(printed, "Rows")}
    assert float(rows["all together"]["alone vs batch"]) <= 1e-4
    assert float(rows["our lobe"]["alone vs batch"]) <= 1e-4
    assert float(rows["stock path"]["alone vs batch"]) > 1e-2
    for row in rows.values():
        assert float(row["training utt/s"]) > 0 and float(row["peak MiB"]) > 0
        assert row["batch size"] == "4" and row["rounds"] == "1"
    assert rows["stock path"]["training x stock"] == rows["stock path"]["inference x stock"]
    assert rows["stock path"]["training x stock"] == "1.00"


def test_padding_is_that_of_the_epoch(printed, durations):
    rows = {row["row"]: row for row in table_under(printed, "Rows")}
    seconds = np.loadtxt(durations, skiprows=1)
    # A sort in numpy is the least padding there is; random batches by numpy's own shuffle.
    sorted_batches = np.sort(seconds).reshape(-1, 4)
    shuffled = np.random.default_rng(5).permutation(seconds).reshape(-1, 4)
    least, random = (
        100 * (1 - of.sum() / (4 * of.max(axis=1).sum())) for of in (sorted_batches, shuffled)
    )
    assert float(rows["stock path"]["padding %"]) == pytest.approx(random, abs=5)
    assert least <= float(rows["sampler"]["padding %"]) < random / 3


def test_header_says_what_was_run(printed):
    header = printed.split("\n## ")[0]
    for said in (
        "tiny, cpu, fp32",
        "1 threads",
        f"torch {torch.__version__.split('+')[0]}",
        "transformers",
        "speechbrain",
        "corpus.csv, 600 utterances",
        "shortened to 0.1",
        "seed 1",
    ):
        assert said in header, said


def test_attention_and_heads_are_measured(printed):
    rows = table_under(printed, "WavLM attention alone")
    assert [(row["dropout"], row["attention"]) for row in rows] == [("0", "eager"), ("0", "sdpa")]
    assert rows[0]["eager / it, time"] == rows[0]["it / eager, peak"] == "1.00"
    assert all(float(row["seconds"]) > 0 for row in rows)
    ratio = float(re.search(r"ratio (\d+\.\d+)\.", printed).group(1))
    assert 0.1 < ratio < 10
    goals = printed.split("## Goals")[1]
    assert len(re.findall(r"goal at (?:least|most) .*: (?:not )?reached", goals)) == 4


def test_other_families_have_the_stock_path_and_all_together(benchmark, durations):
    arguments = ["--families", "hubert", "--parts", "rows", "--precision", "bf16"]
    arguments += ["--durations", durations, "--column", "seconds"]
    rows = table_under(run(benchmark, *arguments), "Rows")
    assert [row["row"] for row in rows] == ["stock path", "all together"]
    assert [row["attention"] for row in rows] == ["sdpa", "auto"]
    # Embeddings are compared in float32, whatever the precision of training.
    assert float(rows[1]["alone vs batch"]) <= 1e-4


@pytest.fixture(scope="module")
def saved_models(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    benchmark.models.save_text_model(folder / "text", "tiny", ["this person sounds sad"], seed=1)
    for family in benchmark.models.FAMILIES:
        benchmark.models.save_audio_model(folder / family, family, "tiny", 0.1, seed=1)
    return folder


def encoders_of(benchmark, folder, family, variant):
    return benchmark.steps.build_encoders(
        variant, family, str(folder / family), str(folder / "text")
    )


@pytest.mark.parametrize("family", ["wavlm", "hubert", "wav2vec2", "data2vec"])
def test_both_paths_have_the_same_weights(benchmark, saved_models, family):
    ours, stock = (
        encoders_of(benchmark, saved_models, family, variant)
        for variant in (
            benchmark.rounds.all_together(family, 4),
            benchmark.steps.Variant("stock path"),
        )
    )
    for mine, theirs in ((ours[0].model, stock[0].model), (ours[2].model, stock[2].encoder.model)):
        weights = dict(theirs.named_parameters())
        for name, weight in mine.named_parameters():
            assert torch.equal(weight, weights.pop(name)), name
        assert all(name.startswith("pooler.") for name in weights)
    # On one unpadded utterance the stock path is right, and both agree.
    wavs, wav_lens = torch.randn(1, 8000), torch.ones(1)
    sentences = ["this person sounds sad"]
    with torch.no_grad():
        frames, expected = (path[0].eval()(wavs, wav_lens) for path in (ours, stock))
        assert torch.allclose(frames, expected, atol=1e-4)
        vectors = [path[2].eval()(sentences) for path in (ours, stock)]
    assert torch.allclose(vectors[0], vectors[1], atol=1e-5)


@pytest.mark.parametrize(
    ("lobe", "front_end", "has_gradient"),
    [("stock", "trained", True), ("stock", "no gradient", False), ("ours", "frozen", False)],
)
def test_a_step_trains_what_the_row_says(benchmark, saved_models, lobe, front_end, has_gradient):
    steps, batches = benchmark.steps, benchmark.batches
    attention = "eager" if lobe == "ours" else "stock"
    variant = steps.Variant("row", lobe, attention, front_end=front_end)
    corpus = batches.Corpus((1.0, 2.0, 3.0, 4.0), scale=0.1, seed=1)
    setting = steps.Setting(corpus, 4, str(saved_models / "text"), "cpu", "fp32", 1)
    encoders = encoders_of(benchmark, saved_models, "wavlm", variant)
    step = steps.make_step(
        setting, steps.build_model(variant, encoders), steps.SoftLabelObjective({"emotion": 1.0})
    )
    model = encoders[0].model
    graphs = []
    model.feature_projection.register_forward_pre_hook(
        lambda _, inputs: graphs.append(inputs[0].requires_grad)
    )
    before = model.encoder.layers[0].attention.q_proj.weight.clone()
    assert torch.isfinite(step(batches.make_batch(corpus, [0, 1, 2, 3])))
    # The stock lobe's freezing builds the graph all the same; that is what the row shows.
    assert graphs == [front_end != "frozen"]
    gradients = [weight.grad for weight in model.feature_extractor.parameters()]
    assert all((gradient is not None) == has_gradient for gradient in gradients)
    assert not torch.equal(before, model.encoder.layers[0].attention.q_proj.weight)


def test_every_prompt_is_encoded_or_each_once(benchmark, saved_models):
    sentences = ["this person sounds sad", "this person sounds angry"] * 3
    counts, embeddings = [], []
    variant = benchmark.rounds.all_together("wavlm", 4)
    encoders = encoders_of(benchmark, saved_models, "wavlm", variant)
    encoders[2].register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    for prompts in ("every", "distinct"):
        torch.manual_seed(0)
        changed = benchmark.rounds.dataclasses.replace(variant, prompts=prompts)
        model = benchmark.steps.build_model(changed, encoders).eval()
        embeddings.append(model.encode_text(sentences))
    assert counts == [6, 2]
    assert torch.allclose(*embeddings, atol=1e-5)


def test_stock_pooling_is_the_mean_of_valid_frames_but_for_its_noise(benchmark):
    frames, lengths = torch.randn(3, 10, 4), torch.tensor([10, 7, 1])
    pooled = benchmark.stock.StockPooling(4)(frames, lengths)
    expected = np.stack([frames[i, :n].numpy().mean(0) for i, n in enumerate(lengths.tolist())])
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-4)


def test_typical_batches_cost_what_the_epoch_costs(benchmark):
    seconds = np.random.default_rng(1).lognormal(1.28, 0.6, 2000).tolist()
    corpus = benchmark.batches.Corpus(tuple(seconds), 1.0, 1)
    for batching in ("random", "pooled", "sorted"):
        epoch = benchmark.batches.epoch_batches(corpus, batching, 32)
        assert all(len(batch) == 32 for batch in epoch)
        lengths = [max(seconds[i] for i in batch) for batch in epoch]
        for count in (1, 4):
            picked = benchmark.batches.typical_batches(seconds, epoch, count)
            assert len({tuple(batch) for batch in picked}) == count
            assert benchmark.batches.padded_seconds(seconds, picked) == pytest.approx(
                np.mean(lengths), rel=0.1
            )


def test_an_utterance_is_the_same_in_every_batch(benchmark):
    corpus = benchmark.batches.Corpus((1.0, 3.0, 0.01), 0.5, 7)
    batch = benchmark.batches.make_batch(corpus, [0, 1, 2])
    alone = benchmark.batches.make_batch(corpus, [0])
    assert batch.wavs.shape == (3, 24000)
    samples = torch.round(batch.wav_lens * 24000).long().tolist()
    # The shortest is kept at 0.05 s, above the encoders' first frame.
    assert samples == [8000, 24000, 800]
    assert torch.equal(batch.wavs[0, :8000], alone.wavs[0])
    assert batch.wavs[0, 8000:].abs().max() == 0
    assert batch.names["emotion"][0] == alone.names["emotion"][0]


def test_durations_fall_back_to_a_sample_and_say_so(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.batches, "DEFAULT_DURATIONS", tmp_path / "absent.csv")
    seconds, origin = benchmark.batches.read_durations(None, "duration", seed=1)
    assert "log-normal" in origin and len(seconds) == 5531
    # IEMOCAP's four classes: mean 4.55 s.
    assert np.mean(seconds) == pytest.approx(4.4, abs=0.3)


def fake_measurement(benchmark, seconds: float = 1.0):
    return benchmark.steps.Measurement(seconds, 8, seconds, 8, 100.0, 0.5, 1e-6)


def test_a_batch_that_does_not_fit_is_made_smaller_and_said(benchmark, monkeypatch, tmp_path):
    def measure(function, setting, variant, *_):
        if variant.lobe == "stock" and variant.batch_size > 12:
            raise benchmark.processes.OutOfMemory("full")
        return fake_measurement(benchmark)

    monkeypatch.setattr(benchmark.rounds, "in_child", measure)
    rows = {"wavlm": benchmark.rounds.rows_of("wavlm", "cuda", False, False, 32)}
    rounds = benchmark.rounds.Rounds(None, rows, tmp_path)
    rounds.run(2, time.monotonic() + 60)
    sizes = {row.variant.name: row.variant.batch_size for row in rounds.rows["wavlm"]}
    assert sizes == {
        "stock path": 12,
        "all together": 32,
        "all together, flex": 32,
        "all together, batch 12": 12,
    }
    assert rounds.shortages == [
        "wavlm, stock path: batches of 32 ran out of memory, the largest tried that fits is 12"
    ]
    assert all(len(measured) == 2 for measured in rounds.results["wavlm"].values())
    assert "| 12 |" in benchmark.report.rows_table(rounds.rows, rounds.results)

    def refuse(*_):
        raise benchmark.processes.OutOfMemory("full")

    monkeypatch.setattr(benchmark.rounds, "in_child", refuse)
    with pytest.raises(benchmark.processes.OutOfMemory, match="not even one utterance"):
        rounds.run(1, time.monotonic() + 60)


def test_no_round_starts_that_would_pass_the_deadline(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.rounds, "in_child", lambda *_: fake_measurement(benchmark))
    rows = {"hubert": benchmark.rounds.rows_of("hubert", "cpu", False, False, 4)}
    rounds = benchmark.rounds.Rounds(None, rows, tmp_path)
    rounds.run(3, deadline=time.monotonic() - 1)
    assert [len(of) for of in rounds.results["hubert"].values()] == [1, 1]


def test_ratios_are_taken_within_rounds(benchmark):
    # The machine was three times slower in the second round; the ratio does not see it.
    ours = [fake_measurement(benchmark, seconds) for seconds in (1.0, 3.0)]
    stock = [fake_measurement(benchmark, seconds) for seconds in (2.0, 6.0)]
    assert benchmark.report.ratio(ours, stock, lambda m: m.training) == pytest.approx(2.0)
    assert benchmark.report.paired_ratio([2.0, 6.0, 4.0], [1.0, 3.0, 1.0]) == 2.0
    line = benchmark.report.goal("memory", 0.6, 0.5, at_least=False)
    assert line == "- memory: 0.60, goal at most 0.5: not reached"


def test_flex_is_measured_on_cuda_only_and_without_dropout(benchmark):
    on_gpu = benchmark.rounds.rows_of("wavlm", "cuda", True, True, 32)
    flex = [row.variant for row in on_gpu if row.variant.attention == "flex"]
    assert [variant.attention_dropout for variant in flex] == [0.0, 0.0]
    assert any(row.variant.gradient_checkpointing for row in on_gpu)
    on_cpu = benchmark.rounds.rows_of("wavlm", "cpu", True, False, 32)
    assert not any(row.variant.attention == "flex" for row in on_cpu)
    names = {row.variant.name for row in on_gpu}
    assert {against for row in on_gpu for _, against in row.gains} <= names


def test_what_becomes_of_a_measuring_process(benchmark):
    in_child = benchmark.processes.in_child
    assert in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(benchmark.processes.MeasurementError, match="ZeroDivisionError"):
        in_child(divmod, 7, 0)
    with pytest.raises(benchmark.processes.MeasurementError, match="ended with code 3"):
        in_child(exec, "import os; os._exit(3)")
    with pytest.raises(benchmark.processes.OutOfMemory, match="full"):
        in_child(exec, "import torch; raise torch.OutOfMemoryError('full')")


def test_wrong_arguments_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.script.main(["--rounds", "0"])
    assert "--rounds: expected more than 0" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            benchmark.script.main(["--device", "cuda"])
        assert "found none" in capsys.readouterr().err
