"""Every key of every experiment stands in the table, and refuses what it cannot be."""

from __future__ import annotations

import math
from datetime import date

import pytest

from gemoclap_sb.training.keys import KEYS, check_keys
from gemoclap_sb.training.settings import ExperimentError, is_object, read_settings
from tests.run_folders import ROOT

EXPERIMENTS = sorted((ROOT / "hparams").glob("*.yaml"))
# The first that a key does not take is what the test below asks of it.
WRONG = [-1, 0.5, "no", None, True, [], [0], math.nan, {"a": "b"}]


def plain(path) -> dict:
    return {key: value for key, value in read_settings(path).items() if not is_object(value)}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_key_stands_in_the_table_and_the_files_are_right(path):
    settings = plain(path)
    assert set(settings) - set(KEYS) == set()
    check_keys(settings, str(path))


@pytest.mark.parametrize("key", sorted(set().union(*map(plain, EXPERIMENTS))))
def test_every_key_refuses_something_in_one_line(key):
    refused = []
    for value in WRONG:
        try:
            check_keys({key: value}, "x.yaml", {key: value})
        except ExperimentError as error:
            refused.append(str(error))
    assert refused
    for message in refused:
        assert message.startswith(f"--{key}: expected ") and "found " in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("freeze_audio", "no"),
        ("skip_bad_audio", "no"),
        ("skip_bad_audio", 1),
        ("learn_logit_scale", "yes"),
        ("batch_size", 0),
        ("batch_size", "x"),
        ("batch_size", 8.0),
        ("batch_size", True),
        ("seed", -1),
        ("seed", 2**32),
        ("random_speed", "foo"),
        ("lr_schedule", "foo"),
        ("history", 3),
        ("time_mask_ms", 1e30),
        ("mixup", 1e30),
        ("crop_seconds", 1e-4),
        ("lr", 1e30),
        ("alpha_e", "abc"),
        ("alpha_e", 1.5),
        ("alpha_e", math.nan),
        ("hop_ms", 0),
        ("pool_batches", 0),
        ("number_of_epochs", -1),
        ("fold", 0),
        ("lr", math.inf),
        ("lr", "1e-4x"),
        ("warmup", 1.0),
        ("tta_speeds", [88, "fast"]),
        ("tta_speeds", 100),
        ("speeds", []),
        ("speeds", [10]),
        ("channels", [16, 0]),
        ("strides", [True, 3]),
        ("classes", "ang,sad"),
        ("classes", ["ang"]),
        ("layers", 0),
        ("layers", "first"),
        ("similarity", "crosss"),
        ("weights", {"emotion": "much"}),
        ("crop_seconds", 0),
        ("valid_speakers", 0),
        ("valid_speakers", "anna"),
        ("experiment", 2024),
        ("experiment", date(2024, 1, 1)),
        ("output_folder", None),
        ("wav_augment", True),
        ("select_by", ["uar"]),
        ("objective", "EmoCLAP"),
        ("modules", 3),
    ],
)
def test_wrong_values(key, value):
    with pytest.raises(ExperimentError, match=rf"^x.yaml: {key}: expected .*found [^\n]*\.$"):
        check_keys({key: value}, "x.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha_e", 1),
        ("crop_seconds", None),
        ("tta_speeds", None),
        ("valid_speakers", ["anna"]),
        ("valid_speakers", [1, 4]),
        ("layers", 3),
        ("data_folder", ""),
        ("wav_augment", {"!new:speechbrain.augment.augmenter.Augmenter": {}}),
        ("my_own_key", "whatever"),
        ("my_own_key", -1),
    ],
)
def test_right_values(key, value):
    check_keys({key: value}, "x.yaml")


def test_all_that_is_wrong_is_said_at_once_and_shortly():
    settings = {"seed": -1, "batch_size": 0, "data_folder": ["\x1b[31m" * 100]}
    with pytest.raises(ExperimentError) as raised:
        check_keys(settings, "x.yaml", {"seed": -1})
    message = str(raised.value)
    assert message.count("expected") == 3 and "--seed" in message and len(message) < 400
    assert message.isprintable()


def test_what_refers_to_a_wrong_key_is_not_told():
    settings, references = {"seed": -1, "fold": 0}, {"fold": {"seed"}}
    with pytest.raises(ExperimentError, match=r"^x.yaml: seed: [^;]*$"):
        check_keys(settings, "x.yaml", {}, references)
    with pytest.raises(ExperimentError, match=r"^x.yaml: seed: .*; x.yaml: fold: "):
        check_keys(settings, "x.yaml", {}, {**references, "seed": {"fold"}})
