from __future__ import annotations

import os

import torch
from torch import nn

from gemoclap_sb.models.weights import load_weights, save_weights


def test_weights_are_not_taken_for_a_pickle_whatever_their_header_is_long(tmp_path):
    """The file begins with that length; one of 128, 384, 640... bytes begins as pickles do."""
    path, begun = tmp_path / "model.safetensors", set()
    for length in range(1, 300, 8):
        module = nn.ModuleDict({"x" * length: nn.Linear(2, 2)})
        save_weights(module.state_dict(), path)
        begun.add(path.read_bytes()[0])
        loaded = nn.ModuleDict({"x" * length: nn.Linear(2, 2)})
        load_weights(loaded, path)
        torch.testing.assert_close(loaded.state_dict(), module.state_dict())
    assert 0x80 in begun


def test_weights_may_be_read_by_whoever_may_read_the_rest(tmp_path):
    previous = os.umask(0o022)
    try:
        save_weights({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    finally:
        os.umask(previous)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
