"""GMP-TL from its command line: stages, what links them, what is refused, what is learnt from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import torch

from gemoclap_sb.data.label_store import read_labels
from gemoclap_sb.data.manifests import read_cells
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.training import cross_validation, experiment, gmp_tl
from gemoclap_sb.training.gmp_tl import main
from tests.process_groups import CONTEXT, run_group
from tests.run_folders import ROOT, tiny_run

YAMLS = ROOT / "recipes/IEMOCAP/gmp_tl/hparams"
TINY = {
    "n_mels": 16,
    "channels": [4, 8],
    "strides": [1, 2],
    "frame_size": 8,
    "label_layers": [1],
    "clusters": [4, 9],
    "kmeans_passes": 2,
    "block_seconds": 20,
    "batch_size": 8,
    "crop_seconds": 0.5,
    "warm_up_epochs": 2,
    "stage_one_epochs": 2,
    "number_of_epochs": 2,
    "seed": 3,
}
RESULTS = ("metrics.json", "predictions.csv")
HANDED_ON = ("warm_up/stage.json", "stage_one/stage.json", "pseudo_labels/labels.json")


Data = dict[str, Path]


def command(folder: Path, data: Data, *flags: str, **options: object) -> list[str]:
    given = {"output_folder": folder, **data, **TINY, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(YAMLS / "gmp_tl_scratch.yaml"), "--device", "cpu", *pairs, *flags]


def run(*arguments: object, **options: object) -> int:
    return main(None, command(*arguments, **options))


@pytest.fixture(scope="module")
def data(small_manifests, tmp_path_factory) -> Data:
    """Three manifests of few utterances, each class and gender among them, and their root."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", 30), ("valid", 8), ("test", 12)):
        table = pandas.read_csv(small_manifests[f"{split}_csv"], dtype=str)
        table.iloc[:: max(1, len(table) // rows)].to_csv(folder / f"{split}.csv", index=False)
    given = {f"{split}_csv": folder / f"{split}.csv" for split in ("train", "valid", "test")}
    return {**given, "data_folder": Path(small_manifests["data_root"])}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of all stages that nothing disturbed."""
    folder = tmp_path_factory.mktemp("gmp_tl") / "fold_1"
    assert run(folder, data) == 0
    return folder


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of `whole`, elsewhere."""
    return shutil.copytree(whole, tmp_path / "fold_1")


def contents(folder: Path, names: tuple[str, ...] = RESULTS + HANDED_ON) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def result(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


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


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("pseudo_labels", "warm_up"), ("stage_one", "warm_up"), ("stage_two", "stage_one")],
)
def test_a_stage_before_its_time_says_what_to_run(data, tmp_path, capsys, stage, missing):
    assert run(tmp_path, data, stage=stage) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"no finished {missing} (stage.json is missing): run --stage {missing} first" in told


def test_stage_one_without_labels_says_what_to_run(copied, data, capsys):
    shutil.rmtree(copied / "stage_one")
    shutil.rmtree(copied / "pseudo_labels")
    assert run(copied, data, stage="stage_one") == 2
    assert "run --stage pseudo_labels" in capsys.readouterr().err


def test_labels_of_another_encoder_are_refused(copied, data, capsys):
    """As if the warm-up had been trained again."""
    record = json.loads((copied / "warm_up/stage.json").read_text())
    state = torch.load(copied / "warm_up/audio_encoder.ckpt", weights_only=True)
    shutil.rmtree(copied / "stage_one")
    state["stem.weight"] *= 2
    torch.save(state, copied / "warm_up/audio_encoder.ckpt")
    assert run(copied, data, stage="stage_one") == 2
    assert "audio_encoder.ckpt does not hold what was written" in capsys.readouterr().err
    # And with the record of it.
    from gemoclap_sb.lobes import ResNetEncoder
    from gemoclap_sb.training.checkpoint_files import weights_digest

    encoder = ResNetEncoder(n_mels=16, channels=[4, 8], strides=[1, 2], output_size=8)
    encoder.load_state_dict(state)
    record["encoder"] = weights_digest(encoder)
    (copied / "warm_up/stage.json").write_text(json.dumps(record))
    assert run(copied, data, stage="stage_one") == 2
    told = capsys.readouterr().err
    assert "made from another encoder. Delete it and run --stage pseudo_labels" in told


@pytest.mark.parametrize("option", [{"clusters": [4, 8]}, {"alpha_e": 0.5}, {"margin": 0.1}])
def test_a_run_that_is_begun_keeps_its_settings(copied, data, capsys, option):
    (copied / "metrics.json").unlink()
    shutil.rmtree(copied / "save")
    assert run(copied, data, **option) == 2
    assert f"begun with other settings: {next(iter(option))}" in capsys.readouterr().err


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


@pytest.mark.parametrize("option", [{"hop_ms": 32}, {"center_utterances": True}])
def test_a_stage_with_another_front_end_is_refused(whole, data, tmp_path, capsys, option):
    """Weights do not tell: these have none."""
    assert run(tmp_path, data, warm_up_folder=whole / "warm_up", **option) == 2
    assert f"an encoder of another kind: {next(iter(option))} (was " in capsys.readouterr().err


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


def test_a_stage_under_another_name_in_the_runs_folder_is_refused(whole, data, tmp_path, capsys):
    shutil.copytree(whole / "warm_up", tmp_path / "other")
    assert run(tmp_path, data, warm_up_folder=tmp_path / "other") == 2
    assert "or a folder of another run" in capsys.readouterr().err


def test_a_stage_that_another_run_has_not_finished_is_not_run_there(data, tmp_path, capsys):
    folder = tmp_path / "other/warm_up"
    assert run(tmp_path / "run", data, warm_up_folder=folder) == 2
    assert "has no finished warm_up, and lies outside of this run" in capsys.readouterr().err
    assert not folder.exists()


def test_labels_that_stage_one_had_may_go(copied, data):
    before = contents(copied, RESULTS)
    shutil.rmtree(copied / "pseudo_labels")
    assert run(copied, data) == 0
    assert not (copied / "pseudo_labels").exists()
    assert contents(copied, RESULTS) == before


def test_an_encoder_that_is_not_the_one_left_is_refused(copied, data, capsys):
    shutil.rmtree(copied / "save")
    (copied / "metrics.json").unlink()
    shutil.copy(copied / "warm_up/audio_encoder.ckpt", copied / "stage_one/audio_encoder.ckpt")
    assert run(copied, data) == 2
    assert "stage_one: audio_encoder.ckpt does not hold what was written" in capsys.readouterr().err


def test_cross_validation_takes_no_stage(data, tmp_path, capsys):
    argv = command(tmp_path, data, stage="warm_up")
    assert cross_validation.main(ROOT / "recipes/IEMOCAP/gmp_tl/train.py", argv) == 2
    assert "leave --stage out" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_go_through_all_stages(data, tmp_path):
    epochs = dict.fromkeys(("warm_up_epochs", "stage_one_epochs", "number_of_epochs"), 1)
    argv = command(tmp_path / "run", data, batch_size=4, **epochs)
    ended = run_group(2, argv, tmp_path / "processes", main=main)
    assert ended.codes == [0, 0], ended.outputs
    # The main one alone tells.
    told = [output.count("warm_up: ") for output in ended.outputs]
    assert told == [1, 0]
    # What one process tests is what two have trained.
    before = contents(tmp_path / "run", RESULTS)
    assert main(None, [*argv, "--test_only"]) == 0
    assert contents(tmp_path / "run", RESULTS) == before


def test_no_epochs_of_stage_one_hand_on_the_warm_up(data, tmp_path):
    assert run(tmp_path, data, stage_one_epochs=0) == 0
    encoders = [
        torch.load(tmp_path / stage / "audio_encoder.ckpt", weights_only=True)
        for stage in ("warm_up", "stage_one")
    ]
    assert all(torch.equal(encoders[0][name], of) for name, of in encoders[1].items())
    assert not (tmp_path / "pseudo_labels").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stage": "three"}, "--stage: expected null or one of warm_up"),
        ({"clusters": [1]}, "--clusters: expected a list"),
        ({"label_layers": []}, "--label_layers: expected a list"),
        ({"label_layers": [3]}, "label_layers: expected layers of the audio encoder, 1 to 2"),
        ({"scale": 1001}, "--scale: expected null or a number"),
        ({"alpha_e": 0, "warm_up_epochs": 1}, "Let emotion weigh more than 0"),
        ({"label_attributes": ["age"]}, "age"),
        ({"clusters": [100000]}, "clusters: expected as many frames"),
        ({"margin": -1}, "--margin: expected a number, 0 or more"),
        ({"margin_kind": "x"}, "--margin_kind: expected one of additive, angular"),
    ],
)
def test_options_that_cannot_be_are_told_in_one_line(data, tmp_path, capsys, options, told):
    given = {"warm_up_epochs": 0, **options}
    assert run(tmp_path, data, **given) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


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


