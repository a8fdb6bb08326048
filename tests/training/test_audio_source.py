"""Runs that begin from the encoder of another: what they load, record, refuse and tell."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gemoclap_sb.files import write_json
from gemoclap_sb.lobes import ResNetEncoder, SSLEncoder
from gemoclap_sb.lobes.encoder_folders import write_encoder
from gemoclap_sb.training import comparisons, cross_validation
from gemoclap_sb.training.audio_source import source_notes
from gemoclap_sb.training.comparisons import Comparisons, Group, Row
from gemoclap_sb.training.experiment import build_brain, load_splits, main, open_run
from gemoclap_sb.training.settings import ExperimentError
from tests.run_folders import ROOT, TINY, Runs, own_manifests, tiny_run

RECIPE = ROOT / "recipes/IEMOCAP/gemoclap/train.py"
WEIGHTS = "encoder/model.safetensors"


def write_source(folder: Path, **options: object) -> Path:
    """A run with the encoder of a tiny run, its weights like no other's, and nothing else."""
    lobe = ResNetEncoder(**{key: TINY[key] for key in ("n_mels", "channels", "strides")} | options)
    write_encoder(lobe, folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def started(argv: list[str]) -> tuple[torch.nn.Module, list[str]]:
    """The model as training would begin with it, and the notes of its result."""
    run = open_run(argv)
    with closing(run):
        notes = load_splits(run).notes
        return build_brain(run).model, notes


def refused(argv: list[str], capsys) -> str:
    assert main(None, argv) == 2
    # transformers' progress bars may stand before it.
    *_, line = capsys.readouterr().err.splitlines()
    return line


def same_weights(model: torch.nn.Module, source: Path) -> bool:
    stored, own = load_file(source / WEIGHTS), model.audio_encoder.state_dict()
    return own.keys() == stored.keys() and all(torch.equal(own[k], of) for k, of in stored.items())


@pytest.mark.parametrize("yaml", ["sl_scratch", "ravdess_cross_entropy"])
def test_training_begins_from_the_encoder(source, small_manifests, tmp_path, yaml):
    argv = own_manifests(small_manifests, tmp_path / "run")
    argv[0] = argv[0].replace("sl_scratch", yaml)
    if yaml != "sl_scratch":
        words = '{words: {emotion: {ang: a, hap: b, neu: c, sad: d}}, templates: {emotion: ["{}"]}}'
        argv = [*argv, "--prompts", words, "--time_masks", "3"]
        for key in ("text_size", "embedding_size"):
            del argv[argv.index(f"--{key}") : argv.index(f"--{key}") + 2]
    found = {}
    for folder in (source / "encoder", None):
        argv[argv.index("--output_folder") + 1] = str(tmp_path / f"run_{len(found)}")
        model, notes = started([*argv, "--audio_source", str(folder or "null")])
        found[folder] = same_weights(model, source)
        assert not any("audio_source" in note for note in notes)
    assert found == {source / "encoder": True, None: False}


def test_an_ssl_encoder_begins_from_that_of_a_run(small_encoders, tmp_path, capsys, source):
    lobe = SSLEncoder(small_encoders["wavlm"], tmp_path / "cache")
    with torch.no_grad():
        for parameter in lobe.parameters():
            parameter.add_(0.1)
    write_encoder(lobe, tmp_path / "gmp/stage_one/encoder")
    argv = [str(ROOT / "hparams/sl_wavlm.yaml"), "--output_folder", str(tmp_path / "run")]
    argv += ["--device", "cpu", "--data_folder", str(tmp_path)]
    argv += ["--text_source", str(small_encoders["text"]), "--audio_source"]
    run = open_run([*argv, str(tmp_path / "gmp")])
    run.close()
    found = run.hparams["clap"].audio_encoder.state_dict()
    assert all(torch.equal(found[name], of) for name, of in lobe.state_dict().items())
    # Of no transformers' model, and of nothing.
    assert "expected a folder in transformers' format" in refused([*argv, str(source)], capsys)
    assert "--audio_source: expected text, found null" in refused([*argv, "null"], capsys)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "expected a run that has an encoder/ folder, or that folder itself"),
        (lambda folder: write_source(folder.parent, channels=[8, 8]), "channels (there [8, 8], h"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder.parent / WEIGHTS).write_bytes(b"x"), "or a damaged file"),
    ],
)
def test_what_cannot_be_begun_from_is_one_line(small_manifests, tmp_path, capsys, spoil, told):
    spoil(write_source(tmp_path / "source") / "encoder")
    argv = own_manifests(small_manifests, tmp_path / "run", audio_source=tmp_path / "source")
    line = refused(argv, capsys)
    assert line.startswith(f"error: --audio_source {tmp_path / 'source'}: ")
    assert told in line


