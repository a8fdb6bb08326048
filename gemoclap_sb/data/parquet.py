"""Embeddings as Parquet: columns ``ID`` and ``embedding``; the file's metadata say what made them.

pandas, DuckDB, Hugging Face `datasets` and Spark read such files, and folders of them. pyarrow is
loaded when it is needed: it is an extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MODEL = "model"
"""Key of the digest of the model, as `gemoclap_sb.models.digest` gives it."""
OPTIONS = {"use_dictionary": False, "write_page_checksum": True}
"""For pyarrow's writers. A dictionary of numbers that never repeat costs a third of the bytes."""
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
