"""Of settings that differ, those are found from which the others follow."""

from __future__ import annotations

import pytest

from gemoclap_sb.training.differing import roots, spelled_out
from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.settings import ExperimentError, is_object, read_settings
from tests.run_folders import ROOT


@pytest.mark.parametrize(
    ("hparams", "before", "now", "expected"),
    [
        ("sl_scratch", {}, {"alpha_e": 0.8}, {"alpha_e"}),
        ("sl_scratch", {"alpha_e": 0.8, "lr": 1e-4}, {}, {"alpha_e", "lr"}),
        ("sl_scratch", {"weights": {"emotion": 0.5, "gender": 0.5}}, {}, {"weights"}),
        ("sl_scratch", {}, {"seed": 2, "validation": "test"}, {"seed", "validation"}),
        ("ravdess_cross_entropy", {"classes": ["ang", "sad"]}, {}, {"classes"}),
        ("ravdess_cross_entropy", {"merge_calm": True}, {}, {"merge_calm"}),
        ("ravdess_cross_entropy", {}, {"classes": ["ang", "sad"]}, {"classes"}),
        ("ravdess_scratch", {}, {"merge_calm": True, "alpha_e": 1.0}, {"merge_calm", "alpha_e"}),
    ],
)
def test_roots_of_the_experiments(hparams, before, now, expected):
    path = ROOT / "hparams" / f"{hparams}.yaml"

    def resolve(given):
        try:
            return read_settings(path, completed(path, {**now, **given}))
        except ExperimentError:
            return {}

    was, found = read_settings(path, completed(path, before)), resolve({})
    differing = {key for key in was if was[key] != found[key]}
    assert expected < differing
    objects = {key for key in differing if is_object(was[key])}
    found = roots(differing, was, lambda given: {} if objects & given.keys() else resolve(given))
    assert found == expected


def test_what_follows_from_another_manifest_is_not_told():
    before = {"manifest": "a", "number_of_folds": 3, "precision": "fp32"}
    assert roots(before, before, lambda given: {}) == {"manifest", "precision"}


def test_of_a_mapping_what_differs_is_told():
    was = {"!new:a.B": {"words": {"ang": "angry", "sad": "sad"}, "only": None}}
    now = {"!new:a.B": {"words": {"ang": "mad", "sad": "sad"}, "only": None}}
    assert spelled_out("prompts", was, now) == "prompts[words][ang] (was 'angry', now 'mad')"
    assert spelled_out("x", {"a": 1}, {"b": 1}) == "x (was {'a': 1}, now {'b': 1})"
    assert spelled_out("x", {"!new:a.B": {"a": 1}}, {"!new:a.C": {"a": 1}}) == (
        "x (was '!new:a.B', now '!new:a.C')"
    )
    assert len(spelled_out("x", {"a": "a" * 1000}, ["b"] * 1000)) < 200
    assert spelled_out("x", "a" * 100, 1) == f"x (was '{'a' * 100}', now 1)"