def test_another_source_is_another_run(source, small_manifests, tmp_path, capsys):
    begun = own_manifests(small_manifests, tmp_path / "run", audio_source=source)
    open_run(begun).close()
    (tmp_path / "run/save/CKPT+1").mkdir()
    open_run(begun).close()
    for other in (str(write_source(tmp_path / "other")), "null"):
        line = refused([*begun[:-1], other], capsys)
        now = "None" if other == "null" else repr(other)
        assert f"other settings: audio_source (was {str(source)!r}, now {now}). Give" in line


def test_a_run_from_before_the_key_goes_on(source, small_manifests, tmp_path, capsys):
    argv = own_manifests(small_manifests, tmp_path / "run")
    open_run(argv).close()
    (tmp_path / "run/save/CKPT+1").mkdir()
    recorded = tmp_path / "run/settings.json"
    settings = json.loads(recorded.read_text())
    assert settings.pop("audio_source", "") is None
    write_json(recorded, settings)
    open_run(argv).close()
    line = refused([*argv, "--audio_source", str(source)], capsys)
    assert "audio_source (was None, now " in line


def test_every_fold_begins_from_its_own(small_corpus, iemocap_prepare, tmp_path, capsys):
    sources = {k: write_source(tmp_path / f"gmp/seed_2/fold_{k}") for k in (1, 2)}
    reference = f"!ref {tmp_path}/gmp/seed_<seed>/fold_<fold>"
    command = tiny_run(tmp_path / "cv", data_folder=small_corpus, seed=2, audio_source=reference)

    def missing(argv: list[str]) -> dict[int, list[str]]:
        plan = cross_validation.plan(RECIPE, argv)
        plan.close()
        return {fold.number: list(fold.command[2:]) for fold in plan.missing}

    commands = missing(command)
    for fold, argv in commands.items():
        run = open_run(argv)
        with closing(run):
            load_splits(run, iemocap_prepare.prepare_iemocap)
            assert same_weights(build_brain(run).model, sources[fold])
            assert run.settings["audio_source"] == str(sources[fold])
    assert commands.keys() == {1, 2}
    # A finished fold is known again by the same reference, and by no other source.
    (tmp_path / "cv/fold_1/metrics.json").write_text("{}")
    assert missing(command).keys() == {2}
    assert "fold 1: finished before" in capsys.readouterr().out
    with pytest.raises(ExperimentError, match="fold_1 holds .* audio_source"):
        missing([*command[:-1], str(sources[2])])


def test_rows_of_a_comparison_begin_from_what_they_say(small_corpus, tmp_path, monkeypatch):
    reference = f"!ref {tmp_path}/gmp/seed_<seed>/fold_<fold>"
    rows = [Row("nothing", "sl_scratch"), Row("GMP-TL", "sl_scratch", {"audio_source": reference})]
    asked = Runs(monkeypatch)
    argv = ["--output_folder", str(tmp_path / "out"), "--data_folder", str(small_corpus)]
    settings = Comparisons("start", "Start", [Group("start", (1, 2), rows)])
    assert comparisons.main(RECIPE, settings, argv) == 0
    found = [
        one[one.index("--audio_source") + 1 :] for one in asked.argv if "--audio_source" in one
    ]
    assert [of[0] for of in found] == [reference] * 2
    assert len(asked.argv) == 4


def write_rows(path: Path, manifests: dict, split: str, most: int | None = None) -> None:
    with open(manifests[f"{split}_csv"], newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows[:most]])


