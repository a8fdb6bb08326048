"""Table 1 of IEMOCAP: the paper's rows, and the whole grid on small encoders."""

from __future__ import annotations

import re

import pandas
import pytest

from gemoclap_sb.files import read_json
from gemoclap_sb.training import experiment, grid, runs
from tests.conftest import SHARED, load_script
from tests.run_folders import ROOT, trained_here

RECIPE = ROOT / "recipes/IEMOCAP/gemoclap"


@pytest.fixture(scope="module")
def table1():
    return load_script(RECIPE / "table1.py")


def test_the_papers_rows_are_those_of_the_readme(table1):
    text = (RECIPE / "README.md").read_text()
    rows = text[text.index("## What the paper reports") :].splitlines()
    rows = [re.split(r" *\| *", row.strip("| ")) for row in rows if "-CLAP |" in row][:3]
    encoders = ("wavlm", "hubert", "wav2vec2", "data2vec")
    found = {
        (objective, encoder): tuple(map(float, figures.split(" / ")))
        for objective, row in zip(("emo", "ml", "sl"), rows, strict=True)
        for encoder, figures in zip(encoders, row[1:], strict=True)
    }
    assert found == table1.PAPER.scores
    assert table1.PAPER.scores["sl", "wavlm"] == (81.43, 83.16)


def test_the_papers_rows_are_those_of_the_shared_file(table1):
    path = SHARED / "data/paper_table1.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = {
        (row.objective, row.audio_encoder.removesuffix("-large")): (row.war, row.uar)
        for row in pandas.read_csv(path).itertuples()
    }
    assert found == table1.PAPER.scores


def test_every_cell_of_the_table_has_its_experiment(table1):
    table = table1.TABLE
    cells = {(o, e) for o in table.objectives for e in table.encoders}
    assert cells == set(table.published.scores)
    assert all((RECIPE / f"hparams/{o}_{e}.yaml").is_file() for o, e in cells)


@pytest.fixture
def options(small_encoders, small_corpus, tmp_path):
    """What every run of the small grid is given."""
    given = {
        "data_folder": small_corpus,
        "text_source": small_encoders["text"],
        "pretrained_folder": tmp_path / "pretrained",
        "number_of_folds": 2,
        "number_of_epochs": 1,
        "num_workers": 0,
        "device": "cpu",
    }
    return [part for key, value in given.items() for part in (f"--{key}", str(value))]


def finished(out):
    """When each result of the grid was written."""
    return {
        "/".join(path.parts[-4:-1]): path.stat().st_mtime_ns
        for path in out.glob("*/seed_1/fold_*/metrics.json")
    }


@pytest.mark.slow
def test_the_whole_grid(
    table1, options, small_encoders, iemocap_prepare, tmp_path, monkeypatch, capfd
):
    """Two objectives, two encoders, two folds; one cell fails, and all is there in the end."""
    monkeypatch.setattr(runs, "run_folds", trained_here(iemocap_prepare.prepare_iemocap))
    out = tmp_path / "out"
    folder = "{}/{}_{}/seed_1/fold_{}"
    argv = ["--output_folder", folder.format(out, "emo", "wavlm", 1), "--fold", "1"]
    argv += ["--audio_source", str(small_encoders["wavlm"]), *options]
    argv = [str(RECIPE / "hparams/emo_wavlm.yaml"), *argv]
    assert experiment.main(iemocap_prepare.prepare_iemocap, argv) == 0
    by_hand = finished(out)

    def run():
        sources = ",".join(f"{name}={small_encoders[name]}" for name in ("wavlm", "hubert"))
        given = ["--objectives", "emo,sl", "--encoders", "wavlm,hubert", "--seeds", "1"]
        given += ["--audio_source", sources, "--output_folder", str(out), *options]
        return grid.main(RECIPE / "train.py", table1.TABLE, given)

    # Nothing can be written where a fold's folder is a file.
    blocked = out / "sl_wavlm/seed_1/fold_2"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    assert run() == 1
    assert "1 of 4 runs failed: sl_wavlm, seed 1 (exit status 2)" in capfd.readouterr().err
    then = finished(out)
    assert len(then) == 7 and by_hand.items() <= then.items()
    rows = pandas.read_csv(out / "table1.csv").set_index(["objective", "encoder"])
    assert rows.folds_finished.to_dict() == {
        ("emo", "wavlm"): 2, ("emo", "hubert"): 2, ("sl", "wavlm"): 1, ("sl", "hubert"): 2,
    }  # fmt: skip
    assert rows.war_percent.isna().to_dict()["sl", "wavlm"]
    assert rows.war_percent.notna().sum() == 3

    blocked.unlink()
    assert run() == 0
    last = finished(out)
    assert last.keys() - then.keys() == {"sl_wavlm/seed_1/fold_2"}
    assert {name: last[name] for name in then} == then
    rows = pandas.read_csv(out / "table1.csv").set_index(["objective", "encoder"])
    for (objective, encoder), row in rows.iterrows():
        metrics = [
            read_json(folder.format(out, objective, encoder, fold) + "/metrics.json")
            for fold in (1, 2)
        ]
        for name, column in (("war", row.war_percent), ("uar", row.uar_percent)):
            assert column == pytest.approx(50 * sum(fold[name] for fold in metrics), abs=1e-4)
        summary = read_json(out / f"{objective}_{encoder}/seed_1/cv_metrics.json")
        assert row.war_std_percent == pytest.approx(100 * summary["std"]["war"], abs=1e-4)
        source = read_json(folder.format(out, objective, encoder, 2) + "/settings.json")
        assert source["audio_source"] == str(small_encoders[encoder])
    text = (out / "table1.md").read_text()
    assert "| SL-GEmo-CLAP − Emo-CLAP | WAR | 2 of 2 |" in text
    # The corpus is not the one of the paper, and the table says so.
    assert "expected 5531 utterances" in text
    assert (out / "table1.png").read_bytes().startswith(b"\x89PNG")
