"""What `gemoclap_sb.evaluation.cluster_agreement` has found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gemoclap_sb.evaluation.cluster_agreement import LEVEL, MEASURES, ClusterAgreement
from gemoclap_sb.evaluation.report import markdown_table

TITLES = {"nmi": "NMI", "ari": "ARI", "purity": "purity"}
ALPHA = 0.05
MOST_ROWS = 30
"""Of a table for people; of more speakers it has quantiles."""
_QUANTILES = {
    "highest": 1.0,
    "95 %": 0.95,
    "75 %": 0.75,
    "median": 0.5,
    "25 %": 0.25,
    "5 %": 0.05,
    "lowest": 0.0,
}
_MOST_NAMED = 10
_NOTE = (
    "NMI: normalised mutual information (over the mean of the entropies). ARI: adjusted Rand "
    "index. Purity: share of the utterances that have the commonest label of their cluster. "
    "Shuffled: the mean of {shuffles} shuffles of the labels among the utterances of each speaker "
    "(seed {seed}), and the interval that has 95 % of them. p: (1 + shuffles that were at least as "
    "high) / (1 + shuffles), of one test alone, not corrected for their number. The mean's own "
    "interval: 95 %, Student's t over speakers; that of its shuffles: all speakers shuffled at the "
    "same time."
)


def agreement_summary(agreement: ClusterAgreement) -> dict[str, Any]:
    """Give the means over speakers, and who was left out, as ``agreement.json`` holds them.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    >>> found = cluster_agreement(["ann"] * 4, [0, 0, 1, 1], ["ang", "ang", "sad", "sad"])
    >>> summary = agreement_summary(found)
    >>> summary["speakers"], summary["measures"]["nmi"]["mean"], summary["left_out"]
    (1, 1.0, {})
    """
    left_out: dict[str, list[str]] = {}
    for speaker, reason in agreement.left_out.items():
        left_out.setdefault(reason, []).append(speaker)
    return {
        "speakers": len(agreement.speakers),
        "utterances": int(agreement.utterances.sum()),
        "utterances_without_label": agreement.unlabelled,
        "left_out": left_out,
        "shuffles": agreement.shuffles,
        "seed": agreement.seed,
        "level": LEVEL,
        "alpha": ALPHA,
        "measures": {
            name: {
                "mean": found.mean,
                "interval": None if found.interval is None else list(found.interval),
                "shuffled": found.mean_shuffled,
                "shuffled_interval": [found.mean_shuffled_low, found.mean_shuffled_high],
                "p": found.mean_p,
                "speakers_with_p_below_alpha": int((found.p < ALPHA).sum()),
                "quantiles": {
                    f"{share:g}": float(np.quantile(found.values, share))
                    for share in sorted(_QUANTILES.values())
                },
            }
            for name, found in agreement.measures.items()
        },
    }


def agreement_rows(agreement: ClusterAgreement) -> Iterator[dict[str, Any]]:
    """Give what ``agreement.csv`` has of each speaker.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    >>> found = cluster_agreement(["ann"] * 4, [0, 0, 1, 1], ["ang", "ang", "sad", "sad"])
    >>> print(", ".join(next(agreement_rows(found))))
    spk_id, utterances, clusters, labels,
    nmi, nmi_shuffled, nmi_shuffled_low, nmi_shuffled_high, nmi_p,
    ari, ari_shuffled, ari_shuffled_low, ari_shuffled_high, ari_p,
    purity, purity_shuffled, purity_shuffled_low, purity_shuffled_high, purity_p
    """
    columns = {
        "utterances": agreement.utterances,
        "clusters": agreement.sizes[:, 0],
        "labels": agreement.sizes[:, 1],
    }
    for name, found in agreement.measures.items():
        columns |= {
            name: found.values,
            f"{name}_shuffled": found.shuffled,
            f"{name}_shuffled_low": found.shuffled_low,
            f"{name}_shuffled_high": found.shuffled_high,
            f"{name}_p": found.p,
        }
    of_speakers = zip(*(of.tolist() for of in columns.values()), strict=True)
    for speaker, cells in zip(agreement.speakers, of_speakers, strict=True):
        yield {"spk_id": speaker} | dict(zip(columns, cells, strict=True))


def agreement_markdown(
    agreement: ClusterAgreement, title: str, pictures: Iterable[tuple[str, str]] = ()
) -> str:
    r"""Write a table of the mean and of each speaker, or of more than 30 speakers their quantiles.

    ``pictures`` are what each shows and its path, relative to the text.

    Examples
    --------
    >>> from gemoclap_sb.evaluation.cluster_agreement import cluster_agreement
    >>> found = cluster_agreement(["ann"] * 4, [0, 0, 1, 1], ["ang", "ang", "sad", "sad"])
    >>> print("\n".join(agreement_markdown(found, "Demo").splitlines()[2:6]))
    | speaker | utterances | clusters | labels | NMI | shuffled | p | ARI | shuffled | ...
    |:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
    | **mean of 1** | 4.0 | 2.0 | 2.0 | 1.000 | 0.3... [0.000, 1.000] | 0.3... | 1.000 | ...
    | ann | 4 | 2 | 2 | 1.000 | 0.3... [0.000, 1.000] | 0.3... | 1.000 | ...
    """
    many = len(agreement.speakers) > MOST_ROWS
    heading = ["of the speakers" if many else "speaker", "utterances", "clusters", "labels"]
    for name in MEASURES:
        heading += [TITLES[name], "shuffled", "p"]
    rows = [_mean_row(agreement), *(_quantile_rows if many else _speaker_rows)(agreement)]
    lines = [f"# {title}", "", *markdown_table(heading, rows), ""]
    if many:
        lines += ["Each column has its own quantiles; agreement.csv has every speaker.", ""]
    lines.append(_NOTE.format(shuffles=agreement.shuffles, seed=agreement.seed))
    if left_out := left_out_lines(agreement):
        lines += ["", *(f"- {line}" for line in left_out)]
    for shown, path in pictures:
        lines += ["", f"![{shown}]({path})"]
    return "\n".join(lines) + "\n"


def left_out_lines(agreement: ClusterAgreement) -> list[str]:
    """Say which utterances and speakers were left out, the first ten by name."""
    lines = []
    if agreement.unlabelled:
        lines.append(f"Left out: {agreement.unlabelled} utterances without a label.")
    by_reason = agreement_summary(agreement)["left_out"]
    for reason, names in by_reason.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        named = ", ".join(names[:_MOST_NAMED])
        lines.append(f"Left out: {len(names)} speakers with {reason}: {named}{more}.")
    return lines


def number_text(value: float) -> str:
    """Give three decimals, and no minus before zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def interval_text(ends: Iterable[float] | None) -> str:
    """Give the ends of an interval, or nothing."""
    return "" if ends is None else f"[{', '.join(map(number_text, ends))}]"


