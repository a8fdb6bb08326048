"""Our encoders against SpeechBrain's stock path, piece by piece, in one run.

    python benchmarks/encoders.py                                  # base, CPU, under 10 minutes
    python benchmarks/encoders.py --size large --device cuda --precision bf16
    python benchmarks/encoders.py --size tiny --families wavlm     # seconds, to try it

The stock path is SpeechBrain's lobe and `StatisticsPooling`, batches drawn at random, its
`TextEncoder` on every prompt of the batch, everything trained. The other rows change one
piece each, and the last ones all of them. Printed as Markdown: utterances per second of
training steps and of inference, peak memory, padding, and the largest difference between
an utterance's embedding alone and in a batch; then what each piece brings by itself,
WavLM's attention alone, and the step of ML-GEmo-CLAP over that of Emo-CLAP.

How it is measured:

- Real architectures, random weights, the same in every row; LayerDrop off.
- A row is measured in a process of its own, warmed up. A round measures every row of a
  family once; figures are medians over rounds, ratios medians of the ratios within a round.
- The samplers see the whole corpus with its true durations. The batches measured stand for
  the epoch: equal strata of the batches by padded length, of each the nearest to its mean.
  Their waveforms are noise, shortened by `--duration-scale`, which keeps the padding's share.
- Batches are made beforehand, so that reading audio is not measured.
- Padding is that of a whole epoch of the row's training batches.
- Inference: audio only, the classes' texts encoded once; `pooled` rows sort by length.
- Peak memory: of training, weights and optimiser included. On a GPU
  `torch.cuda.max_memory_allocated`; on the CPU the growth of the process's resident set,
  loading included.
- Embeddings: pooled frames in float32, of eight utterances of a random batch, shortest and
  longest among them.
- Where a batch does not fit a GPU, the next smaller size that does is measured, and said.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from encoder_attention import AttentionSetting, attention_memory, attention_seconds
from encoder_batches import (
    PROMPTS,
    Corpus,
    epoch_batches,
    padded_seconds,
    read_durations,
    typical_batches,
)
from encoder_models import FAMILIES, SIZES, save_audio_model, save_text_model
from encoder_processes import in_child
from encoder_report import (
    attention_table,
    gains_table,
    goal,
    paired_ratio,
    ratio,
    rows_table,
)
from encoder_rounds import ALL, STOCK, Rounds, all_together, rows_of
from encoder_steps import Setting, heads_ratio

from gemoclap_sb.data.samplers import speech_share

PARTS = ("attention", "heads", "rows")
# Duration scale, batches and rounds by size on the CPU; base fits two cores and ten minutes.
_CPU_DEFAULTS = {"tiny": (0.1, 2, 2), "base": (0.125, 1, 2), "large": (0.05, 1, 1)}
_CUDA_DEFAULTS = (1.0, 8, 3)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line and fill in what depends on size and device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="base")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    add(
        "--ablation",
        nargs="*",
        choices=FAMILIES,
        default=["wavlm"],
        help="families with a row for each piece; the others have stock path and all together",
    )
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--durations", type=Path, help="CSV file; default IEMOCAP's, else a log-normal sample")
    add("--column", default="duration", help="its column of seconds")
    add("--duration-scale", type=float, help="factor on the waveforms' lengths")
    add("--batches", type=int, help="batches of each measurement")
    add("--batch-size", type=int, default=32)
    add("--rounds", type=int, help="repetitions")
    add("--minutes", type=float, default=9.0, help="start no further round that would pass this")
    add("--attention-dropout", type=float, default=0.1, help="of the checkpoints")
    add("--gradient-checkpointing", action="store_true", help="add a row")
    add("--attention-seconds", type=float, default=15.0, help="of WavLM's attention alone")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a GPU that torch can use, found none")
    on_cpu = options.device == "cpu"
    defaults = _CPU_DEFAULTS[options.size] if on_cpu else _CUDA_DEFAULTS
    for name, default in zip(("duration_scale", "batches", "rounds"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    return options


def describe_device(device: str) -> str:
    """Name the hardware; in a process of its own, since it starts the driver."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 1024**3:.0f} GiB"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, CPU"


def header(options: argparse.Namespace, corpus: Corpus, origin: str) -> str:
    """Say what was run, on what, with which versions."""
    seconds, size = corpus.durations, options.batch_size
    batchings = []
    for batching in ("random", "pooled", "sorted"):
        epoch = epoch_batches(corpus, batching, size)
        picked = typical_batches(seconds, epoch, options.batches)
        batchings.append(
            f"{batching} {100 * (1 - speech_share(seconds, epoch)):.1f} % "
            f"({padded_seconds(seconds, epoch):.2f} s; {padded_seconds(seconds, picked):.2f} s)"
        )
    packages = ("torch", "transformers", "speechbrain")
    return "\n".join(
        [
            f"# Encoders, {options.size}, {options.device}, {options.precision}",
            "",
            f"- {in_child(describe_device, options.device)}; {os.cpu_count()} cores, "
            f"{options.threads} threads; Python {platform.python_version()}, "
            + ", ".join(f"{package} {version(package)}" for package in packages),
            f"- Durations: {origin}, {len(seconds)} utterances of {min(seconds):.2f} s to "
            f"{max(seconds):.2f} s, mean {sum(seconds) / len(seconds):.2f} s; waveforms "
            f"shortened to {options.duration_scale:g} of that",
            f"- Padding over a whole epoch in batches of {size} (mean padded length before "
            "shortening; that of the batches measured): " + ", ".join(batchings),
            f"- Batches in a measurement: {options.batches} of {size}, up to "
            f"{options.rounds} rounds by turns; attention dropout {options.attention_dropout:g}; "
            f"Adam; seed {options.seed}",
            "- Text encoder: "
            + ("a small RoBERTa" if options.size == "tiny" else "RoBERTa-base, trained"),
        ]
    )


