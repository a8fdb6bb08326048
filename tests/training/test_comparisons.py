"""Which runs comparisons have and what becomes of them; training itself is put aside here."""

from __future__ import annotations

import csv
import re

import pytest

from gemoclap_sb.files import write_json
from gemoclap_sb.training import comparisons
from gemoclap_sb.training.comparisons import Comparisons, Group, Row
from tests.run_folders import Runs

YAML = """
experiment: {name}
seed: 1
data_folder: ""
fold: 1
number_of_folds: 2
run_folder: results
output_folder: !ref <run_folder>/fold_<fold>
target: normalized
alpha_e: 0.9
terms: {{F: woman}}
lr: 0.1
"""
DEFAULT = Row("normalized", "small")
SETTINGS = Comparisons(
    "settings",
    "Settings",
    [
        Group("target", (1, 2, 3), [DEFAULT, Row("softmax", "small", {"target": "softmax"})]),
        # The default again, said outright, then another number, and another experiment.
        Group(
            "alpha_e",
            (1, 2),
            [
                Row("0.9", "small", {"alpha_e": 0.9}),
                Row("0.5", "small", {"alpha_e": 0.5, "terms": {"F": "a {gender}", "M": "man"}}),
                Row("baseline", "other"),
            ],
        ),
    ],
)
# In the order of the groups, then of the seeds; the default only once.
ALL = [
    *((name, seed) for seed in "123" for name in ("target_normalized", "target_softmax")),
    *((name, seed) for seed in "12" for name in ("alpha_e_0.5", "alpha_e_baseline")),
]
UARS = {"target_normalized": 0.5, "target_softmax": 0.6, "alpha_e_0.5": 0.4}


@pytest.fixture
def script(tmp_path):
    """The place of a recipe's train.py with two experiments, of which one has ``alpha_e``."""
    folder = tmp_path / "recipe/hparams"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(YAML.format(name="small"))
    other = YAML.format(name="other").replace("alpha_e: 0.9\n", "").replace("target: ", "also: ")
    (folder / "other.yaml").write_text(other)
    return tmp_path / "recipe/train.py"


