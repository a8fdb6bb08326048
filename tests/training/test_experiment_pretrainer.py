"""A stage of training that begins with the weights of an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemoclap_sb.training.experiment import main
from tests.run_folders import ROOT, own_manifests
from tests.training.test_experiment import metrics_of


def second_stage(folder: Path, clap: Path) -> str:
    """An experiment that starts from another's model."""
    pretrainer = f"""
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        clap: !ref <clap>
    paths:
        clap: {clap}
"""
    path = folder / "second.yaml"
    path.write_text((ROOT / "hparams/sl_scratch.yaml").read_text() + pretrainer)
    return str(path)


def test_pretrainer_links_one_stage_to_the_next(small_run, small_manifests, tmp_path):
    """A run of no epochs that starts from another's best checkpoint has its result."""
    best = max(
        (small_run[0] / "save").glob("CKPT*"),
        key=lambda path: float(path.joinpath("CKPT.yaml").read_text().split("uar: ")[1].split()[0]),
    )
    _, *options = own_manifests(small_manifests, tmp_path / "run", number_of_epochs=0)
    assert main(None, [second_stage(tmp_path, best / "clap.ckpt"), *options]) == 0
    assert metrics_of(tmp_path / "run")["confusion"] == metrics_of(small_run[0])["confusion"]


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_pretrainer_without_its_file_is_explained(content, small_manifests, tmp_path, capsys):
    path = tmp_path / "clap.ckpt"
    if content is not None:
        path.write_bytes(content)
    _, *options = own_manifests(small_manifests, tmp_path / "run")
    assert main(None, [second_stage(tmp_path, path), *options]) == 2
    assert "second.yaml: pretrainer: " in capsys.readouterr().err
