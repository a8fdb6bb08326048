"""Pretraining over clusters: what it leaves, what begins from it, and wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from gemoclap_sb.cli.parser import main as gemoclap
from gemoclap_sb.objectives import ClusterContrastiveObjective, EmbeddingOutput
from gemoclap_sb.training import experiment
from gemoclap_sb.training.cluster_brain import ClusterBrain, right
from gemoclap_sb.training.cluster_pretraining import main
from tests.process_groups import CONTEXT, run_group
from tests.run_folders import ROOT, own_manifests
from tests.training.clusters import TINY, YAML, command, main_of, run, write_clusters

LEFT = ("pretraining.json", "encoder/config.json", "encoder/model.safetensors")


@pytest.fixture(scope="module")
def corpus(small_manifests, tmp_path_factory) -> tuple[Path, str]:
    """Clusters of the training side of the small corpus, and its root."""
    folder = tmp_path_factory.mktemp("speakers") / "clusters"
    csv = Path(small_manifests["train_csv"])
    return write_clusters(folder, csv), small_manifests["data_root"]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    assert run(folder, *corpus) == 0
    return folder


def encoder_of(argv: list[str]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights that an experiment's audio encoder has before it trains, and the notes."""
    opened = experiment.open_run(argv)
    try:
        splits = experiment.load_splits(opened)
        brain = experiment.build_brain(opened)
        return brain.model.audio_encoder.state_dict(), splits.notes
    finally:
        opened.close()


def test_experiments_begin_from_what_it_leaves(whole, small_manifests, tmp_path):
    left = load_file(whole / "encoder/model.safetensors")
    handed = torch.load(whole / "audio_encoder.ckpt", weights_only=True)
    assert all(torch.equal(left[name], handed[name]) for name in left)
    same = {key: TINY[key] for key in ("n_mels", "channels", "strides", "frame_size")}
    argv = own_manifests(small_manifests, tmp_path / "run", audio_source=whole, **same)
    found, notes = encoder_of(argv)
    assert found.keys() == left.keys()
    assert all(torch.equal(found[name], left[name]) for name in left)
    # It has heard the training side alone, so that there is nothing to tell.
    assert not any("audio_source" in note for note in notes)
    heard = {**small_manifests, "test_csv": small_manifests["train_csv"]}
    heard["train_csv"] = small_manifests["test_csv"]
    argv = own_manifests(heard, tmp_path / "other", audio_source=whole, **same)
    assert any("was trained on 72 of the 72 utterances" in of for of in encoder_of(argv)[1])


def test_its_record_says_what_was_drawn_from_and_found(whole, corpus):
    record = json.loads((whole / "pretraining.json").read_text())
    assert (record["speakers"], record["utterances"], record["clusters"]) == (8, 72, 16)
    assert record["drawn_speakers"] == 8 and record["epoch"] == 2
    assert 0 < record["valid_cluster_chance"] < 1 and record["train_loss"] > 0
    assert (whole / "training.png").is_file()
    learnt = load_file(whole / "encoder/model.safetensors")
    assert all(torch.isfinite(of).all() for of in learnt.values())


def killed_in_a_step(argv: list[str]) -> None:
    torch.set_num_threads(1)
    original, calls = ClusterBrain.fit_batch, [0]

    def killing(*arguments):
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    ClusterBrain.fit_batch = killing
    main(argv)


def test_a_killed_run_ends_as_one_that_was_not(whole, corpus, tmp_path):
    # In the midst of an epoch, of which there is a checkpoint.
    argv = command(tmp_path / "run", *corpus, "--ckpt_interval_steps", "1")
    process = CONTEXT.Process(target=killed_in_a_step, args=(argv,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run/pretraining.json").exists()
    assert main(argv) == 0
    for name in LEFT:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    # A finished one trains no more.
    assert main(argv) == 0
    for name in LEFT:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_processes_train_together(corpus, tmp_path):
    argv = command(tmp_path / "run", *corpus, batches_per_epoch=2)
    ended = run_group(2, argv, tmp_path / "output", main=main_of)
    assert ended.codes == [0, 0], ended.outputs
    record = json.loads((tmp_path / "run/pretraining.json").read_text())
    assert record["processes"] == 2 and record["epoch"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"contrast": "infonce", "negatives": "all", "speaker_task": "adversarial"},
        {
            "speaker_task": None,
            "wav_augment": None,
            "crop_seconds": None,
            "clusters_per_speaker": 3,
        },
    ],
)
def test_every_form_trains(options, corpus, tmp_path):
    given = {key: "null" if of is None else of for key, of in options.items()}
    assert run(tmp_path / "run", *corpus, number_of_epochs=1, **given) == 0
    record = json.loads((tmp_path / "run/pretraining.json").read_text())
    assert ("valid_speaker_accuracy" in record) == bool(options["speaker_task"])


def test_an_ssl_encoder_goes_on_from_there_and_stays_transformers(
    corpus, small_encoders, small_manifests, tmp_path
):
    clusters, root = corpus
    yaml = YAML.with_name("clusters_wavlm.yaml")
    own = {
        "output_folder": tmp_path / "run",
        "clusters_folder": clusters,
        "data_folder": root,
        "audio_source": small_encoders["wavlm"],
        "pretrained_folder": tmp_path / "pretrained",
        "num_workers": 0,
        "number_of_epochs": 1,
        "batches_per_epoch": 2,
        "utterances_per_cluster": 2,
        "crop_seconds": 0.5,
        "valid_share": 0.4,
        "lr": 1e-3,
    }
    pairs = sum(([f"--{key}", str(value)] for key, value in own.items()), [])
    assert main([str(yaml), "--device", "cpu", *pairs]) == 0
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tmp_path / "run/encoder")
    before = AutoModel.from_pretrained(small_encoders["wavlm"])
    moved = [
        name
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    ]
    assert any("encoder.layers.0" in name for name in moved)
    assert not any("feature_extractor" in name for name in moved)