@pytest.mark.parametrize(
    ("stage", "flag", "told"),
    [("stage_one", "--debug", "leave --stage out"), ("warm_up", "--test_only", "tests stage_two")],
)
def test_a_stage_goes_with_no_such_flag(copied, data, capsys, stage, flag, told):
    assert run(copied, data, flag, stage=stage) == 2
    assert told in capsys.readouterr().err


def test_an_experiment_without_stages_is_run_as_any(data, tmp_path):
    assert main(None, tiny_run(tmp_path, **data, number_of_epochs=1)) == 0
    assert result(tmp_path)["experiment"] == "sl_scratch"


def test_stages_are_not_for_the_other_recipes(data, tmp_path, capsys):
    assert experiment.main(None, command(tmp_path, data)) == 2
    assert "give it to the train.py of a gmp_tl recipe" in capsys.readouterr().err


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


# What is learnt from


def test_nothing_is_learnt_from_the_test_session(data, whole, tmp_path):
    """Another test session, of noise, with other labels and speakers: the same weights, labels."""
    draw = np.random.default_rng(0)
    table = pandas.read_csv(data["test_csv"], dtype=str)
    for row in table.index:
        path = tmp_path / f"{table.loc[row, 'ID']}.wav"
        soundfile.write(path, draw.normal(0, 0.3, 12000), 16000)
        table.loc[row, "wav"] = str(path)
    others = {"ang": "sad", "sad": "neu", "neu": "hap", "hap": "ang", "F": "M", "M": "F"}
    table = table.replace({"emotion": others, "gender": others})
    table["spk_id"] = [f"another {row % 7}" for row in table.index]
    table["duration"] = 0.75
    table.to_csv(tmp_path / "test.csv", index=False)
    folder = tmp_path / "fold_1"
    assert run(folder, {**data, "test_csv": tmp_path / "test.csv"}) == 0
    for name in ("audio_encoder.ckpt", "stage.json"):
        for stage in ("warm_up", "stage_one"):
            if name.endswith(".json"):
                assert (folder / stage / name).read_bytes() == (whole / stage / name).read_bytes()
            else:
                one, other = (
                    torch.load(of / stage / name, weights_only=True) for of in (folder, whole)
                )
                assert all(torch.equal(one[key], other[key]) for key in other)
    for name in ("labels.npy", "labels.json", "centroids.safetensors"):
        labels = [(of / "pseudo_labels" / name).read_bytes() for of in (folder, whole)]
        assert labels[0] == labels[1]
    # The mark is there: the test hears it.
    assert contents(folder, ("predictions.csv",)) != contents(whole, ("predictions.csv",))
    store = read_labels(folder / "pseudo_labels")
    ids = {row["ID"] for row in read_cells(data["test_csv"], ("ID",))}
    assert not ids & store.spans.keys()


