"""A stage of training that begins with the weights of an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gemoclap_sb.training import experiment
from gemoclap_sb.training.experiment import main
from tests.run_folders import ROOT, own_manifests


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
    """A run that starts from another's checkpoint has its weights before it trains."""
    best = max(
        (small_run[0] / "save").glob("CKPT*"),
        key=lambda path: float(path.joinpath("CKPT.yaml").read_text().split("uar: ")[1].split()[0]),
    )
    _, *options = own_manifests(small_manifests, tmp_path / "run")
    run = experiment.open_run([second_stage(tmp_path, best / "clap.ckpt"), *options])
    try:
        experiment.load_splits(run)
        found = experiment.build_brain(run).model.state_dict()
    finally:
        run.close()
    expected = torch.load(best / "clap.ckpt", weights_only=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_pretrainer_without_its_file_is_explained(content, small_manifests, tmp_path, capsys):
    path = tmp_path / "clap.ckpt"
    if content is not None:
        path.write_bytes(content)
    _, *options = own_manifests(small_manifests, tmp_path / "run")
    assert main(None, [second_stage(tmp_path, path), *options]) == 2
    assert "second.yaml: pretrainer: " in capsys.readouterr().err
