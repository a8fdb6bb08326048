"""The rows of the encoder benchmark and its report: header, tables and goals.

`encoders.py` measures; nothing is measured here.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections import namedtuple
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from padding import make_batches, typical_batches

from gemoclap_sb.data.samplers import speech_share

STOCK, ALL = "stock path", "all together"
# Frozen builds no graph; no gradient, the stock lobe's way, does. Infers: inference differs.
Row = namedtuple("Row", "name lobe attention batching prompts front_end adam infers")
ROWS = [
    Row(STOCK, "stock", "eager", "random", "every", "trained", "plain", True),
    Row("our lobe", "ours", "eager", "random", "every", "trained", "plain", True),
    Row("sdpa", "ours", "sdpa", "random", "every", "trained", "plain", True),
    Row("flex", "ours", "flex", "random", "every", "trained", "plain", True),
    Row("sampler", "stock", "eager", "pooled", "every", "trained", "plain", True),
    Row("prompts", "stock", "eager", "random", "distinct", "trained", "plain", False),
    Row("freezing, stock", "stock", "eager", "random", "every", "no gradient", "plain", False),
    Row("freezing", "ours", "eager", "random", "every", "frozen", "plain", False),
    Row("fused Adam", "stock", "eager", "random", "every", "trained", "fused", False),
    Row("all but freezing", "ours", "sdpa", "pooled", "distinct", "trained", "fused", False),
    Row(ALL, "ours", "sdpa", "pooled", "distinct", "frozen", "fused", True),
    Row(f"{ALL}, flex", "ours", "flex", "pooled", "distinct", "frozen", "fused", True),
    Row(f"{ALL}, checkpointed", "ours", "sdpa", "pooled", "distinct", "frozen", "fused", False),
]
# A piece, the row that has it, and the row that lacks this piece only.
GAINS = [
    ("lobe, pooling, text lobe", "our lobe", STOCK),
    ("attention: eager to sdpa", "sdpa", "our lobe"),
    ("attention: eager to flex, no dropout", "flex", "our lobe"),
    ("sampler: random to length-pooled", "sampler", STOCK),
    ("prompts: all to distinct", "prompts", STOCK),
    ("front end: trained to requires_grad=False", "freezing, stock", STOCK),
    ("front end: trained to frozen without a graph", "freezing", "our lobe"),
    ("front end: requires_grad=False to no graph", "freezing", "freezing, stock"),
    ("Adam: plain to fused", "fused Adam", STOCK),
    ("all but freezing: the same weights trained", "all but freezing", STOCK),
    ("lobe, prompts, front end, Adam: on the sampler's batches", ALL, "sampler"),
    ("all together", ALL, STOCK),
    ("all together, flex, no attention dropout", f"{ALL}, flex", STOCK),
    ("gradient checkpointing", f"{ALL}, checkpointed", ALL),
]


def rows_of(options: Namespace, family: str) -> list[Row]:
    """List the rows of a family, the stock path first."""
    rows = ROWS if options.gradient_checkpointing else ROWS[:-1]
    if family not in options.ablation:
        rows = [row for row in rows if row.name.startswith((STOCK, ALL))]
    if family == "wavlm":
        # flex_attention has no backward pass on the CPU.
        return [row for row in rows if row.attention != "flex" or not options.on_cpu]
    # transformers takes sdpa by itself for the others.
    others = {"eager": "sdpa", "sdpa": "auto"}
    rows = [row for row in rows if row.attention in others and row.name != "sdpa"]
    return [row._replace(attention=others[row.attention]) for row in rows]


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Divide figures of the same round, where both were taken."""
    return [a / b for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]


def middle(figures: Sequence[float | None], form: str = ".2f") -> str:
    """Write the median of the figures that were taken."""
    known = [figure for figure in figures if figure is not None]
    return format(median(known), form) if known else ""


def goal(what: str, value: float, bound: str, limit: float) -> str:
    """Say whether a goal of at `least` or at `most` so much is reached."""
    is_reached = value >= limit if bound == "least" else value <= limit
    shown = f"{value:.2f}" if limit > 0.01 else f"{value:.1e}"
    return f"- {what}: {shown}, goal at {bound} {limit:g}: {'' if is_reached else 'not '}reached"


def goals_of(options: Namespace, row: Row) -> list[tuple[str, float]]:
    """List which figures of a row are to be how many times those of the stock path, at least."""
    if row.name == "our lobe" and options.on_cpu:
        return [("training", 1.0), ("inference", 1.0)]
    if not row.name.startswith(ALL):
        return []
    return [("training", 5.0)] + [("inference", 4.0)] * (options.on_cpu and row.infers)