def save_models(folder: Path, options: argparse.Namespace) -> None:
    """Write the models of the run; in a process of its own, for the memory it takes."""
    sentences = [
        sentence
        for attribute in PROMPTS.attributes
        for of_class in PROMPTS.class_sentences(attribute)
        for sentence in of_class
    ]
    save_text_model(folder / "text", options.size, sentences, options.seed)
    for family in options.families:
        save_audio_model(
            folder / family, family, options.size, options.attention_dropout, options.seed
        )


def run_attention(options: argparse.Namespace) -> list[str]:
    """Measure and print WavLM's attention alone; return what became of its goals."""
    on_cpu = options.device == "cpu"
    setting = AttentionSetting(
        options.size,
        seconds=options.attention_seconds,
        batch_size=2 if on_cpu else 8,
        layers=2 if options.size == "tiny" else 4,
        dropout=options.attention_dropout,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        seed=options.seed,
    )
    repetitions = 3 if on_cpu else 20
    figures = []
    for dropout in dict.fromkeys((0.0, options.attention_dropout)):
        setting = dataclasses.replace(setting, dropout=dropout)
        # flex_attention has no dropout, and on the CPU no backward pass.
        names = ["eager", "sdpa"] + (["flex"] if not on_cpu and dropout == 0 else [])
        seconds = in_child(attention_seconds, setting, names, repetitions)
        memory = {name: in_child(attention_memory, setting, name) for name in names}
        figures.append((dropout, seconds, memory))
    print(
        f"\n## WavLM attention alone\n\nForward and backward of {setting.layers} attention "
        f"modules in a row, {setting.batch_size} utterances of {setting.seconds:g} s, "
        f"{repetitions} repetitions by turns.\n\n" + attention_table(figures),
        flush=True,
    )
    lines = []
    for dropout, seconds, memory in figures:
        for name in seconds.keys() - {"eager"}:
            what = f"WavLM attention alone, dropout {dropout:g}, "
            if on_cpu:
                speed = paired_ratio(seconds["eager"], seconds[name])
                lines.append(goal(f"{what}time of eager over {name}", speed, 1.2, at_least=True))
            else:
                share = memory[name] / memory["eager"]
                lines.append(goal(f"{what}peak of {name} over eager", share, 0.5, at_least=False))
    return sorted(lines)


def run_heads(options: argparse.Namespace, setting: Setting, folder: Path) -> list[str]:
    """Measure and print an ML-GEmo-CLAP step over an Emo-CLAP step."""
    family = options.families[0]
    repetitions = 4 if options.device == "cpu" else 10
    variant = all_together(family, options.batch_size)
    emotion, multi = in_child(
        heads_ratio, setting, variant, family, str(folder / family), repetitions
    )
    value = paired_ratio(multi, emotion)
    print(
        f"\n## ML-GEmo-CLAP over Emo-CLAP\n\n{family}, all together, the same encoders and "
        f"batches, {len(multi)} steps each by turns: median {median(multi):.3f} s over "
        f"{median(emotion):.3f} s, ratio {value:.3f}.",
        flush=True,
    )
    return [goal(f"{family}, step of ML over step of Emo-CLAP", value, 1.1, at_least=False)]


def run_rows(
    options: argparse.Namespace, setting: Setting, folder: Path, deadline: float
) -> list[str]:
    """Measure and print the rows and the gains."""
    rows = {
        family: rows_of(
            family,
            options.device,
            family in options.ablation,
            options.gradient_checkpointing,
            options.batch_size,
        )
        for family in options.families
    }
    rounds = Rounds(setting, rows, folder)
    rounds.run(options.rounds, deadline)
    print("\n## Rows\n\n" + rows_table(rows, rounds.results))
    for line in rounds.shortages:
        print(f"\n{line}.")
    print(
        "\n## What each piece brings by itself\n\n" + gains_table(rows, rounds.results), flush=True
    )
    lines = []
    for family, results in rounds.results.items():
        # With the stock path at a smaller batch, ours at the same size is the fair one.
        for name in [name for name in results if name.startswith(ALL)]:
            speed = ratio(results[name], results[STOCK], lambda measured: measured.training)
            what = f"{family}, training, {name} over {STOCK}"
            lines.append(goal(what, speed, 3.0 if options.device == "cpu" else 5.0, at_least=True))
        difference = results[ALL][0].difference
        what = f"{family}, embedding alone against in a batch"
        lines.append(goal(what, difference, 1e-4, at_least=False))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    started = time.monotonic()
    durations, origin = read_durations(options.durations, options.column, options.seed)
    corpus = Corpus(durations, options.duration_scale, options.seed)
    print(header(options, corpus, origin), flush=True)
    lines: list[str] = []
    if "attention" in options.parts:
        lines += run_attention(options)
    if {"heads", "rows"} & set(options.parts):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            in_child(save_models, folder, options)
            setting = Setting(
                corpus,
                options.batches * options.batch_size,
                str(folder / "text"),
                options.device,
                options.precision,
                options.threads,
            )
            if "heads" in options.parts:
                lines += run_heads(options, setting, folder)
            if "rows" in options.parts:
                lines += run_rows(options, setting, folder, started + 60 * options.minutes)
    minutes = (time.monotonic() - started) / 60
    print(
        "\n## Goals\n\nMeant for base on the CPU, and for large on a GPU in bf16.\n\n"
        + "\n".join(lines)
        + f"\n\nThe run took {minutes:.1f} minutes."
    )


if __name__ == "__main__":
    main()
