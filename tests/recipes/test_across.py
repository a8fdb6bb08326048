"""The table of what carries over: its figures, what is missing, and what is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from matplotlib.image import imread
from sklearn.metrics import recall_score

from gemoclap_sb.data.manifests import write_manifest
from gemoclap_sb.evaluation.predictions import PREDICTIONS, Predictions
from gemoclap_sb.files import write_json
from gemoclap_sb.training import runs
from tests.conftest import load_script
from tests.recipes.corpora import ACROSS, write_corpora
from tests.run_folders import TINY, Runs, trained_here

prepare = load_script(ACROSS / "across_prepare.py")
tables = load_script(ACROSS / "across_tables.py")
across = load_script(ACROSS / "across.py")

EIGHT, SIX = prepare.CLASSES, prepare.SHARED
FOLDERS = ["--ravdess_folder", "RAVDESS", "--nemo_folder", "nEMO"]


@pytest.fixture(autouse=True)
def folders(tmp_path_factory, monkeypatch):
    """A working directory with the two folders that are named."""
    monkeypatch.chdir(tmp_path_factory.mktemp("corpora"))
    for name in FOLDERS[1::2]:
        Path(name).mkdir()


def rows_of(corpus, folds, classes=None):
    """Two speakers in each fold, each class of theirs three times."""
    return [
        {
            "ID": f"{corpus}_{fold}{gender}{label}{n}", "duration": 1.0, "wav": "$data_root/a.wav",
            "spk_id": f"{corpus}_{fold}{gender}", "gender": gender, "emotion": label,
            "session": str(fold), "transcript": "", "corpus": corpus,
        }
        for fold in folds for gender in "FM"
        for label in (classes or prepare.EMOTIONS[corpus]) for n in range(3)
    ]  # fmt: skip


def finish(folder, train, test, seed, labels=EIGHT, notes=(), validation="speaker"):
    """Write the folder of a fold as training leaves it; the answers are drawn by the seed."""
    folder.mkdir(parents=True)
    for split, rows in (("train", train), ("test", test)):
        write_manifest(folder / "manifests" / f"{split}.csv", rows)
    true = np.array([labels.index(row["emotion"]) for row in test])
    scores = np.random.default_rng(seed).gumbel(size=(len(test), len(labels)))
    scores[np.arange(len(test)), true] += 1.5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = Predictions(
        [row["ID"] for row in test], true, scores.argmax(axis=1), probabilities, list(labels)
    )
    found.write(folder / PREDICTIONS)
    scores = {"war": 0.5, "uar": 0.5, "n_test": len(test)}
    metrics = {**scores, "validation": validation, "notes": list(notes)}
    write_json(folder / "metrics.json", metrics)


def finish_run(folder, protocol, seed, folds=None):
    both = [("RAVDESS", range(1, 6)), ("nEMO", range(1, 5))]
    everybody = {corpus: rows_of(corpus, folds) for corpus, folds in both}
    for fold in folds or prepare.FOLDS[protocol]:
        if protocol == "transfer":
            test = everybody[prepare.TESTED[fold]]
            [train] = [rows for corpus, rows in everybody.items() if rows is not test]
        else:
            every = [row for rows in everybody.values() for row in rows]
            test = [row for row in every if row["session"] == str(fold)]
            train = [row for row in every if row["session"] != str(fold)]
        finish(folder / f"fold_{fold}", train, test, 10 * seed + fold)


class Training(Runs):
    """Writes results, but of runs that are to fail."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.fails = set()

    @property
    def asked(self):
        return [asked_for(argv) for argv in self.argv]

    def train(self, argv):
        protocol, seed, given = asked_for(argv)
        if (protocol, seed) in self.fails:
            return 1
        finish_run(across.Path(given["--output_folder"]), protocol, seed)
        return 0


def asked_for(argv):
    given = dict(zip(argv[1::2], argv[2::2], strict=True))
    return given["--protocol"], int(given["--seed"]), given


@pytest.fixture
def training(monkeypatch):
    return Training(monkeypatch)


