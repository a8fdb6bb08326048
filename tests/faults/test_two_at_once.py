"""Two runs in one folder at the same moment: one works, the other says so and touches nothing."""

from __future__ import annotations

import pytest

from tests.faults.processes import assert_same, command

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_one_of_two_works(zygote, tones_corpus, undisturbed, tmp_path):
    argv = command(tones_corpus, tmp_path / "run")
    first, second = sorted(
        zygote.together(
            [
                argv,
                argv,
            ]
        ),
        key=lambda ended: ended.status,
    )
    assert (first.status, second.status) == (0, 2), first.printed + second.printed
    assert "another run is at work there. Wait for its end" in second.error()
    assert_same(tmp_path / "run", undisturbed)
