from __future__ import annotations

import pytest
import torch

from gemoclap_sb.inference.memory import memory_advice


def test_a_tensor_that_does_not_fit():
    with (
        pytest.raises(RuntimeError, match="^a batch does not fit into memory. Less. [^\n]*$"),
        memory_advice("Less."),
    ):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee."), MemoryError(),
])  # fmt: skip
def test_errors_of_their_own_kind(error):
    with (
        pytest.raises(RuntimeError, match="^a batch does not fit into memory. Less.[^\n]*$"),
        memory_advice("Less."),
    ):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("Less."):
        raise RuntimeError("shapes differ")
