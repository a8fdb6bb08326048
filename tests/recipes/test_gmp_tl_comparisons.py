"""GMP-TL's comparisons on RAVDESS: rows of equal budgets, which share the stages that they say."""

from __future__ import annotations

import os

import pytest

from gemoclap_sb.training.runs import overrides
from gemoclap_sb.training.settings import read_settings
from tests.conftest import load_script
from tests.run_folders import ROOT

RECIPE = ROOT / "recipes/RAVDESS/gmp_tl"
STAGES = ("warm_up", "labels", "stage_one")


@pytest.fixture(scope="module")
def group():
    """All rows; the other groups are of the same."""
    group, *others = load_script(RECIPE / "comparisons.py").COMPARISONS.groups
    assert all(row in group.rows for other in others for row in other.rows)
    assert [of.rows[0].label for of in others] == ["GMP-TL", "SL-GEmo-CLAP"]
    return group


@pytest.fixture(scope="module")
def settings(group):
    """The resolved settings of each row, of the second seed's third fold."""
    found = {}
    for row in group.rows:
        folder = f"results/{group.name(row)}/seed_2/fold_3"
        given = {**overrides(row.options), "seed": 2, "fold": 3, "output_folder": folder}
        found[row.label] = read_settings(RECIPE / f"hparams/{row.yaml}.yaml", given)
    return found


def updates(of: dict) -> int:
    return sum(of.get(key, 0) for key in ("warm_up_epochs", "stage_one_epochs", "number_of_epochs"))


def test_every_row_has_as_many_updates(settings):
    budgets = {label: updates(of) for label, of in settings.items()}
    # What it begins from has had the others.
    whole = settings["GMP-TL"]
    budgets["SL-GEmo-CLAP from stage one"] += whole["warm_up_epochs"] + whole["stage_one_epochs"]
    assert len(set(budgets.values())) == 1
    assert len({(of["batch_size"], of["lr"]) for of in settings.values()}) == 1


def test_a_row_takes_out_what_it_says_and_no_more(settings):
    whole, changed = settings["GMP-TL"], {}
    known = {"clusters", "label_attributes", "scale", "stage_one_epochs", "number_of_epochs"}
    for label, of in settings.items():
        if of["experiment"] == whole["experiment"]:
            changed[label] = {key: of[key] for key in known if of[key] != whole[key]}
    assert len(whole["clusters"]) > 1 and whole["label_attributes"] == ["gender"]
    assert len(changed["one scale"].pop("clusters")) == 1
    assert changed == {
        "GMP-TL": {},
        "one scale": {},
        "no gender in the labels": {"label_attributes": []},
        "no AM-Softmax": {"scale": None},
        "no stage one": {
            "stage_one_epochs": 0,
            "number_of_epochs": whole["number_of_epochs"] + whole["stage_one_epochs"],
        },
    }


def test_rows_share_the_stages_of_the_same_seed_and_fold(group, settings):
    [whole] = [row for row in group.rows if row.label == "GMP-TL"]
    of_whole = os.path.join("results", group.name(whole), "seed_2", "fold_3")
    shared = {}
    for label, of in settings.items():
        folders = {name: os.path.normpath(of.get(f"{name}_folder", "none")) for name in STAGES}
        shared[label] = {
            name for name, folder in folders.items() if folder.startswith(of_whole + os.sep)
        }
    assert shared.pop("GMP-TL") == set(STAGES)
    assert shared.pop("no AM-Softmax") == set(STAGES)
    for label in ("one scale", "no gender in the labels", "no stage one"):
        assert shared.pop(label) == {"warm_up"}
    assert not any(shared.values())
    assert os.path.normpath(settings["SL-GEmo-CLAP from stage one"]["audio_source"]) == of_whole
    # Those who take come after the one who gives.
    labels = [row.label for row in group.rows]
    assert labels.index("GMP-TL") < labels.index("one scale")