class Recipe(Runs):
    """Writes results; of what is to fail, those of the first fold alone."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.fails = set()

    @property
    def asked(self):
        return [asked_for(argv) for argv in self.argv]

    def train(self, argv):
        name, _, _, given = asked_for(argv)
        for fold in (1, 2):
            if fold == 2 and name in self.fails:
                return 1
            uar = UARS.get(name, 0.3) + 0.01 * fold * int(given["--seed"])
            self.finish(f"{given['--output_folder']}/fold_{fold}", uar)
        return 0

    def finish(self, folder, uar):
        result = {"war": uar, "uar": uar, "valid_uar": uar / 2, "n_test": 10, "notes": []}
        write_json(f"{folder}/metrics.json", {**result, "validation": "development"})
        write_json(f"{folder}/manifests/prepare.json", {"counts": {"train": {"utterances": 40}}})
        write_json(f"{folder}/run.json", {"seconds": 100 * uar})

    @property
    def runs(self):
        return [asked[:2] for asked in self.asked]


def asked_for(argv):
    given = dict(zip(argv[1::2], argv[2::2], strict=True))
    name, seed = given["--output_folder"].split("/")[-2:]
    return name, seed.removeprefix("seed_"), argv[0].split("/")[-1], given


@pytest.fixture
def recipe(monkeypatch):
    recipe = Recipe(monkeypatch)
    # Drawn after every run, half a second each time.
    monkeypatch.setattr(comparisons, "draw_groups", lambda *arguments: None)
    return recipe


@pytest.fixture
def command(script, tmp_path):
    """Run the comparisons in a folder of its own; the exit status."""

    def run(*options):
        given = ["--data_folder", str(tmp_path), "--output_folder", str(tmp_path / "out")]
        return comparisons.main(script, SETTINGS, [*given, *options])

    return run


def table(tmp_path):
    with (tmp_path / "out/settings.csv").open() as stream:
        return {(row["group"], row["row"]): row for row in csv.DictReader(stream)}


def test_every_setting_runs_once_whichever_groups_it_stands_in(command, recipe, tmp_path, capsys):
    assert command("--jobs", "2", "--lr", "0.2") == 0
    assert recipe.runs == ALL
    by_name = {asked[0]: asked[2:] for asked in recipe.asked}
    yaml, given = by_name["alpha_e_0.5"]
    assert (yaml, given["--alpha_e"], given["--lr"]) == ("small.yaml", "0.5", "0.2")
    assert recipe.jobs == 2 and "--jobs" not in given
    assert given["--terms"] == '{"F": "a {gender}", "M": "man"}'
    assert by_name["target_softmax"][1]["--target"] == "softmax"
    assert by_name["alpha_e_baseline"][0] == "other.yaml"
    rows = table(tmp_path)
    assert list(rows) == [
        ("target", "normalized"), ("target", "softmax"),
        ("alpha_e", "0.9"), ("alpha_e", "0.5"), ("alpha_e", "baseline"),
    ]  # fmt: skip
    # One run, over three seeds and over two: means of 1.5 times 0.01, 0.02 (and 0.03).
    three, two = rows["target", "normalized"], rows["alpha_e", "0.9"]
    assert (three["uar_percent"], three["folds_finished"]) == ("53.0000", "6")
    assert (two["uar_percent"], two["folds_finished"]) == ("52.2500", "4")
    assert float(rows["target", "softmax"]["uar_difference_points"]) == pytest.approx(10)
    assert float(rows["alpha_e", "0.5"]["uar_difference_points"]) == pytest.approx(-10)
    assert (two["seconds_a_fold"], two["valid_uar_percent"]) == ("52.2", "26.1250")
    text = (tmp_path / "out/settings.md").read_text()
    assert text in capsys.readouterr().out
    # Of whom the figures are.
    assert "For choosing settings: tested on held-out speakers of the training side" in text


def test_some_runs_alone_and_the_table_is_whole(command, recipe, tmp_path):
    assert command("--only", "alpha_e", "--seeds", "2") == 0
    assert recipe.runs == [
        (name, "2") for name in ("target_normalized", "alpha_e_0.5", "alpha_e_baseline")
    ]
    rows = table(tmp_path)
    assert len(rows) == 5 and {row["seeds"] for row in rows.values()} == {"2"}
    assert (
        rows["target", "normalized"]["folds_finished"],
        rows["target", "softmax"]["uar_percent"],
    ) == ("2", "")
    recipe.argv.clear()
    # By another name of the same run, with the seeds of its group.
    assert command("--only", "alpha_e_0.9, target_softmax") == 0
    softmax = [("target_softmax", seed) for seed in "123"]
    assert recipe.runs == [*softmax, ("target_normalized", "1"), ("target_normalized", "2")]


def test_an_option_may_be_a_key_that_only_other_rows_change(command, recipe):
    assert command("--only", "target_normalized", "--alpha_e", "0.7", "--seeds", "1") == 0
    ((name, _, _, given),) = recipe.asked
    assert (name, given["--alpha_e"]) == ("target_normalized", "0.7")


def test_a_failed_run_stops_no_other_and_runs_again(command, recipe, tmp_path, capsys):
    recipe.fails = {"target_softmax"}
    assert command("--seeds", "1") == 1
    assert recipe.runs == [run for run in ALL if run[1] == "1"]
    assert "1 of 4 runs failed: target_softmax, seed 1" in capsys.readouterr().err
    row = table(tmp_path)["target", "softmax"]
    assert (row["folds_finished"], row["uar_percent"], row["p"]) == ("1", "", "")
    recipe.fails = set()
    assert command("--seeds", "1") == 0
    assert table(tmp_path)["target", "softmax"]["uar_percent"] == "61.5000"


def test_tables_follow_every_run(command, recipe, tmp_path, monkeypatch):
    seen, train = [], recipe.train

    def watch(argv):
        seen.append(sum(int(row["folds_finished"]) for row in table(tmp_path).values()))
        return train(argv)

    monkeypatch.setattr(recipe, "train", watch)
    assert command("--seeds", "1") == 0
    # The first stands in two groups.
    assert seen == [0, 4, 6, 8]


def test_list_and_tables_only_run_nothing(script, recipe, tmp_path, capsys):
    recipe.finish(tmp_path / "out/target_normalized/seed_1/fold_1", 0.6)
    output = ["--output_folder", str(tmp_path / "out"), "--seeds", "1"]
    assert comparisons.main(script, SETTINGS, [*output, "--list"]) == 0
    lines = [re.split(" {2,}", line)[:3] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["begun", "1 of 2 folds", "target_normalized, seed 1"]
    assert [line[0] for line in lines] == ["begun", "missing", "missing", "missing"]
    assert not (tmp_path / "out/settings.md").exists()
    assert comparisons.main(script, SETTINGS, [*output, "--tables_only"]) == 0
    assert table(tmp_path)["alpha_e", "0.9"]["folds_finished"] == "1"
    assert len(table(tmp_path)) == 5
    only = [*output, "--tables_only", "--only", "target_softmax"]
    assert comparisons.main(script, SETTINGS, only) == 0
    assert {group for group, _ in table(tmp_path)} == {"target"} and len(table(tmp_path)) == 2
    assert recipe.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "beta"], "--only beta: expected groups or rows of alpha_e, alpha_e_0.5, "),
        (["--target", "softmax"], "--target is left to the rows of target"),
        (["--seed", "2"], "--seed is left to --seeds"),
        (["--learning_rate", "1"], "--learning_rate is no key of small, other"),
        (["--data_folder", "/nowhere"], "each key once"),
    ],
)
def test_what_cannot_run_is_told_before_anything_runs(
    command, recipe, tmp_path, capsys, options, message
):
    assert command(*options) == 2
    assert message in capsys.readouterr().err
    assert recipe.asked == [] and not (tmp_path / "out").exists()


def test_without_data_nothing_starts(script, recipe, capsys):
    assert comparisons.main(script, SETTINGS, []) == 2
    assert "give --data_folder" in capsys.readouterr().err
    assert recipe.asked == []
