"""``gemoclap embed``: embeddings of recordings, into a file."""

from __future__ import annotations

import importlib.util
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, TextIO

from gemoclap_sb.cli import inputs, output

SUMMARY = "embeddings of recordings, into a file"
DESCRIPTION = (
    "Embed recordings: L2-normalised rows in the order of the files. X.npy comes with X.ids.csv, "
    "whose column ID says which file each row is of; a Parquet file has the columns ID and "
    "embedding. A file that cannot be read is left out."
)
EXAMPLES = "  gemoclap embed recordings/ --model exported --output embeddings.npy"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    inputs.add_recordings(parser)
    inputs.add_model(parser)
    inputs.add_batch_size(parser)
    help = ".npy, or .parquet (needs pyarrow)"
    parser.add_argument("--output", required=True, metavar="FILE", help=help)


def run(options: Namespace, out: TextIO) -> int:
    """Write the embeddings of recordings, and which row is whose."""
    target = Path(options.output)
    if target.suffix not in (".npy", ".parquet"):
        raise inputs.UsageError(
            f"--output: expected a file that ends in .npy or .parquet, found {target}."
        )
    if target.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise inputs.UsageError(
            "--output: Parquet files need pyarrow, which is not installed. Install it with "
            "`pip install 'gemoclap_sb[parquet]'`, or write a .npy file."
        )
    paths = inputs.find_audio(options.inputs)
    classifier = inputs.load_classifier(options)
    failures = output.Failures()
    names, vectors = [], []
    for row in failures.watch(classifier.encode_files(paths, batch_size=options.batch_size)):
        if row.embedding is not None:
            names.append(row.path)
            vectors.append(row.embedding.numpy())
    if names:
        _write(target, names, vectors)
        print(f"{target}: {len(names)} embeddings of size {len(vectors[0])}", file=sys.stderr)
    else:
        print(f"Nothing to write into {target}: no file could be read.", file=sys.stderr)
    return failures.status


def _write(target: Path, names: list[str], vectors: list[Any]) -> None:
    import numpy as np

    from gemoclap_sb.files import atomic_path, write_text

    if target.suffix == ".npy":
        lines = output.csv_lines(["ID"], ([name] for name in names))
        write_text(target.with_suffix(".ids.csv"), "\n".join(lines) + "\n")
        with atomic_path(target) as temporary:
            np.save(temporary, np.stack(vectors))
    else:
        import pandas as pd

        with atomic_path(target) as temporary:
            pd.DataFrame({"ID": names, "embedding": vectors}).to_parquet(temporary, index=False)