def test_what_an_encoder_has_heard_of_the_test_is_a_note(small_manifests, tmp_path):
    source = write_source(tmp_path / "source")
    write_rows(source / "manifests/train.csv", small_manifests, "test", most=3)
    options = {"audio_source": source, "number_of_epochs": 1}
    assert main(None, own_manifests(small_manifests, tmp_path / "run", **options)) == 0
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    notes = [note for note in result["notes"] if "audio_source" in note]
    assert f"audio_source was trained on 3 of the {result['n_test']} utterances" in notes[0]
    assert "audio_source was trained on 2 of the 2 speakers that are tested, first" in notes[1]
    assert len(notes) == 2


ROWS = {
    "train": {"a1": {"wav": "/x/a1.wav", "spk_id": "anna"}},
    "test": {
        name: {"wav": f"/x/{name}.wav", "spk_id": speaker}
        for name, speaker in [("a2", "anna"), ("b1", "bob"), ("b2", "bob"), ("c1", "carl")]
    },
}


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        (["d1,/y/d1.flac,dora"], []),
        # Another recording under that ID; another corpus, elsewhere, in another format.
        (["b1,/y/other.flac,dora"], []),
        (["b1,$data_root/b1.flac,dora"], ["1 of the 4 utterances that are tested, first b1."]),
        (["b9,/y/b9.wav,bob", "c9,/y/c9.wav,carl"], ["2 of the 3 speakers that are tested, first"]),
        # Whom this run is trained on too, as other notes say.
        (["a9,/y/a9.wav,anna"], []),
    ],
)
@pytest.mark.parametrize("place", ["encoder", "stage_one/encoder"])
def test_notes_of_rows(tmp_path, trained, told, place):
    write_source((tmp_path / "gmp" / place).parent)
    manifest = tmp_path / "gmp/manifests/train.csv"
    manifest.parent.mkdir()
    manifest.write_text("\n".join(["ID,wav,spk_id", *trained]))
    for source in (tmp_path / "gmp", tmp_path / "gmp" / place):
        notes = source_notes({"audio_source": str(source)}, ROWS)
        assert len(notes) == len(told)
        for note, of in zip(notes, told, strict=True):
            assert f"audio_source was trained on {of}" in note


def test_notes_go_back_to_the_first_of_a_chain(tmp_path):
    first, second = (write_source(tmp_path / name) for name in ("first", "second"))
    (tmp_path / "own.csv").write_text("ID,wav,spk_id\nb1,/y/b1.wav,bob\n")
    (tmp_path / "more.csv").write_text("ID,wav,spk_id\nd1,/y/d1.wav,dora\n")
    # On manifests of one's own; a circle ends.
    write_json(
        first / "settings.json",
        {"train_csv": str(tmp_path / "own.csv"), "audio_source": str(second)},
    )
    settings = {"train_csv": str(tmp_path / "more.csv"), "audio_source": str(first)}
    write_json(second / "settings.json", settings)
    assert "1 of the 4 utterances" in source_notes({"audio_source": str(second)}, ROWS)[0]
    (tmp_path / "own.csv").unlink()
    [note] = source_notes({"audio_source": str(second)}, ROWS)
    assert "unknown: the run's manifest" in note and "own.csv" in note


def test_notes_go_back_through_the_stages_of_other_runs(tmp_path):
    """What this run's warm-up is from began from a run that has heard the test."""
    first, second = write_source(tmp_path / "first"), tmp_path / "second"
    for run, name in ((first, "b1"), (second, "d1")):
        (run / "manifests").mkdir(parents=True)
        (run / "manifests/train.csv").write_text(f"ID,wav,spk_id\n{name},/y/{name}.wav,dora\n")
    (second / "warm_up").mkdir()
    write_json(second / "settings.json", {"audio_source": str(first)})
    own = tmp_path / "own"
    begun = {"output_folder": str(own), "stage_one_folder": str(own / "stage_one")}
    assert source_notes({**begun, "warm_up_folder": str(own / "warm_up")}, ROWS) == []
    [note] = source_notes({**begun, "warm_up_folder": str(second / "warm_up")}, ROWS)
    assert "1 of the 4 utterances" in note


def test_encoders_that_are_no_runs_have_no_notes(small_encoders):
    for source in (None, "microsoft/wavlm-large", str(small_encoders["wavlm"])):
        assert source_notes({"audio_source": source}, ROWS) == []
