"""Which runs a grid has and what becomes of them; training itself is put aside here.

`tests/recipes/test_table1.py` has the whole grid, with real encoders and real folds.
"""

from __future__ import annotations

import csv
import math
import re

import pytest

from gemoclap_sb.evaluation.comparison import Published
from gemoclap_sb.files import write_json
from gemoclap_sb.training import grid
from tests.run_folders import Runs

YAML = """
experiment: {name}
seed: 1
data_folder: ""
fold: 1
number_of_folds: 2
run_folder: results
output_folder: !ref <run_folder>/fold_<fold>
audio_source: hub/{encoder}
lr: 0.1
"""
TABLE = grid.Table(
    name="table9",
    title="A table",
    objectives=("emo", "sl"),
    encoders=("a", "b"),
    names={"emo": "Emo-CLAP"},
    published=Published("A paper", {("sl", "b"): (80.0, 81.0)}),
)
ORDER = [f"{objective}_{encoder}" for encoder in "ab" for objective in ("emo", "sl")]


@pytest.fixture
def script(tmp_path):
    """The place of a recipe's train.py with four experiments, of which two have ``alpha_e``."""
    folder = tmp_path / "recipe"
    (folder / "hparams").mkdir(parents=True)
    for name in ORDER:
        text = YAML.format(name=name, encoder=name[-1])
        text += "alpha_e: 0.9\n" if name.startswith("sl") else ""
        (folder / f"hparams/{name}.yaml").write_text(text)
    return folder / "train.py"


