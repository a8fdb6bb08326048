"""An experiment whose classes are a corpus's speakers, and one that learns from few labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from gemoclap_sb.cli.parser import main as gemoclap
from gemoclap_sb.training.experiment import main
from tests.run_folders import ROOT, own_manifests

YAML = ROOT / "recipes/pretrain/intra_speaker_clusters/hparams/speakers_scratch.yaml"
TINY = {
    "n_mels": 16,
    "channels": [4, 8],
    "strides": [1, 2],
    "frame_size": 8,
    "batch_size": 8,
    "number_of_epochs": 1,
}


def command(folder: Path, csv: Path | str, **options: object) -> list[str]:
    given = {"output_folder": folder, "speakers_csv": csv, **TINY, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(YAML), "--device", "cpu", *pairs]


@pytest.fixture(scope="module")
def trained(small_manifests, tmp_path_factory) -> Path:
    """A classifier of the speakers of the small corpus's training side."""
    folder = tmp_path_factory.mktemp("speakers") / "run"
    root = small_manifests["data_root"]
    assert main(None, command(folder, small_manifests["train_csv"], data_folder=root)) == 0
    return folder


def test_the_classes_are_the_speakers(trained, small_manifests):
    metrics = json.loads((trained / "metrics.json").read_text())
    rows = pd.read_csv(small_manifests["train_csv"], dtype=str)
    assert metrics["labels"] == sorted(set(rows.spk_id))
    # One of each speaker's nine is tested.
    assert metrics["n_test"] == 8
    tested = pd.read_csv(trained / "predictions.csv", dtype=str)
    spoken = rows.set_index("ID").spk_id
    assert tested.true.tolist() == spoken[tested.ID].tolist()


def test_it_embeds_and_its_embeddings_are_clustered(trained, small_manifests, tmp_path):
    root, csv = small_manifests["data_root"], small_manifests["train_csv"]
    found = ["--data-root", root, "--model", str(trained), "--device", "cpu"]
    embeddings, clusters = tmp_path / "embeddings", tmp_path / "clusters"
    assert gemoclap(["embed", csv, *found, "--output", str(embeddings)]) == 0
    to = ["--embeddings", str(embeddings), "--output", str(clusters), "--clusters", "2"]
    assert gemoclap(["cluster", csv, *to]) == 0
    record = json.loads((clusters / "clusters.json").read_text())
    assert (record["utterances"], record["speakers"], record["clusters"]) == (72, 8, 16)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "--speakers_csv: no file "),
        ("ID,wav\na,a.wav\n", "missing column spk_id"),
        ("ID,wav,spk_id\na,a.wav,\n", "the spk_id is empty"),
        ("ID,wav,spk_id\n" + "".join(f"{n},{n}.wav,s\n" for n in range(5)), "has 1 speakers of 3"),
        ("ID,wav,spk_id\na,a.wav,s\nb,b.wav,t\n", "has 0 speakers of 3 utterances or more"),
    ],
)
def test_wrong_speakers_are_told_in_a_line(text, told, tmp_path, capsys):
    csv = tmp_path / "corpus.csv"
    if text is not None:
        csv.write_text(text)
    assert main(None, command(tmp_path / "run", csv)) == 2
    [said] = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("error: --speakers_csv") and told in said
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_wherever_the_same_manifest_is(trained, small_manifests, tmp_path, capsys):
    root, rows = small_manifests["data_root"], Path(small_manifests["train_csv"]).read_text()
    run, csv = shutil.copytree(trained, tmp_path / "run"), tmp_path / "moved.csv"
    csv.write_text(rows)
    assert main(None, command(run, csv, data_folder=root)) == 0
    capsys.readouterr()
    # Another utterance of a speaker who is there already; and one speaker less.
    head, *lines = rows.splitlines()
    csv.write_text("\n".join([head, *lines[:-1]]) + "\n")
    assert main(None, command(run, csv, data_folder=root)) == 2
    assert "begun on other data" in capsys.readouterr().err
    alone = pd.read_csv(small_manifests["train_csv"], dtype=str).spk_id[0]
    csv.write_text("\n".join([head, *(of for of in lines if f",{alone}," not in of)]) + "\n")
    assert main(None, command(run, csv, data_folder=root)) == 2
    assert "begun with other settings" in capsys.readouterr().err


def test_without_a_manifest_it_is_asked_for(tmp_path, capsys):
    assert main(None, command(tmp_path / "run", "''")) == 2
    assert "no data: give --speakers_csv" in capsys.readouterr().err


def test_a_share_of_the_labels_is_learnt_from(small_manifests, tmp_path):
    folder = tmp_path / "run"
    argv = own_manifests(small_manifests, folder, train_share=0.5, number_of_epochs=1)
    assert main(None, argv) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "Learnt from 36 of 72 training utterances." in metrics["notes"]
    # The others are not learnt from, and nothing is wrong with their audio.
    assert not any("Left out" in note for note in metrics["notes"])
    assert metrics["data"]["train"]["rows"] == 36
    # What is validated and tested on is what it was.
    assert metrics["data"]["valid"]["rows"] == 8 and metrics["n_test"] == 20
    other = own_manifests(small_manifests, folder, train_share=0.25, number_of_epochs=1)
    assert main(None, other) == 2
