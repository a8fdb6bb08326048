"""A process that loads data is killed: one line, and the same command goes on."""

from __future__ import annotations

import pytest

from tests.faults.processes import assert_same, command

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_killed_worker(zygote, tones_corpus, begun, undisturbed):
    argv = command(tones_corpus, begun, num_workers=2)
    ended = zygote.run(argv, worker=4)
    assert ended.status == 1, ended.printed
    assert ended.error().startswith("error: a process that loads data was killed")
    assert ended.error().endswith("The same command goes on from the last checkpoint.")
    assert zygote.run(argv).status == 0
    assert_same(begun, undisturbed)
