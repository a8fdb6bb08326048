"""A run is not mixed with another."""

from __future__ import annotations

import hashlib
import json

import pytest
import speechbrain as sb

from gemoclap_sb.training.run_folder import bind_data, check_settings, learning_options
from gemoclap_sb.training.settings import ExperimentError, read_settings

YAML = """
seed: 1
alpha_e: 0.9
number_of_epochs: 3
weights:
    emotion: !ref <alpha_e>
    gender: !ref 1 - <alpha_e>
output_folder: !ref results/<seed>
model: !new:does.not.Exist
    seed: !ref <seed>
prompts: !new:does.not.Exist
    templates: ["so {}"]
"""


@pytest.fixture
def hparams(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


def begin(folder, settings):
    """A run that has trained for an epoch."""
    check_settings(folder, settings)
    (folder / "save/CKPT+1").mkdir(parents=True)


def test_other_settings_are_refused_and_named(hparams, tmp_path):
    folder = tmp_path / "run"
    begin(folder, read_settings(hparams))
    check_settings(folder, read_settings(hparams))
    with pytest.raises(ExperimentError, match=r"alpha_e \(was 0.9, now 0.8\)"):
        check_settings(folder, read_settings(hparams, "alpha_e: 0.8"))
    with pytest.raises(ExperimentError, match="prompts"):
        hparams.write_text(YAML.replace("so {}", "very {}"))
        check_settings(folder, read_settings(hparams))


def test_of_other_settings_only_those_are_told_that_others_follow_from(hparams, tmp_path):
    def resolve(given):
        return read_settings(hparams, {"alpha_e": 0.8, **given})

    begin(tmp_path, read_settings(hparams))
    with pytest.raises(ExperimentError) as raised:
        check_settings(tmp_path, resolve({}), resolve=resolve)
    assert "settings: alpha_e (was 0.9, now 0.8). Give" in str(raised.value)
    hparams.write_text(YAML.replace("so {}", "very {}"))
    with pytest.raises(ExperimentError) as raised:
        check_settings(tmp_path, resolve({}), resolve=resolve)
    assert "alpha_e (was 0.9, now 0.8); prompts[templates] (was ['so {}" in str(raised.value)


def test_longer_training_elsewhere_is_the_same_run(hparams, tmp_path):
    folder = tmp_path / "run"
    begin(folder, read_settings(hparams))
    longer = read_settings(hparams, "number_of_epochs: 9\noutput_folder: moved")
    check_settings(folder, longer)
    # A finished run of three epochs is not one of nine.
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ExperimentError, match=r"number_of_epochs \(was 3, now 9\)"):
        check_settings(folder, longer)


def test_how_fast_a_run_is_is_no_setting_of_it(hparams, tmp_path):
    hparams.write_text(YAML + "cache_gib: 2.0\nnum_workers: 0\n")
    begin(tmp_path / "run", read_settings(hparams))
    check_settings(tmp_path / "run", read_settings(hparams, "cache_gib: 0\nnum_workers: 2"))


def test_schedule_over_the_epochs_fixes_their_number(hparams, tmp_path):
    hparams.write_text(YAML + "lr_schedule: !new:does.not.Exist\n")
    begin(tmp_path / "run", read_settings(hparams))
    with pytest.raises(ExperimentError, match="number_of_epochs"):
        check_settings(tmp_path / "run", read_settings(hparams, "number_of_epochs: 9"))


def test_start_that_trained_nothing_binds_nobody(hparams, tmp_path):
    folder = tmp_path / "run"
    check_settings(folder, read_settings(hparams))
    check_settings(folder, read_settings(hparams, "alpha_e: 0.8"))
    (folder / "save/CKPT+1").mkdir(parents=True)
    with pytest.raises(ExperimentError, match=r"alpha_e \(was 0.8, now 0.9\)"):
        check_settings(folder, read_settings(hparams))


@pytest.mark.parametrize("key", ["data_folder", "nemo_folder"])
def test_another_corpus_is_another_run(hparams, tmp_path, monkeypatch, key):
    hparams.write_text(YAML + f"{key}: corpus\nprepare_options:\n    {key}: !ref <{key}>\n")
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "run", read_settings(hparams))
    # The same folder under another spelling is the same.
    check_settings(tmp_path / "run", read_settings(hparams, f"{key}: {tmp_path}/corpus"))
    with pytest.raises(ExperimentError, match=key):
        check_settings(tmp_path / "run", read_settings(hparams, f"{key}: other"))