def expected(folders, corpus, labels):
    """WAR and UAR of one seed, from the files alone."""
    frame = pandas.concat([pandas.read_csv(folder / PREDICTIONS) for folder in folders])
    frame = frame[frame["ID"].str.startswith(f"{corpus}_") & frame["true"].isin(labels)]
    chosen = frame[list(labels)].idxmax(axis=1)
    uar = recall_score(frame["true"], chosen, labels=list(labels), average="macro")
    return (chosen == frame["true"]).mean(), uar


def test_figures_are_those_of_the_files(training, tmp_path):
    folder = tmp_path / "out"
    assert across.main([*FOLDERS, "--seeds", "1,2", "--output_folder", str(folder)]) == 0
    found = pandas.read_csv(folder / "across.csv")
    assert set(found["seeds_finished"]) == {0, 2}
    columns = [
        ("RAVDESS", "all 8", EIGHT),
        ("RAVDESS", "the 6 shared", SIX),
        ("nEMO", "all 6", SIX),
    ]
    assert [*dict.fromkeys(zip(found["tested_on"], found["classes"], strict=True))] == [
        column[:2] for column in columns
    ]
    for trained, protocol, folds in (
        ("nEMO", "transfer", [1]), ("RAVDESS", "transfer", [2]), ("both", "both", [1, 2, 3, 4])
    ):  # fmt: skip
        for corpus, name, labels in columns:
            if trained == corpus or (protocol, trained, corpus) == ("transfer", corpus, trained):
                continue
            seeds = [
                expected(
                    [folder / protocol / f"seed_{s}" / f"fold_{f}" for f in folds], corpus, labels
                )
                for s in (1, 2)
            ]
            own = found[(found["trained_on"] == trained) & (found["tested_on"] == corpus)]
            own = own[own["classes"] == name].set_index("measure")
            for column, measure in enumerate(("war", "uar")):
                values = [100 * seed[column] for seed in seeds]
                row = own.loc[measure]
                assert row["mean_percent"] == pytest.approx(np.mean(values), abs=0.006)
                assert row["std_percent"] == pytest.approx(np.std(values, ddof=1), abs=0.006)
                assert row["low_percent"] <= row["mean_percent"] <= row["high_percent"]
            assert own.loc["uar", "chance_percent"] == pytest.approx(100 / len(labels), abs=0.006)


def test_classes_never_seen_stand_beside_chance(training, tmp_path):
    folder = tmp_path / "out"
    across.main([*FOLDERS, "--seeds", "1", "--output_folder", str(folder)])
    found = pandas.read_csv(folder / "across.csv", dtype={"in_training": str})
    unseen = found[found["in_training"] == "False"]
    assert [*zip(unseen["trained_on"], unseen["tested_on"], unseen["measure"], strict=True)] == [
        ("nEMO", "RAVDESS", "recall_cal"), ("nEMO", "RAVDESS", "recall_dis")
    ]  # fmt: skip
    frame = pandas.read_csv(folder / "transfer/seed_1/fold_1" / PREDICTIONS)
    calm = frame["true"] == "cal"
    recall = 100 * (frame["predicted"][calm] == "cal").mean()
    answered = 100 * (frame["predicted"][~calm] == "cal").mean()
    assert unseen["mean_percent"].iloc[0] == pytest.approx(recall, abs=0.006)
    assert unseen["answered_percent"].iloc[0] == pytest.approx(answered, abs=0.006)
    assert set(unseen["chance_percent"]) == {12.5}
    text = (folder / "across.md").read_text()
    assert (
        f"`cal`, never seen in training on nEMO, by its prompt alone: recall {recall:.1f}" in text
    )
    assert "beside a chance of 12.5" in text
    assert "nEMO → RAVDESS, all 8" in text and text.count("†") == 3