# Killed at any moment

KILLS = [
    ("AtomicCheckpointer", "save_and_keep_only", 2),
    ("frame_features", "atomic_path", 2),
    ("pseudo_labels", "write_labels", 1),
    ("FrameBrain", "fit_batch", 6),
    ("gmp_tl", "write_json", 1),
    ("GEmoCLAPBrain", "fit_batch", 6),
]


def killed_at(place: str, name: str, number: int, argv: list[str]) -> None:
    """Run all stages, and be killed when something is called for the how manieth time."""
    from gemoclap_sb.training import frame_features, pseudo_labels

    torch.set_num_threads(1)
    modules = {of.__name__.rpartition(".")[2]: of for of in (gmp_tl, frame_features, pseudo_labels)}
    owner = modules[place] if place in modules else getattr(gmp_tl, place)
    original, calls = getattr(owner, name), [0]

    def killing(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, killing)
    main(None, argv)


@pytest.mark.faults
@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_undisturbed(whole, data, tmp_path):
    folder = tmp_path / "fold_1"
    for place, name, number in KILLS:
        arguments = (place, name, number, command(folder, data))
        process = CONTEXT.Process(target=killed_at, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (place, name)
        assert not (folder / "metrics.json").exists()
    assert run(folder, data) == 0
    assert contents(folder) == contents(whole)


# As any other run


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