def print_table(columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; bars part the columns' names."""
    names = columns.split(" | ")
    for row in (names, ["---"] * len(names), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


def header(options: Namespace) -> str:
    """Say what is run, on what, with which versions; in a child, since it starts the driver."""
    seconds, size, ways = options.seconds, options.batch_size, []
    for batching in ("random", "pooled", "sorted"):
        epoch = make_batches(batching, seconds, size, options.seed, epoch=1)
        picked = typical_batches(batching, seconds, size, options.seed, options.batches)
        means = [np.mean([seconds[batch].max() for batch in of]) for of in (epoch, picked)]
        padding = 100 * (1 - speech_share(seconds, epoch))
        ways.append(f"{batching} {padding:.1f} % ({means[0]:.2f} s; {means[1]:.2f} s)")
    if options.on_cpu:
        cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        device = f"{(re.findall('model name.*: (.*)', cpus) or [os.uname().machine])[0]}, CPU"
    else:
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "speechbrain")]
    return f"""# Encoders, {options.size}, {options.device}, {options.precision}

- {device}; {os.cpu_count()} cores, {options.threads} threads; Python \
{sys.version.split()[0]}, {", ".join(versions)}
- Durations: {options.origin}, {len(seconds)} utterances of {min(seconds):.2f} s to \
{max(seconds):.2f} s, mean {seconds.mean():.2f} s; waveforms shortened to \
{options.duration_scale:g} of that
- Padding over a whole epoch in batches of {size} (mean padded length before shortening; that of \
the batches measured): {", ".join(ways)}
- Batches in a measurement: {options.batches} of {size}, up to {options.rounds} rounds by turns; \
attention dropout {options.attention_dropout:g}; Adam; seed {options.seed}
- Text encoder: {"a small RoBERTa" if options.size == "tiny" else "RoBERTa-base, trained"}"""


def print_attention(
    options: Namespace, measured: Mapping[float, Sequence[tuple]], size: int, turns: int
) -> list[str]:
    """Print names, seconds and peaks of attention by dropout, eager first; return the goals."""
    lines, goals = [], []
    for dropout, found in measured.items():
        _, eager, most = found[0]
        for name, of, peak in found:
            speed, share = median(ratios(eager, of)), peak / most
            line = [f"{dropout:g}", name, f"{median(of):.4f}", f"{speed:.2f}"]
            lines.append([*line, f"{peak:.0f}", f"{share:.2f}"])
            what = f"WavLM attention alone, dropout {dropout:g}"
            if name != "eager" and options.on_cpu:
                goals.append(goal(f"{what}, time of eager over {name}", speed, "least", 1.2))
            elif name != "eager":
                goals.append(goal(f"{what}, peak of {name} over eager", share, "most", 0.5))
    print("\n## WavLM attention alone\n\nForward and backward of 4 attention modules in a row,")
    print(f"{size} utterances of {options.attention_seconds:g} s, {turns} repetitions by turns.\n")
    columns = "dropout | attention | seconds | eager / it, time | peak MiB | it / eager, peak"
    print_table(columns, lines)
    return goals


def print_heads(
    family: str, emotion: Sequence[float], multi: Sequence[float], turns: int
) -> list[str]:
    """Print seconds of steps of Emo-CLAP and of ML-GEmo-CLAP; return the goal."""
    value = median(ratios(multi, emotion))
    print("\n## ML-GEmo-CLAP over Emo-CLAP\n")
    print(f"{family}, all together, the same encoders and batches, {turns} steps each by turns:")
    print(f"median {median(multi):.3f} s over {median(emotion):.3f} s, ratio {value:.3f}.")
    return [goal(f"{family}, step of ML over step of Emo-CLAP", value, "most", 1.1)]


def print_rows(
    options: Namespace, results: Mapping[str, Mapping[str, Mapping[str, list]]]
) -> list[str]:
    """Print the rows and the gains, lists of figures by family and row; return the goals."""
    lines, gains, goals = [], [], []
    for family, of in results.items():
        for row in rows_of(options, family):
            figures = of[row.name]
            attention = row.attention + (", dropout 0" if row.attention == "flex" else "")
            line = [family, row.name, row.lobe, attention, *row[3:7]]
            line += [str(figures["size"][-1]), str(len(figures["size"]))]
            for figure in ("training", "inference"):
                times = ratios(figures[figure], of[STOCK][figure])
                line += [middle(figures[figure]), middle(times)]
            for figure, form in (("memory", ".0f"), ("padding", ".1f"), ("difference", ".1e")):
                line.append(middle(figures[figure], form))
            lines.append(line)
            for figure, least in goals_of(options, row):
                speed = median(ratios(figures[figure], of[STOCK][figure]))
                what = f"{family}, {figure}, {row.name} over {STOCK}"
                goals.append(goal(what, speed, "least", least))
        what = f"{family}, embedding alone against in a batch"
        goals.append(goal(what, median(of[ALL]["difference"]), "most", 1e-4))
        for piece, name, against in GAINS:
            if name in of and against in of:
                pairs = ((of[name][f], of[against][f]) for f in ("training", "inference", "memory"))
                cells = [middle(ratios(*pair)) for pair in pairs]
                gains.append([family, piece, f"{name} / {against}", *cells])
    columns = """family | row | lobe | attention | batches | prompts | front end | Adam | \
batch size | rounds | training utt/s | training x stock | inference utt/s | inference x stock | \
peak MiB | padding % | alone vs batch"""
    print_table(columns, lines)
    print("\n## What each piece brings by itself\n")
    print_table("family | piece | row / row | training | inference | peak memory", gains)
    return goals
