from __future__ import annotations

import pytest
import torch

from gemoclap_sb.inference.memory import memory_advice, with_advice


def test_a_tensor_that_does_not_fit():
    with (
        pytest.raises(RuntimeError, match="^a batch does not fit into memory. Less. [^\n]*$"),
        memory_advice("Less."),
    ):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee."), MemoryError(),
])  # fmt: skip
def test_rows_that_end_for_want_of_memory(error):
    def rows():
        yield 1
        raise error

    found = with_advice(rows(), "Lower batch_size.")
    assert next(found) == 1
    with pytest.raises(RuntimeError, match="^a batch does not .* Lower batch_size.[^\n]*$"):
        next(found)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("Less."):
        raise RuntimeError("shapes differ")
