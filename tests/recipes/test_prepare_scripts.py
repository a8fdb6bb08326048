"""What the scripts that prepare a corpus say of one that is not there."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.run_folders import ROOT


@pytest.mark.parametrize(
    ("script", "folders"),
    [
        ("IEMOCAP/gemoclap/iemocap_prepare", ["none", "out"]),
        ("RAVDESS/gemoclap/ravdess_prepare", ["none", "out"]),
        ("nEMO/gemoclap/nemo_prepare", ["none", "out"]),
        (
            "across_corpora/gemoclap/across_prepare",
            ["out", "--ravdess_folder", "none", "--nemo_folder", "none"],
        ),
    ],
)
def test_what_is_missing_is_one_line(script, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py", *folders, "--fold", "1"])
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(str(ROOT / f"recipes/{script}.py"), run_name="__main__")
    printed = capsys.readouterr().err
    assert raised.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith("error: ") and "none" in printed
    assert not (tmp_path / "out").exists()
