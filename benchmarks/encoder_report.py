"""Markdown of the encoder benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from encoder_rounds import STOCK, Row
from encoder_steps import Measurement

Results = dict[str, dict[str, list[Measurement]]]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table.

    Examples
    --------
    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(
    ours: Sequence[Measurement],
    theirs: Sequence[Measurement],
    figure: Callable[[Measurement], float | None],
) -> float | None:
    """Median over rounds of the ratio of a figure within a round; None where none was taken."""
    pairs = [(figure(mine), figure(other)) for mine, other in zip(ours, theirs, strict=False)]
    known = [mine / other for mine, other in pairs if mine is not None and other]
    return median(known) if known else None


def rows_table(rows: dict[str, list[Row]], results: Results) -> str:
    """Lay out the figures of every row: medians over the rounds."""
    header = [
        "family", "row", "lobe", "attention", "batches", "prompts", "front end", "batch size",
        "rounds", "training utt/s", "training x stock", "inference utt/s", "inference x stock",
        "peak MiB",
        "padding %", "alone vs batch",
    ]  # fmt: skip
    lines = []
    for family, of in rows.items():
        stock = results[family][STOCK]
        for row in of:
            variant, measured = row.variant, results[family][row.variant.name]
            attention = variant.attention
            if variant.attention_dropout is not None:
                attention += f", dropout {variant.attention_dropout:g}"
            differences = [m.difference for m in measured if m.difference is not None]
            lines.append(
                [
                    family,
                    variant.name,
                    variant.lobe,
                    attention,
                    variant.batching,
                    variant.prompts,
                    variant.front_end,
                    str(variant.batch_size),
                    str(len(measured)),
                    f"{median(m.training for m in measured):.2f}",
                    _number(ratio(measured, stock, lambda m: m.training)),
                    _number(median(m.inference for m in measured) if row.infer else None),
                    _number(ratio(measured, stock, lambda m: m.inference)),
                    f"{median(m.peak_memory for m in measured):.0f}",
                    f"{100 * measured[0].padding:.1f}",
                    f"{differences[0]:.1e}" if differences else "",
                ]
            )
    return markdown_table(header, lines)


def gains_table(rows: dict[str, list[Row]], results: Results) -> str:
    """Lay out what each piece brings by itself: a row over the row that lacks it only."""
    header = ["family", "piece", "row / row", "training", "inference", "peak memory"]
    lines = []
    for family, of in rows.items():
        for row in of:
            for piece, against in row.gains:
                measured, other = results[family][row.variant.name], results[family][against]
                lines.append(
                    [
                        family,
                        piece,
                        f"{row.variant.name} / {against}",
                        _number(ratio(measured, other, lambda m: m.training)),
                        _number(ratio(measured, other, lambda m: m.inference)),
                        _number(ratio(measured, other, lambda m: m.peak_memory)),
                    ]
                )
    return markdown_table(header, lines)


def attention_table(
    figures: Sequence[tuple[float, dict[str, list[float]], dict[str, float]]],
) -> str:
    """Lay out WavLM's attention alone: per dropout the seconds and MiB per implementation."""
    header = ["dropout", "attention", "seconds", "eager / it, time", "peak MiB", "it / eager, peak"]
    lines = []
    for dropout, seconds, memory in figures:
        for name in seconds:
            lines.append(
                [
                    f"{dropout:g}",
                    name,
                    f"{median(seconds[name]):.4f}",
                    _number(paired_ratio(seconds["eager"], seconds[name])),
                    f"{memory[name]:.0f}",
                    _number(memory[name] / memory["eager"]),
                ]
            )
    return markdown_table(header, lines)


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time."""
    return median(a / b for a, b in zip(first, second, strict=True))


def goal(what: str, value: float, limit: float, at_least: bool) -> str:
    """Say whether a goal is reached.

    Examples
    --------
    >>> goal("training, all together over stock path", 3.5, 3.0, at_least=True)
    '- training, all together over stock path: 3.50, goal at least 3: reached'
    """
    is_reached = value >= limit if at_least else value <= limit
    shown = f"{value:.1e}" if 0 < limit < 0.01 else f"{value:.2f}"
    return (
        f"- {what}: {shown}, goal {'at least' if at_least else 'at most'} {limit:g}: "
        f"{'reached' if is_reached else 'not reached'}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