class Recipe(Runs):
    """Writes results, or fails as it is told to."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.fails, self.notes = {}, []

    @property
    def asked(self):
        return [asked_for(argv) for argv in self.argv]

    def train(self, argv):
        name, given = asked_for(argv)
        for fold in (1, 2):
            folder = f"{given['--output_folder']}/fold_{fold}"
            if fold == 2 and isinstance(self.fails.get(name), int):
                return self.fails[name]
            better = 0.01 * fold**2 if name.startswith("sl") else 0.0
            self.finish(folder, 0.5 + 0.1 * fold + better, int(given["--seed"]))
        return 0

    def summarize(self, argv):
        name, _ = asked_for(argv)
        if name in self.fails:
            raise self.fails[name]
        print(f"report of {name}")

    def finish(self, folder, war, seed=1):
        result = {"war": war, "uar": war / 2, "n_test": 10, "notes": self.notes, "seed": seed}
        write_json(f"{folder}/metrics.json", {**result, "validation": "test"})
        write_json(f"{folder}/manifests/prepare.json", {"counts": {"train": {"utterances": 40}}})


def asked_for(argv):
    options = [part for option in argv[1:] for part in option.split("=", 1)]
    name = argv[0].rpartition("/")[2].removesuffix(".yaml")
    return name, dict(zip(options[::2], options[1::2], strict=True))


@pytest.fixture
def recipe(monkeypatch):
    recipe = Recipe(monkeypatch)
    # Drawn after every run, half a second each time.
    monkeypatch.setattr(grid, "draw_comparison", lambda *arguments: None)
    return recipe


@pytest.fixture
def command(script, tmp_path):
    """Run the grid in a folder of its own; the exit status."""

    def run(*options, seeds="1"):
        given = ["--data_folder", str(tmp_path), "--output_folder", str(tmp_path / "out")]
        return grid.main(script, TABLE, [*given, "--seeds", seeds, *options])

    return run


def cells(tmp_path):
    with (tmp_path / "out/table9.csv").open() as stream:
        return {f"{row['objective']}_{row['encoder']}": row for row in csv.DictReader(stream)}


def test_every_cell_runs_once_and_the_table_has_it(command, recipe, tmp_path, capsys):
    assert command(seeds="1,2") == 0
    asked = [(name, given["--seed"]) for name, given in recipe.asked]
    # All objectives of an encoder and a seed come together.
    assert asked == [
        (f"{objective}_{encoder}", seed)
        for encoder in "ab"
        for seed in "12"
        for objective in ("emo", "sl")
    ]
    folders = [given["--output_folder"] for _, given in recipe.asked]
    assert folders[1] == str(tmp_path / "out/sl_a/seed_1") and len(set(folders)) == 8
    assert all(given["--data_folder"] == str(tmp_path) for _, given in recipe.asked)
    # Rows go by objective, whatever the order of the runs.
    assert list(cells(tmp_path)) == ["emo_a", "emo_b", "sl_a", "sl_b"]
    row = cells(tmp_path)["sl_b"]
    assert (row["folds_finished"], row["war_percent"]) == ("4", "67.5000")
    assert (row["paper_uar_percent"], row["uar_difference_points"]) == ("81.0000", "-47.2500")
    text = (tmp_path / "out/table9.md").read_text()
    assert "| Emo-CLAP | a | 4 of 4 | 65.00 ± 0.00 |" in text
    # Differences of 0.01 and 0.04, tested on 10 and trained on 40.
    error = math.sqrt((1 / 2 + 10 / 40) * 0.03**2 / 2)
    p = 1 - 2 / math.pi * math.atan(0.025 / error)
    test = r"\| a \| sl − Emo-CLAP \| WAR \| 2 of 2 \| \+2.50 \| .* \| (.*) \|"
    assert re.search(test, text)[1] == f"{p:.3f}"
    assert text in capsys.readouterr().out
    assert r"\emph{Emo-CLAP}" in (tmp_path / "out/table9.tex").read_text()


def test_what_the_results_ask_to_be_said_stands_under_the_table(command, recipe, tmp_path):
    recipe.notes = ["Half of the corpus is missing."]
    assert command() == 0
    for ending in ("md", "tex"):
        text = (tmp_path / f"out/table9.{ending}").read_text()
        assert text.count("Half of the corpus is missing.") == 1
        assert "are by the test side itself" in text


@pytest.mark.parametrize("failure", [-9, 1, RuntimeError("disk full")])
def test_a_failed_cell_stops_no_other_and_runs_again(command, recipe, tmp_path, capsys, failure):
    recipe.fails = {"sl_a": failure}
    assert command() == 1
    assert [name for name, _ in recipe.asked] == ORDER
    error = capsys.readouterr().err
    status = failure if isinstance(failure, int) else 1
    assert f"1 of 4 runs failed: sl_a, seed 1 (exit status {status})" in error
    assert ("disk full" in error) == isinstance(failure, RuntimeError)
    rows = cells(tmp_path)
    # Where the summary failed, all folds are there.
    found = ("1", "") if isinstance(failure, int) else ("2", "67.5000")
    assert (rows["sl_a"]["folds_finished"], rows["sl_a"]["war_percent"]) == found
    assert rows["sl_b"]["folds_finished"] == "2" and rows["sl_b"]["war_percent"]
    text = (tmp_path / "out/table9.md").read_text()
    assert ("| sl | a | 1 of 2 | – |" in text) == isinstance(failure, int)
    recipe.fails = {}
    assert command() == 0
    assert cells(tmp_path)["sl_a"]["war_percent"] == "67.5000"
    assert "failed" not in capsys.readouterr().err


def test_finished_cells_are_only_looked_at(command, recipe, capsys):
    assert command("--objectives", "emo", "--encoders", "a") == 0
    assert "report of emo_a" in capsys.readouterr().out
    assert command("--encoders", "a") == 0
    printed = capsys.readouterr().out
    assert "run 1 of 2: emo_a, seed 1 (finished before)" in printed
    assert "report of emo_a" not in printed and "report of sl_a" in printed


def test_tables_follow_every_run(command, recipe, tmp_path, monkeypatch):
    seen, train = [], recipe.train

    def watch(argv):
        seen.append([row["folds_finished"] for row in cells(tmp_path).values()])
        return train(argv)

    monkeypatch.setattr(recipe, "train", watch)
    assert command() == 0
    # Rows: emo_a, emo_b, sl_a, sl_b. Runs: emo_a, sl_a, emo_b, sl_b.
    assert [" ".join(row) for row in seen] == ["0 0 0 0", "2 0 0 0", "2 0 2 0", "2 2 2 0"]


def test_list_and_tables_only_run_nothing(script, recipe, tmp_path, capsys):
    recipe.finish(tmp_path / "out/emo_a/seed_1/fold_1", 0.6)
    for fold in (1, 2):
        recipe.finish(tmp_path / f"out/sl_b/seed_1/fold_{fold}", 0.6)
    output = ["--output_folder", str(tmp_path / "out"), "--seeds", "1"]
    assert grid.main(script, TABLE, [*output, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [tuple(re.split(" {2,}", line)[:3]) for line in lines] == [
        ("begun", "1 of 2 folds", "emo_a, seed 1"),
        ("missing", "0 of 2 folds", "sl_a, seed 1"),
        ("missing", "0 of 2 folds", "emo_b, seed 1"),
        ("finished", "2 of 2 folds", "sl_b, seed 1"),
    ]
    assert not (tmp_path / "out/table9.md").exists()
    assert grid.main(script, TABLE, [*output, "--tables_only"]) == 0
    assert [row["folds_finished"] for row in cells(tmp_path).values()] == ["1", "0", "0", "2"]
    assert recipe.asked == []


def test_keys_go_to_the_experiments_that_have_them(command, recipe, capsys):
    assert command("--alpha_e=0.8", "--lr", "0.2", "--device", "cpu", "--jobs", "2") == 0
    for name, given in recipe.asked:
        assert given.get("--alpha_e") == ("0.8" if name.startswith("sl") else None)
        assert (given["--lr"], given["--device"]) == ("0.2", "cpu")
        assert "--jobs" not in given
    assert recipe.jobs == 2
    assert "emo_a, emo_b run without --alpha_e" in capsys.readouterr().out


def test_each_encoder_has_its_own_source(command, recipe):
    assert command("--audio_source", "a=/weights/a,b=hub/b") == 0
    sources = {name[-1]: given["--audio_source"] for name, given in recipe.asked}
    assert sources == {"a": "/weights/a", "b": "hub/b"}


def test_an_encoder_without_a_source_keeps_that_of_its_file(command, recipe):
    assert command("--audio_source", "b=/weights/b") == 0
    assert {name for name, given in recipe.asked if "--audio_source" in given} == {"emo_b", "sl_b"}
    recipe.argv.clear()
    assert command("--audio_source", "/weights/a", "--encoders", "a") == 0
    assert {given["--audio_source"] for _, given in recipe.asked} == {"/weights/a"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoders", "a,c"], "no experiment .*emo_c.yaml.* one of emo_a, emo_b, sl_a, sl_b"),
        (["--learning_rate", "1"], "--learning_rate is no key of emo_a, .* Keys: alpha_e, audio"),
        (["--seed", "2"], "--seed is left to --seeds"),
        (["--fold", "2"], "--fold is left to cross-validation"),
        (["--audio_source", "/weights"], "give --audio_source a=PATH,b=PATH"),
        (["--audio_source", "a=/weights,c=/other"], "one of a, b; found 'c'"),
        (["--audio_source", "a=/weights,b"], "found 'b'"),
        (["--lr", "1", "--lr", "2"], "--lr is given twice; expected each key once"),
    ],
)
def test_what_cannot_run_is_told_before_anything_runs(
    command, recipe, tmp_path, capsys, options, message
):
    assert command(*options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert recipe.asked == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --data_folder"),
        (["--data_folder", "/nowhere"], "--data_folder: no folder /nowhere"),
        (["hparams/emo_a.yaml", "--data_folder", "/corpus"], "expected --key value"),
        (["stray"], "expected --key value"),
    ],
)
def test_command_lines_of_other_scripts(script, recipe, capsys, options, message):
    assert grid.main(script, TABLE, options) == 2
    assert message in capsys.readouterr().err
    assert recipe.asked == []


def test_damaged_results_and_bad_places_are_told_before_anything_runs(
    command, recipe, tmp_path, capsys
):
    recipe.finish(tmp_path / "out/sl_b/seed_1/fold_2", 0.6)
    path = tmp_path / "out/sl_b/seed_1/fold_2/metrics.json"
    path.write_text('{"war": 0.6}')
    assert command() == 2
    assert f"{path} is no result of a fold" in capsys.readouterr().err
    assert command("--output_folder", str(path)) == 2
    assert "--output_folder: " in capsys.readouterr().err
    assert recipe.asked == []


@pytest.mark.parametrize("options", [["--seeds", "1,x"], ["--objectives", "emo,,sl"]])
def test_lists_are_checked(script, capsys, options):
    with pytest.raises(SystemExit) as stop:
        grid.main(script, TABLE, options)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "with commas between" in line