def p_text(p: float) -> str:
    """Give a p value with what digits matter."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def _mean_row(agreement: ClusterAgreement) -> list[str]:
    sizes = [agreement.utterances.mean(), *agreement.sizes.mean(axis=0)]
    row = [f"**mean of {len(agreement.speakers)}**", *(f"{size:.1f}" for size in sizes)]
    for found in agreement.measures.values():
        ends = (found.mean_shuffled_low, found.mean_shuffled_high)
        row += [f"{number_text(found.mean)} {interval_text(found.interval)}".rstrip()]
        row += [f"{number_text(found.mean_shuffled)} {interval_text(ends)}", p_text(found.mean_p)]
    return row


def _speaker_rows(agreement: ClusterAgreement) -> Iterator[list[str]]:
    for row in agreement_rows(agreement):
        cells = [row["spk_id"], *(str(row[name]) for name in ("utterances", "clusters", "labels"))]
        for name in MEASURES:
            ends = (row[f"{name}_shuffled_low"], row[f"{name}_shuffled_high"])
            shuffled = f"{number_text(row[f'{name}_shuffled'])} {interval_text(ends)}"
            cells += [number_text(row[name]), shuffled, p_text(row[f"{name}_p"])]
        yield cells


def _quantile_rows(agreement: ClusterAgreement) -> Iterator[list[str]]:
    for called, share in _QUANTILES.items():
        sizes = [agreement.utterances, *agreement.sizes.T]
        cells = [called, *(f"{np.quantile(size, share):g}" for size in sizes)]
        for found in agreement.measures.values():
            cells += [number_text(np.quantile(of, share)) for of in (found.values, found.shuffled)]
            cells += [p_text(float(np.quantile(found.p, share)))]
        yield cells