def test_what_is_missing_stays_empty(tmp_path, capsys):
    finish_run(tmp_path / "transfer/seed_1", "transfer", 1)
    finish_run(tmp_path / "both/seed_1", "both", 1, folds=[1, 2, 3])
    given = ["--seeds", "1,2", "--tables_only", "--output_folder", str(tmp_path)]
    assert across.main([*given, "--list"]) == 0
    assert "begun     3 of 4 folds  both, seed 1" in capsys.readouterr().out
    assert across.main(given) == 0
    found = pandas.read_csv(tmp_path / "across.csv")
    assert found["mean_percent"].isna().all()
    transfer = found[found["seeds_finished"] == 1]
    assert {*zip(transfer["trained_on"], transfer["tested_on"], strict=True)} == {
        ("RAVDESS", "nEMO"), ("nEMO", "RAVDESS")
    }  # fmt: skip
    text = (tmp_path / "across.md").read_text()
    assert "| nEMO | – (1 of 2 seeds) | – (1 of 2 seeds) | – |" in text
    assert "| both | – | – | – |" in text
    assert "nEMO to RAVDESS: not measured." in text
    empty = imread(tmp_path / "across.png")
    assert across.main([*given[:1], "1", *given[2:]]) == 0
    assert not np.array_equal(imread(tmp_path / "across.png"), empty)
    assert "| both | – | – | – |" in (tmp_path / "across.md").read_text()


def test_before_anything_is_measured_the_columns_are_those_of_the_runs_to_come(tmp_path):
    given = ["--tables_only", "--output_folder", str(tmp_path)]
    assert across.main(given) == 0
    text = (tmp_path / "across.md").read_text()
    # RAVDESS's calm counts as neutral.
    assert "RAVDESS, all 7" in text and "| *chance* | 14.3 | 16.7 | 16.7 |" in text
    assert across.main([*given, "--merge_calm", "False", "--classes", "null"]) == 0
    assert "RAVDESS, all 8" in (tmp_path / "across.md").read_text()


def test_runs_of_a_corpus_alone_fill_the_diagonal(tmp_path, capsys):
    for fold in range(1, 6):
        test = [{**row, "ID": row["ID"], "corpus": ""} for row in rows_of("RAVDESS", [fold])]
        test = [{key: of for key, of in row.items() if key != "corpus"} for row in test]
        finish(tmp_path / f"own/seed_1/fold_{fold}", test, test, fold, notes=["Said of a fold."])
    out = tmp_path / "out"
    given = ["--seeds", "1", "--tables_only", "--output_folder", str(out)]
    assert across.main([*given, "--ravdess_runs", str(tmp_path / "own")]) == 0
    found = pandas.read_csv(out / "across.csv").set_index(["trained_on", "tested_on", "measure"])
    folds = [tmp_path / f"own/seed_1/fold_{fold}" for fold in range(1, 6)]
    eight = found[found["classes"] == "all 8"]
    uar = eight.loc[("RAVDESS", "RAVDESS", "uar"), "mean_percent"]
    assert uar == pytest.approx(100 * expected(folds, "RAVDESS", EIGHT)[1], abs=0.006)
    assert found.loc["nEMO"]["mean_percent"].isna().all()
    assert "- Said of a fold." in (out / "across.md").read_text()

    # Models that count calm as neutral beside those that do not.
    seven = [name for name in EIGHT if name != "cal"]
    for fold, corpus in prepare.TESTED.items():
        rows = rows_of(corpus, [1], [name for name in prepare.EMOTIONS[corpus] if name != "cal"])
        finish(out / f"transfer/seed_1/fold_{fold}", rows, rows, fold, labels=seven)
    assert across.main([*given, "--ravdess_runs", str(tmp_path / "own")]) == 2
    told = "trained on nEMO and tested on RAVDESS do not have the class cal, others do: give all"
    assert told in capsys.readouterr().err


