"""GMP-TL from its command line: what its stages leave, and hand on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas
import pytest
import torch

from gemoclap_sb.data.label_store import read_labels
from gemoclap_sb.data.manifests import read_cells
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.training.gmp_tl import main
from tests.run_folders import tiny_run
from tests.training.gmp_tl.runs import HANDED_ON, RESULTS, YAMLS, contents, result, run


def test_all_stages_leave_what_the_next_one_needs(whole):
    encoder = torch.load(whole / "stage_one/audio_encoder.ckpt", weights_only=True)
    before = torch.load(whole / "warm_up/audio_encoder.ckpt", weights_only=True)
    assert encoder.keys() == before.keys()
    assert not torch.equal(encoder["stem.weight"], before["stem.weight"])
    [last] = [path for path in (whole / "save").glob("CKPT*") if "epoch: 2" in _meta(path)]
    state = torch.load(last / "clap.ckpt", weights_only=True)
    # Stage two has trained it further.
    moved = (state["audio_encoder.stem.weight"] - encoder["stem.weight"]).abs().max()
    assert 0 < moved < 0.1
    assert result(whole)["n_test"] > 0
    # Checkpoints and frames are gone where they are of no more use.
    left = {path.name for path in (whole / "pseudo_labels").iterdir()}
    assert left == {"labels.npy", "labels.json", "centroids.safetensors"}
    for stage in ("warm_up", "stage_one"):
        assert not (whole / stage / "save").exists()
        assert (whole / stage / "training.png").read_bytes().startswith(b"\x89PNG")


def _meta(path: Path) -> str:
    return (path / "CKPT.yaml").read_text()


def test_one_stage_after_the_other_is_all_at_once(whole, data, tmp_path, capsys):
    for stage in ("warm_up", "pseudo_labels", "stage_one", "stage_two"):
        assert not (tmp_path / "metrics.json").exists()
        assert run(tmp_path, data, stage=stage) == 0
    assert contents(tmp_path) == contents(whole)


def test_a_finished_run_is_tested_again_and_stays(copied, data):
    before = contents(copied)
    assert run(copied, data) == 0
    assert run(copied, data, "--test_only") == 0
    assert contents(copied) == before


def test_stages_of_another_run_serve_as_they_are(whole, data, tmp_path, capsys):
    """As in comparisons: another margin, from the same encoder."""
    shared = {f"{stage}_folder": whole / stage for stage in ("warm_up", "stage_one")}
    shared["labels_folder"] = whole / "pseudo_labels"
    before = contents(whole, HANDED_ON)
    assert run(tmp_path, data, margin=0.0, **shared) == 0
    assert not any((tmp_path / stage).exists() for stage in ("warm_up", "stage_one"))
    assert contents(whole, HANDED_ON) == before
    fewer = pandas.read_csv(data["train_csv"], dtype=str)[:-1]
    fewer.to_csv(tmp_path / "fewer.csv", index=False)
    other = {**data, "train_csv": tmp_path / "fewer.csv"}
    assert run(tmp_path / "2", other, **shared) == 2
    assert "was trained on other rows" in capsys.readouterr().err


def test_what_a_stage_of_another_run_was_made_with_is_noted(whole, data, tmp_path):
    shared = {"stage_one_folder": whole / "stage_one", "alpha_e": 0.3, "clusters": [2]}
    assert run(tmp_path / "one", data, **shared) == 0
    [note] = [of for of in result(tmp_path / "one")["notes"] if "was made with" in of]
    assert "alpha_e (was 0.9, now 0.3)" in note and "clusters (was [4, 9], now [2])" in note
    assert "margin" not in note
    # Nor is anything trained that is for a stage one that is there.
    assert not (tmp_path / "one/warm_up").exists()
    # By way of a stage of its own.
    shared = {"warm_up_folder": whole / "warm_up", "alpha_e": 0.3, "clusters": [2]}
    assert run(tmp_path / "two", data, **shared) == 0
    [note] = [of for of in result(tmp_path / "two")["notes"] if "was made with" in of]
    assert "alpha_e (was 0.9, now 0.3)" in note and "clusters" not in note
    assert not any("was made with" in of for of in result(whole)["notes"])


def test_labels_that_stage_one_had_may_go(copied, data):
    before = contents(copied, RESULTS)
    shutil.rmtree(copied / "pseudo_labels")
    assert run(copied, data) == 0
    assert not (copied / "pseudo_labels").exists()
    assert contents(copied, RESULTS) == before


def test_no_epochs_of_stage_one_hand_on_the_warm_up(data, tmp_path):
    assert run(tmp_path, data, stage_one_epochs=0) == 0
    encoders = [
        torch.load(tmp_path / stage / "audio_encoder.ckpt", weights_only=True)
        for stage in ("warm_up", "stage_one")
    ]
    assert all(torch.equal(encoders[0][name], of) for name, of in encoders[1].items())
    assert not (tmp_path / "pseudo_labels").exists()


def test_debug_tries_all_stages_and_leaves_none(copied, data, tmp_path, capsys):
    def files():
        return {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    before = files()
    assert run(copied, data, "--debug") == 0
    stages = [copied / stage for stage in ("warm_up", "pseudo_labels", "stage_one")]
    for path, content in files().items():
        inside = any(path.is_relative_to(stage) for stage in stages)
        assert not inside or before.get(path) == content, path
    assert not (copied / "warm_up/save").exists()
    assert (copied / "debug_metrics.json").exists()
    assert run(tmp_path / "fresh", data, "--debug", stage_one_epochs=0) == 0
    assert not any((tmp_path / "fresh" / stage.name).exists() for stage in stages)


def test_an_experiment_without_stages_is_run_as_any(data, tmp_path):
    assert main(None, tiny_run(tmp_path, **data, number_of_epochs=1)) == 0
    assert result(tmp_path)["experiment"] == "sl_scratch"


def test_a_manifest_without_gender_trains_without_it(data, tmp_path, capsys):
    given = dict(data)
    for split in ("train", "valid", "test"):
        table = pandas.read_csv(data[f"{split}_csv"], dtype=str).drop(columns="gender")
        given[f"{split}_csv"] = tmp_path / f"{split}.csv"
        table.to_csv(given[f"{split}_csv"], index=False)
    assert run(tmp_path / "run", given) == 2
    assert "gender" in capsys.readouterr().err
    assert run(tmp_path / "run", given, alpha_e=1.0, label_attributes=[]) == 0
    assert read_labels(tmp_path / "run/pseudo_labels").num_classes == [4, 9]


def test_it_exports_and_classifies_as_it_was_tested(whole, data, tmp_path):
    folder = export(whole, tmp_path / "exported")
    classifier = GEmoCLAPClassifier.from_pretrained(folder)
    rows = read_cells(data["test_csv"], ("ID",))[:6]
    wavs = [row["wav"].replace("$data_root", str(data["data_folder"])) for row in rows]
    predicted = {row["ID"]: row for row in read_cells(whole / "predictions.csv", ("ID",))}
    for row, found in zip(rows, classifier.classify_files(wavs), strict=True):
        assert found.label == predicted[row["ID"]]["predicted"]


@pytest.mark.parametrize("family", ["wavlm", "hubert", "wav2vec2", "data2vec"])
def test_every_family_goes_through_all_stages(family, small_encoders, data, tmp_path):
    from transformers import AutoModel

    given = {
        "output_folder": tmp_path / "run",
        **data,
        "audio_source": small_encoders[family],
        "pretrained_folder": tmp_path / "pretrained",
        "label_layers": [1, 2],
        "clusters": [4],
        "kmeans_passes": 1,
        "warm_up_epochs": 1,
        "stage_one_epochs": 1,
        "number_of_epochs": 1,
        "num_workers": 0,
    }
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    argv = [str(YAMLS / "gmp_tl_hubert.yaml"), "--device", "cpu", *pairs]
    assert main(None, argv) == 0
    # Stock transformers reads the encoder of stage one.
    stock = AutoModel.from_pretrained(tmp_path / "run/stage_one/encoder")
    state = torch.load(tmp_path / "run/stage_one/audio_encoder.ckpt", weights_only=True)
    own = stock.state_dict()
    shared = [name for name in own if f"model.{name}" in state]
    assert len(shared) > 20
    assert all(torch.equal(own[name], state[f"model.{name}"]) for name in shared)
