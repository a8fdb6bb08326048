"""``gemoclap search``: recordings closest to a description, among those that embed wrote."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gemoclap_sb.cli import embedding_files, inputs, models, output
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "recordings closest to a description, among those that embed wrote"
DESCRIPTION = (
    "Search the embeddings that `gemoclap embed` wrote: the recordings whose embeddings have the "
    "highest cosine with that of a text, the closest first. The text is taken as it is; the "
    "wording of the model's own sentences, which `gemoclap info` prints, works best."
)
EXAMPLES = """\
  gemoclap search "this person sounds angry" embeddings.npy --model exported
  gemoclap search "this person sounds sad" embeddings.parquet --model exported --top-k 3
  gemoclap search "this person sounds sad" embeddings/ --model exported"""
_COLUMNS = ("similarity", "ID")
# An embedding has length 1 in float32, or, rounded, in float16.
_TOLERANCE = 1e-2


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("text", metavar="TEXT", help="a whole sentence")
    help = ".npy with its .ids.csv; .parquet, or a folder of them (need pyarrow)"
    add("embeddings", metavar="FILE", help=help)
    help = "the model that embedded the recordings: a folder, owner/name, default, or a run"
    add("--model", metavar="FOLDER", required=True, help=help)
    help = "how many recordings to name (default: 10)"
    add("--top-k", type=inputs.count, default=10, metavar="K", help=help)
    output.add_format(parser, "table", "csv", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Print the recordings closest to a text."""
    text = inputs.text("TEXT", options.text)
    path = embedding_files.check_readable("FILE", options.embeddings)
    made_by, blocks = embedding_files.read(path)
    with models.model_folder(options.model) as folder:
        if made_by is None:
            say(f"{path} does not say which model made it, so that is not checked.")
        elif not models.model_digest(folder).startswith(made_by):
            raise UsageError(
                f"{path}: its embeddings are of another model than {options.model}. Name the one "
                "that embedded them with --model."
            )
        query = _embedded(text, folder)
    found = _closest(query, path, blocks, options.top_k)
    rows = [dict(zip(_COLUMNS, pair, strict=True)) for pair in found]
    if options.format == "json":
        lines = output.json_lines(map(output.rounded, rows))
    elif options.format == "csv":
        lines = output.csv_lines(_COLUMNS, (output.rounded(row).values() for row in rows))
    else:
        lines = output.table_lines([("similarity", 10), ("file", -1)], map(dict.values, rows))
    output.print_lines(lines, out)
    return 0


def _embedded(text: str, folder: Path) -> np.ndarray:
    import torch

    from gemoclap_sb.inference.loading import load_text_tower

    with usage_errors(), torch.inference_mode():
        query = load_text_tower(folder)([text])[0].numpy()
    return query


def _closest(
    query: np.ndarray,
    path: Path,
    blocks: Iterable[embedding_files.Block],
    top_k: int,
) -> list[tuple[float, str]]:
    """Find the ``top_k`` rows of the highest cosine; of equals, the first comes first."""
    import numpy as np

    best: list[tuple[float, str]] = []
    count = 0
    for names, vectors in blocks:
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape[1] != len(query):
            raise UsageError(
                f"{path}: its embeddings have {vectors.shape[1]} numbers, those of this model "
                f"{len(query)}. Name the model that embedded them with --model."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(vectors, axis=1)
        # Written so that NaN fails it.
        if not (wrong := ~(np.abs(lengths - 1) <= _TOLERANCE)).any():
            similarities = vectors @ query
        else:
            row = int(np.flatnonzero(wrong)[0])
            raise UsageError(
                f"{path}: expected embeddings of length 1, found {lengths[row]:g} in row "
                f"{count + row + 1} ({names[row]}). `gemoclap embed` writes no such row."
            )
        order = np.argsort(-similarities, kind="stable")[:top_k]
        best += [(float(similarities[row]), names[row]) for row in order]
        best = sorted(best, key=lambda pair: -pair[0])[:top_k]
        count += len(vectors)
    return best
