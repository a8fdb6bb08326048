"""Embeddings as Parquet: columns ``ID`` and ``embedding``; the file's metadata say what made them.

pandas, DuckDB, Hugging Face `datasets` and Spark read such files, and folders of them. pyarrow is
loaded when it is needed: it is an extra.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

MODEL = "model"
"""Key of the digest of the model, as `gemoclap_sb.models.digest` gives it."""
OPTIONS = {"use_dictionary": False, "write_page_checksum": True}
"""For pyarrow's writers. A dictionary of numbers that never repeat costs a third of the bytes."""
DAMAGED = (
    ValueError,
    EOFError,
    OverflowError,
    KeyError,
    AttributeError,
    NotImplementedError,
    OSError,
)
"""What pyarrow's readers raise for a file that is not what it says."""
_PREFIX = "gemoclap_sb."


def schema(metadata: Mapping[str, str]) -> pa.Schema:
    """Describe the columns, and what is to be said of them."""
    import pyarrow as pa

    fields = [("ID", pa.string()), ("embedding", pa.list_(pa.float32()))]
    return pa.schema(fields, {f"{_PREFIX}{key}": value for key, value in metadata.items()})


def metadata_of(schema: pa.Schema) -> dict[str, str]:
    """Give back what `schema` was given, of a file of anybody's."""
    held = schema.metadata or {}
    prefix = _PREFIX.encode()
    return {
        key.removeprefix(prefix).decode(): value.decode()
        for key, value in held.items()
        if key.startswith(prefix)
    }


def table(names: Sequence[str], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Lay out names and their embeddings ``[N, D]``, float32."""
    import numpy as np
    import pyarrow as pa

    count, size = vectors.shape
    offsets = np.arange(0, (count + 1) * size, size, dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets[: count + 1], vectors.ravel())
    return pa.Table.from_arrays([pa.array(names, pa.string()), lists], schema=schema)


def read(
    path: str | os.PathLike, rows: int
) -> tuple[dict[str, str], Iterator[tuple[list[str], np.ndarray]]]:
    """Open a file: what its metadata say, and its names and embeddings, ``rows`` at a time.

    One of `DAMAGED`, here or at a block, if it has not the columns of `schema`.
    """
    import pyarrow.parquet as pq

    # Not by its name, which pyarrow might take for an address.
    opened = open(path, "rb")  # noqa: SIM115
    file = pq.ParquetFile(opened, page_checksum_verification=True)
    if missing := {"ID", "embedding"} - set(file.schema_arrow.names):
        raise ValueError(f"no column {' or '.join(sorted(missing))}")
    return metadata_of(file.schema_arrow), _blocks(file, rows)


def _blocks(file: pq.ParquetFile, rows: int) -> Iterator[tuple[list[str], np.ndarray]]:
    import numpy as np

    for batch in file.iter_batches(rows, columns=["ID", "embedding"]):
        lists = batch.column("embedding")
        if not hasattr(lists, "value_lengths"):
            raise ValueError(f"embeddings that are no lists but {lists.type}")
        values = lists.flatten().to_numpy(zero_copy_only=False)
        lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or not lengths[0] > 0 or values.dtype.kind != "f":
            raise ValueError("rows of different lengths, or without numbers")
        names = batch.column("ID").to_pylist()
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names that are no text")
        yield names, values.reshape(-1, int(lengths[0]))