def test_manifest_is_its_content(hparams, tmp_path):
    (tmp_path / "a.csv").write_text("ID\na\n")
    hparams.write_text(YAML + "manifest: ''\nfold_column: session\nwords: null\n")
    folder, given = tmp_path / "run", {"manifest": str(tmp_path / "a.csv"), "words": "a.yaml"}
    begin(folder, read_settings(hparams, given))
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "moved/a.csv")
    given = {"manifest": str(tmp_path / "moved/a.csv"), "words": "b.yaml"}
    check_settings(folder, read_settings(hparams, given))
    with pytest.raises(ExperimentError, match=r"fold_column \(was 'session', now 'spk_id'\)"):
        check_settings(folder, read_settings(hparams, {**given, "fold_column": "spk_id"}))
    (tmp_path / "moved/a.csv").write_text("ID\nb\n")
    with pytest.raises(ExperimentError, match=r"manifest \(was 'SHA-256 of its rows"):
        check_settings(folder, read_settings(hparams, given))


def test_run_begun_before_manifests_had_folds_goes_on(hparams, tmp_path):
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(YAML + "manifest: ''\nfold_column: session\nwords: null\n")
    check_settings(tmp_path / "run", read_settings(hparams))


def test_templates_stand_in_the_prompts_alone(hparams, tmp_path):
    """So that a run begun before the key goes on."""
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(hparams.read_text() + "emotion_templates: ['so {}']\n")
    check_settings(tmp_path / "run", read_settings(hparams))


DATA = {split: {"rows": 3, "sha256": split} for split in ("train", "valid", "test")}


def begin_bound(folder, settings, options):
    """A run that has trained for an epoch, on data that it knows."""
    bind_data(folder, check_settings(folder, settings, options), DATA)
    (folder / "save/CKPT+1").mkdir(parents=True)


def test_data_are_bound_by_content_not_by_place(hparams, tmp_path):
    hparams.write_text(
        YAML + "data_folder: /a\ntrain_csv: /a/train.csv\nopts: {nemo_folder: !ref <data_folder>}\n"
    )
    folder = tmp_path / "run"
    begin_bound(folder, read_settings(hparams), {"processes": 1})
    moved = read_settings(hparams, "data_folder: /b\ntrain_csv: /b/train.csv")
    bind_data(folder, check_settings(folder, moved, {"processes": 1}), DATA)
    assert json.loads((folder / "settings.json").read_text())["train_csv"] == "/b/train.csv"
    for split, other, told in (
        ("valid", {"rows": 3, "sha256": "x"}, r"valid \(the cells of its rows"),
        ("test", {"rows": 2, "sha256": "x"}, r"test \(had 3 rows, now 2\)"),
    ):
        before = (folder / "settings.json").read_bytes()
        with pytest.raises(ExperimentError, match=f"begun on other data: {told}"):
            bind_data(folder, moved, {**DATA, split: other})
        assert (folder / "settings.json").read_bytes() == before
    # Three manifests are another way to split than a preparation.
    with pytest.raises(ExperimentError, match="train_csv"):
        check_settings(folder, read_settings(hparams, "train_csv: ''"))


def options_of(*argv):
    return learning_options(sb.parse_arguments(["x.yaml", *argv])[1], {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"processes": 1, **options_of("--grad_accumulation_factor", "2")}, "processes .was 2, n"),
        ({"processes": 2, **options_of()}, r"grad_accumulation_factor \(was 2, now None\)"),
        (
            {"processes": 2, **options_of("--bfloat16_mix_prec", "--grad_accumulation_factor=2")},
            r"precision \(was 'fp32', now 'bf16'\)",
        ),
    ],
)
def test_processes_and_precision_are_bound_too(options, told, hparams, tmp_path):
    settings = read_settings(hparams)
    first = {"processes": 2, **options_of("--grad_accumulation_factor", "2")}
    begin_bound(tmp_path, settings, first)
    check_settings(tmp_path, settings, first)
    # A cross-validation looks at settings alone.
    check_settings(tmp_path, settings)
    with pytest.raises(ExperimentError, match=told):
        check_settings(tmp_path, settings, options)


