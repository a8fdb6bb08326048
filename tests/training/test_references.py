"""What an experiment's keys refer to is read from its YAML, with what the command line changes."""

from __future__ import annotations

from gemoclap_sb.training.references import read_references
from tests.run_folders import ROOT

FILE = ROOT / "hparams/sl_scratch.yaml"


def test_what_follows_from_what():
    found = read_references(FILE)
    assert found["weights"] == {"alpha_e"}
    assert {"weights", "alpha_e", "similarity"} <= found["objective"]
    assert found["output_folder"] == {"run_folder", "experiment", "seed", "fold"}
    assert found["alpha_e"] == set()


def test_what_is_given_refers_to_nothing_or_to_another():
    assert read_references(FILE, {"weights": {"emotion": 0.5}})["weights"] == {"alpha_e"}
    both = {"weights": {"emotion": 0.5, "gender": 0.5}}
    assert read_references(FILE, both)["weights"] == set()


def test_a_circle_ends(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: !ref <b>\nb: !ref <a[c]> + <d>\n")
    assert read_references(path) == {"a": {"b", "d"}, "b": {"a", "d"}}