def test_every_seed_and_protocol_runs_and_a_failed_one_stops_no_other(training, tmp_path, capsys):
    training.fails = {("both", 1)}
    given = [*FOLDERS, "--seeds", "1,2", "--jobs", "2", "--lr", "0.1", "--output_folder"]
    assert across.main([*given, str(tmp_path)]) == 1
    assert [run[:2] for run in training.asked] == [
        ("transfer", 1), ("both", 1), ("transfer", 2), ("both", 2)
    ]  # fmt: skip
    for protocol, seed, options in training.asked:
        assert options["--number_of_folds"] == {"transfer": "2", "both": "4"}[protocol]
        assert options["--output_folder"] == str(tmp_path / protocol / f"seed_{seed}")
        assert (options["--lr"], options["--nemo_folder"]) == ("0.1", "nEMO")
    assert training.jobs == 2
    assert "1 of 4 runs failed: both, seed 1" in capsys.readouterr().err
    assert "| both | – (1 of 2 seeds) |" in (tmp_path / "across.md").read_text()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--protocol", "both"], "--protocol is left to this script"),
        (["--seed=2"], "--seed is left to --seeds"),
        (["--fold", "1"], "--fold is left to cross-validation"),
        (["--learning_rate", "1"], "--learning_rate is no key of across_scratch"),
        (["--nemo_runs", "nowhere"], "no folder nowhere"),
    ],
)
def test_what_the_script_says_itself_is_refused(training, tmp_path, capsys, options, message):
    assert across.main([*FOLDERS, *options, "--output_folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert training.asked == []


@pytest.mark.parametrize(
    "given, message",
    [
        (FOLDERS[:2], "--nemo_folder: not given"),
        ([*FOLDERS[:2], "--nemo_folder", "nowhere"], "--nemo_folder: no folder nowhere"),
    ],
)
def test_without_both_corpora_nothing_is_run(training, tmp_path, capsys, given, message):
    assert across.main([*given, "--output_folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert training.asked == []


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("RAVDESS_1Fcal0", "b", "fold_1/predictions.csv has b, which the run's test manifest"),
        ("ID,true", "ID,truth", "fold_1/predictions.csv: expected the columns ID,true,predicted"),
    ],
)
def test_damaged_results_are_told_before_anything_runs(
    training, tmp_path, capsys, before, after, message
):
    finish_run(tmp_path / "transfer/seed_1", "transfer", 1)
    path = tmp_path / "transfer/seed_1/fold_1" / PREDICTIONS
    path.write_text(path.read_text().replace(before, after))
    assert across.main([*FOLDERS, "--seeds", "1", "--output_folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert training.asked == []


@pytest.mark.slow
def test_whole_on_small_corpora(monkeypatch, tmp_path):
    """Every protocol trains and is tested; the folds run in this process, which has torch."""
    monkeypatch.setattr(runs, "run_folds", trained_here(prepare.prepare_across))
    small = {key: of for key, of in TINY.items() if key != "number_of_folds"}
    options = {**write_corpora(tmp_path), **small, "number_of_epochs": 1, "device": "cpu"}
    given = [part for key, of in options.items() for part in (f"--{key}", str(of))]
    folder = tmp_path / "out"
    assert across.main([*given, "--seeds", "1", "--output_folder", str(folder)]) == 0
    found = pandas.read_csv(folder / "across.csv").set_index(["trained_on", "tested_on"])
    for pair in (("nEMO", "RAVDESS"), ("RAVDESS", "nEMO"), ("both", "RAVDESS"), ("both", "nEMO")):
        assert found.loc[pair, "mean_percent"].between(0, 100).all()
    folds = [folder / "both/seed_1" / f"fold_{fold}" for fold in (1, 2, 3, 4)]
    both = found.loc[("both", "nEMO")].set_index("measure")
    war = expected(folds, "nEMO", SIX)[0]
    assert both.loc["war", "mean_percent"] == pytest.approx(100 * war, abs=0.006)
    assert "fifth fold" in (folder / "across.md").read_text()


@pytest.mark.parametrize(
    ("part", "whole"), [("across_tables", "across"), ("across_calibration", "make_default")]
)
def test_a_part_that_is_run_names_the_whole(part, whole):
    command = [sys.executable, str(ACROSS / f"{part}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {part}.py is a part of {whole}.py: run that one.\n"
