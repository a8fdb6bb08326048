"""From two corpora to the folder of the default model: its files, its card, and its figures."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemoclap_sb.evaluation.predictions import Predictions
from gemoclap_sb.files import write_json
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.training import cross_validation
from tests.conftest import load_script
from tests.recipes.corpora import ACROSS, write_corpora
from tests.run_folders import TINY, trained_here

prepare = load_script(ACROSS / "across_prepare.py")
load_script(ACROSS / "across_tables.py")
load_script(ACROSS / "across.py")
calibration = load_script(ACROSS / "across_calibration.py")
make_default = load_script(ACROSS / "make_default.py")

pytestmark = pytest.mark.slow
FIGURES = """\
trained_on,tested_on,classes,measure,mean_percent,std_percent,low_percent,high_percent,\
chance_percent,answered_percent,in_training,seeds_finished,seeds
RAVDESS,nEMO,all 6,uar,31.25,1.50,28.00,35.50,16.67,,,3,3
both,nEMO,all 6,recall_sad,45.00,,,,16.67,9.00,True,3,3
both,RAVDESS,all 8,war,,,,,,,,0,3
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The command line of a tiny training, and where everything is."""
    folder = tmp_path_factory.mktemp("default")
    corpora = write_corpora(folder / "corpora")
    small = {key: of for key, of in TINY.items() if key != "number_of_folds"}
    options = {**corpora, **small, "number_of_epochs": 1, "device": "cpu"}
    argv = [part for key, of in options.items() for part in (f"--{key}", str(of))]
    return folder, [*argv, "--output_folder", str(folder / "out")]


@pytest.fixture
def in_process(monkeypatch):
    """Folds run in this process, which has torch loaded; how many did is recorded."""
    ran = []
    train = trained_here(prepare.prepare_across)

    def run_folds(folds, jobs):
        ran.extend(fold.number for fold in folds)
        return train(folds, jobs)

    monkeypatch.setattr(cross_validation, "run_folds", run_folds)
    return ran


def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_folder_is_made_and_what_is_finished_is_not_done_again(given, in_process, tmp_path):
    folder, argv = given
    model = tmp_path / "model"
    argv = [*argv, "--model_folder", str(model), "--figures", str(tmp_path)]
    assert make_default.main(argv) == 0
    names = ["LICENSE", "README.md", "classifier.ckpt", "config.json", "model.safetensors"]
    assert sorted(path.name for path in model.iterdir()) == names
    assert len(GEmoCLAPClassifier.from_pretrained(model, device="cpu").labels) == 7
    assert "Not measured." in card(model)
    # 80 and 47 recordings, of which two speakers of each corpus are held out.
    record = json.loads((folder / "out/seed_1/fold_1/manifests/prepare.json").read_text())
    trained = record["counts"]["train"]["utterances"]
    assert f"{trained} recordings" in card(model) and trained in (127 - 28, 127 - 27)
    assert "calibrated on 4 speakers of these corpora only" in card(model)
    assert "lossy" not in card(model)
    assert str(folder) not in card(model)

    (tmp_path / "across.csv").write_text(FIGURES)
    settings = json.loads((folder / "out/seed_1/fold_1/settings.json").read_text())
    measured = {**settings, "protocol": "both", "fold": 2, "number_of_folds": 4, "seed": 3}
    # The same corpora may have lain elsewhere, which is nobody's business.
    measured |= {"ravdess_folder": "/elsewhere/RAVDESS", "data_folder": "/elsewhere/RAVDESS"}
    write_json(tmp_path / "both/seed_3/fold_2/settings.json", measured)
    transfer = {**measured, "protocol": "transfer", "number_of_folds": 2}
    write_json(tmp_path / "transfer/seed_3/fold_2/settings.json", transfer)
    assert make_default.main(argv) == 0
    assert in_process == [1]
    assert "| RAVDESS | nEMO | all 6 | UAR | 31.25 ± 1.50 | 28.00 to 35.50 | 16.67 |" in card(model)
    assert "45.00" not in card(model) and "| both |" not in card(model)
    assert "trained on both corpora were not measured" in card(model)
    assert "other settings" not in card(model)

    write_json(tmp_path / "both/seed_3/fold_2/settings.json", {**measured, "lr": 0.5})
    assert make_default.main(argv) == 0
    assert "measured with other settings than this model's: lr 0.5 (here 0.002)." in card(model)

    # The transfers give the temperature.
    write_json(tmp_path / "both/seed_3/fold_2/settings.json", measured)
    write_json(tmp_path / "transfer/seed_3/fold_2/settings.json", {**transfer, "dropout": 0.7})
    assert make_default.main(argv) == 0
    assert "other settings than this model's: dropout 0.7" in card(model)


def write_run(figures, fold, scores, scale, seed=1, protocol="transfer"):
    """A run of `across.py` whose class scores are known; who spoke does not matter."""
    generator = np.random.default_rng(seed)
    # Answers of which as many are right as `softmax(5 * scores)` promises.
    chances = softmax(5 * scores, axis=1)
    true = np.array([generator.choice(len(row), p=row) for row in chances])
    labels = [name for name in prepare.CLASSES if name in prepare.SHARED] + ["dis"]
    shown = softmax(scale * np.hstack([scores, np.full((len(scores), 1), 0.3)]), axis=1)
    names = [str(number) for number in range(len(scores))]
    run = figures / f"{protocol}/seed_{seed}/fold_{fold}"
    run.mkdir(parents=True)
    Predictions(names, true, scores.argmax(axis=1), shown, labels).write(run / "predictions.csv")
    record = {"validation": "speaker", "calibration": {"scale": scale}}
    write_json(run / "metrics.json", record)
    return true


def test_the_temperature_is_that_of_the_transfers(given, in_process, tmp_path):
    """Fitted on each by an optimizer of its own, whatever scale the runs had."""
    scores = {fold: np.random.default_rng(fold).uniform(-1, 1, (400, 6)) for fold in (1, 2)}
    true = {1: write_run(tmp_path, 1, scores[1], 20.0)}
    assert calibration.calibrate_across(tmp_path) is None
    true[2] = write_run(tmp_path, 2, scores[2], 2.0)

    def error(fold, scale):
        return log_loss(true[fold], softmax(scale * scores[fold], axis=1), labels=range(6))

    scales = np.geomspace(1, 25, 2000)
    best = {fold: scales[np.argmin([error(fold, scale) for scale in scales])] for fold in (1, 2)}
    found = calibration.calibrate_across(tmp_path)
    assert found.scale == pytest.approx((best[1] * best[2]) ** 0.5, rel=2e-3)
    # Too sure by its own temperature, not sure enough by its own, and about right by the other's.
    for own, of_other in found.errors.values():
        assert own > 0.15 > of_other + 0.05
    assert found.within is None

    _, argv = given
    model = tmp_path / "model"
    argv = [*argv, "--model_folder", str(model), "--figures", str(tmp_path)]
    assert make_default.main(argv) == 0
    calibrated = json.loads((model / "config.json").read_text())["calibration"]
    assert calibrated == {"emotion": pytest.approx(found.scale)}
    own, of_other = found.errors["nEMO"]
    assert f"{100 * of_other:.1f} % on nEMO ({100 * own:.1f} % with" in card(model)
    assert "unheard speakers of both" not in card(model)


def test_the_card_says_what_that_temperature_does_within_the_corpora(given, in_process, tmp_path):
    scores = np.random.default_rng(0).uniform(-1, 1, (400, 6))
    for fold in (1, 2):
        write_run(tmp_path, fold, scores, 1.0, seed=fold)
    # Surer than models are of another corpus, and rightly.
    true = write_run(tmp_path, 3, 4 * scores, 5.0, protocol="both")
    found = calibration.calibrate_across(tmp_path)
    own, with_it = found.within

    def confidence(scale):
        shown = scale * np.hstack([4 * scores, np.full((len(scores), 1), 0.3)])
        return softmax(shown, axis=1).max(axis=1)

    right = (scores.argmax(axis=1) == true).mean()
    sure = confidence(found.scale) >= 0.5
    share, of_these = found.answered["unheard speakers, by models of both"][4]
    assert 0.1 < share < 0.99 and share == pytest.approx(sure.mean())
    assert of_these == pytest.approx((scores.argmax(axis=1) == true)[sure].mean())
    # Both transfers ask for the same temperature.
    transferred = softmax(found.scale * scores, axis=1).max(axis=1) >= 0.5
    assert 0.1 < transferred.mean() < 0.9
    share_across = found.answered["nEMO, by models of RAVDESS"][4][0]
    assert share_across == pytest.approx(transferred.mean(), abs=0.01)
    # Where all bins err in one direction, their errors add up to that of the mean.
    assert right > confidence(5.0).mean() > confidence(found.scale).mean()
    assert with_it == pytest.approx(right - confidence(found.scale).mean(), abs=0.02)
    _, argv = given
    argv = [*argv, "--model_folder", str(tmp_path / "model"), "--figures", str(tmp_path)]
    assert make_default.main(argv) == 0
    said = f"{100 * with_it:.1f} % with it ({100 * own:.1f} % with their own)"
    assert said in card(tmp_path / "model")
    row = next(line for line in card(tmp_path / "model").splitlines() if line.startswith("| 0.5 |"))
    assert row.endswith(f"| {100 * share:.1f} ({100 * of_these:.1f} right) |")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"validation": "development", "calibration": {"scale": 2.0}}, "validation 'development'"),
        ({"validation": "speaker", "calibration": None}, "with a calibration"),
    ],
)
def test_a_run_that_is_no_test_gives_no_temperature(tmp_path, record, message):
    for fold in (1, 2):
        write_run(tmp_path, fold, np.zeros((20, 6)), 1.0)
    path = tmp_path / "transfer/seed_1/fold_2/metrics.json"
    write_json(path, record)
    with pytest.raises(ValueError, match=message) as raised:
        calibration.calibrate_across(tmp_path)
    assert str(path) in str(raised.value)


def test_models_of_several_seeds_are_averaged(given, in_process, tmp_path):
    folder, argv = given
    model = tmp_path / "model"
    assert make_default.main([*argv, "--seeds", "1,2", "--model_folder", str(model)]) == 0
    config = json.loads((model / "config.json").read_text())
    assert [run["seed"] for run in config["runs"]] == [1, 2]
    assert GEmoCLAPClassifier.from_pretrained(model, device="cpu").labels[0] == "neu"
    assert "2 models of other seeds, whose cosines are averaged" in card(model)
    manifests = [folder / f"out/seed_{seed}/fold_1/manifests/valid.csv" for seed in (1, 2)]
    held_out = {name for path in manifests for name in pandas.read_csv(path)["spk_id"]}
    assert f"on {len(held_out)} speakers of these corpora only" in card(model)


def test_a_damaged_transfer_is_named(given, in_process, tmp_path, capsys):
    _, argv = given
    for fold in (1, 2):
        write_run(tmp_path, fold, np.zeros((20, 6)), 1.0)
    (tmp_path / "transfer/seed_1/fold_2/predictions.csv").write_text("ID,true\n")
    argv = [*argv, "--model_folder", str(tmp_path / "model"), "--figures", str(tmp_path)]
    assert make_default.main(argv) == 2
    assert "fold_2/predictions.csv: expected the columns" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_too_large_is_refused(given, in_process, tmp_path, monkeypatch, capsys):
    _, argv = given
    monkeypatch.setattr(make_default, "MOST_BYTES", 1000)
    assert make_default.main([*argv, "--model_folder", str(tmp_path / "model")]) == 2
    assert "has at most 1,000. Train a smaller one." in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_model_is_not_replaced(given, in_process, tmp_path, capsys):
    _, argv = given
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/text.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        assert make_default.main([*argv, "--model_folder", str(tmp_path / name)]) == 2
        assert f"{name} exists and is no model" in capsys.readouterr().err
    assert (tmp_path / "thesis/text.tex").read_text() == "years of work"
    assert in_process == []