def test_run_begun_before_data_were_bound_goes_on_and_is_bound_then(hparams, tmp_path):
    hparams.write_text(YAML + "data_folder: /a\n")
    begin(tmp_path, read_settings(hparams))
    with pytest.raises(ExperimentError, match="data_folder"):
        check_settings(tmp_path, read_settings(hparams, "data_folder: /b"), {"processes": 2})
    kept = check_settings(tmp_path, read_settings(hparams), {"processes": 2})
    bind_data(tmp_path, kept, DATA)
    with pytest.raises(ExperimentError, match=r"processes \(was 2, now 1\)"):
        check_settings(tmp_path, read_settings(hparams), {"processes": 1})
    with pytest.raises(ExperimentError, match="other data"):
        bind_data(tmp_path, kept, {**DATA, "train": {"rows": 1, "sha256": ""}})


def test_run_finished_before_data_were_bound_does_not_claim_any(hparams, tmp_path):
    begin(tmp_path, read_settings(hparams))
    (tmp_path / "metrics.json").write_text("{}")
    before = (tmp_path / "settings.json").read_text()
    bind_data(tmp_path, check_settings(tmp_path, read_settings(hparams)), DATA)
    assert (tmp_path / "settings.json").read_text() == before


def test_run_that_was_made_longer_is_known_by_its_new_length(hparams, tmp_path):
    begin_bound(tmp_path, read_settings(hparams), {})
    longer = read_settings(hparams, "number_of_epochs: 9")
    bind_data(tmp_path, check_settings(tmp_path, longer), DATA)
    (tmp_path / "metrics.json").write_text("{}")
    check_settings(tmp_path, longer)
    with pytest.raises(ExperimentError, match=r"number_of_epochs \(was 9, now 3\)"):
        check_settings(tmp_path, read_settings(hparams))


def test_damaged_settings_are_named(hparams, tmp_path):
    begin(tmp_path, read_settings(hparams))
    (tmp_path / "settings.json").write_text('{"seed": ')
    with pytest.raises(ExperimentError, match="settings.json is damaged"):
        check_settings(tmp_path, read_settings(hparams))


def test_manifest_recorded_by_its_bytes_goes_on(hparams, tmp_path):
    """As runs did before data were bound."""
    (tmp_path / "a.csv").write_text("ID,wav\na,a.wav\n")
    hparams.write_text(YAML + "manifest: ''\n")
    settings = read_settings(hparams, {"manifest": str(tmp_path / "a.csv")})
    begin(tmp_path / "run", settings)
    recorded = tmp_path / "run/settings.json"
    digest = hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()[:12]
    then = {**json.loads(recorded.read_text()), "manifest": f"a.csv, SHA-256 {digest}"}
    recorded.write_text(json.dumps(then))
    check_settings(tmp_path / "run", settings)
    (tmp_path / "a.csv").write_text("ID,wav\nb,a.wav\n")
    with pytest.raises(ExperimentError, match="manifest"):
        check_settings(tmp_path / "run", settings)


def test_pretrainer_is_the_files_that_it_loads(hparams, tmp_path, monkeypatch):
    pretrainer = """
pretrainer: !new:does.not.Exist
    collect_in: !ref <output_folder>/here
    loadables: {clap: !ref <model>}
    paths: {clap: %s}
"""
    monkeypatch.chdir(tmp_path)
    for name in ("clap.ckpt", "other.ckpt"):
        (tmp_path / name).touch()
    hparams.write_text(YAML + pretrainer % "clap.ckpt")
    begin(tmp_path / "run", read_settings(hparams))
    hparams.write_text(YAML + pretrainer % (tmp_path / "clap.ckpt"))
    check_settings(tmp_path / "run", read_settings(hparams, "output_folder: moved"))
    hparams.write_text(YAML + pretrainer % "other.ckpt")
    with pytest.raises(ExperimentError, match=r"pretrainer\[clap\] \(was .*clap.ckpt.*other.ckpt"):
        check_settings(tmp_path / "run", read_settings(hparams))


def test_labels_may_be_numbers(hparams, tmp_path):
    hparams.write_text(YAML + "words: {0: low, 1: high}\n")
    begin(tmp_path / "run", read_settings(hparams))
    check_settings(tmp_path / "run", read_settings(hparams))