def test_an_encoder_alone_is_exported_for_others(small_run, small_manifests, tmp_path, capsys):
    folder = tmp_path / "encoder"
    assert gemoclap(["export", str(small_run[0]), str(folder), "--encoder"]) == 0
    argv = own_manifests(small_manifests, tmp_path / "run", audio_source=folder)
    found, _ = encoder_of(argv)
    best = max((small_run[0] / "save").glob("CKPT*"), key=lambda of: of.name)
    trained = torch.load(best / "clap.ckpt", weights_only=True)
    prefix = "audio_encoder."
    expected = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
    assert found.keys() == expected.keys()
    for options in (["--overwrite"], ["--license", "mit"]):
        assert gemoclap(["export", str(small_run[0]), "x", "--encoder", *options]) == 2
    assert gemoclap(["export", str(small_run[0]), str(folder), "--encoder"]) == 2
    assert "exists and is not an export" in capsys.readouterr().err


def test_the_nearest_of_the_same_speaker_is_looked_at():
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    labels = {
        "cluster": torch.tensor([0, 0, 1, 0, 2, 2]),
        "spk_id": torch.tensor([0, 0, 0, 0, 1, 1]),
    }
    found = right({"cluster": EmbeddingOutput(vectors)}, labels, ClusterContrastiveObjective())
    # The fourth, of the first cluster, is the nearest of the second and of the third.
    assert found["cluster_accuracy"] == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    assert found["cluster_chance"] == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3, 1, 1])


def test_the_nearest_is_the_same_in_half_precision():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.ones(16) + 0.2 * torch.randn(32, 16, generator=generator)
    outputs = {"cluster": EmbeddingOutput(torch.nn.functional.normalize(vectors, dim=1))}
    labels = {"cluster": torch.arange(32) // 4, "spk_id": torch.arange(32) // 8}
    wide = right(outputs, labels, ClusterContrastiveObjective())
    with torch.autocast("cpu", torch.bfloat16):
        assert right(outputs, labels, ClusterContrastiveObjective()) == wide


def told(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_wrong_input_is_told_in_a_line(corpus, small_manifests, tmp_path, capsys):
    clusters, root = corpus
    assert main([str(YAML), "--data_folder", root, "--output_folder", str(tmp_path / "a")]) == 2
    assert told(capsys).startswith("error: no clusters: make them with `gemoclap cluster`")
    assert run(tmp_path / "b", tmp_path, root) == 2
    assert "has no clusters.json: expected a folder that `gemoclap cluster`" in told(capsys)
    one = write_clusters(tmp_path / "one", Path(small_manifests["train_csv"]), of=["Ses02F"])
    assert run(tmp_path / "c", one, root) == 2
    assert "expected 2 speakers or more with 2 clusters of 2 utterances, found 1" in told(capsys)
    assert run(tmp_path / "c2", one, root, speakers_per_batch=1, number_of_epochs=1) == 0
    capsys.readouterr()
    assert run(tmp_path / "d", clusters, root, valid_share=0.001) == 2
    assert "validation: expected 1 speakers" in (said := told(capsys)) and "valid_share" in said
    assert run(tmp_path / "e", clusters, root, temperature=0) == 2
    assert "--temperature: expected a number, above 0" in told(capsys)
    assert run(tmp_path / "f", clusters, root, "--test_only") == 2
    assert "--test_only: pretraining has no test" in told(capsys)
    experiment_yaml = str(ROOT / "hparams/sl_scratch.yaml")
    assert main([experiment_yaml, "--output_folder", str(tmp_path / "g")]) == 2
    assert "has no clusters_folder" in told(capsys)


def test_a_run_goes_on_with_the_same_clusters_alone(
    whole, corpus, small_manifests, tmp_path, capsys
):
    run_folder = shutil.copytree(whole, tmp_path / "run")
    others = write_clusters(tmp_path / "others", Path(small_manifests["train_csv"]), mark="two")
    assert run(run_folder, others, corpus[1]) == 2
    assert "begun on other data: train" in told(capsys)
    moved = shutil.copytree(corpus[0], tmp_path / "moved")
    assert run(run_folder, moved, corpus[1]) == 0


def test_audio_that_breaks_after_clustering_is_named(corpus, small_manifests, tmp_path, capsys):
    root = shutil.copytree(small_manifests["data_root"], tmp_path / "corpus")
    rows = pd.read_csv(small_manifests["train_csv"], dtype=str)
    for wav in rows.wav:
        Path(wav.replace("$data_root", str(root))).write_bytes(b"no audio")
    assert run(tmp_path / "run", corpus[0], str(root)) == 2
    said = told(capsys)
    assert said.startswith("error: ID 'Ses") and "It could be read when it was embedded" in said


def test_damaged_clusters_are_told(corpus, tmp_path, capsys):
    damaged = shutil.copytree(corpus[0], tmp_path / "clusters")
    [file] = damaged.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert run(tmp_path / "run", damaged, corpus[1]) == 2
    assert "is damaged" in told(capsys)
    file.unlink()
    assert run(tmp_path / "run", damaged, corpus[1]) == 2
    assert "is missing: give `gemoclap cluster` again" in told(capsys)
