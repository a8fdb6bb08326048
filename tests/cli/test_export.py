"""`gemoclap export`: the folder and the upload."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import gemoclap_sb.export.hub
from tests.run_folders import LABELS, make_run, telling_model


def test_export_gives_a_folder_that_loads(run, model, audio, tmp_path, command):
    target = tmp_path / "out"
    arguments = ["export", run, target, "--license", "cc-by-4.0", "--datasets", "demo"]
    status, out, _ = command(*arguments)
    assert (status, out) == (0, f"{target}\n")
    assert "license: cc-by-4.0" in (target / "README.md").read_text()
    first = command("classify", audio, "--model", target)
    assert first == command("classify", audio, "--model", model)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert "exists" in err
    assert command(*arguments, "--overwrite")[0] == 0


def test_export_uploads_when_asked(run, tmp_path, command, monkeypatch):
    calls = []

    def upload(folder, repo, *, private):
        calls.append((Path(folder).name, repo, private))
        if private:
            raise OSError("no network")
        return f"https://hub/{repo}"

    monkeypatch.setattr(gemoclap_sb.export.hub, "push_to_hub", upload)
    arguments = ["export", run, tmp_path / "out", "--overwrite", "--push-to-hub", "me/model"]
    status, out, _ = command(*arguments)
    assert (status, out) == (0, f"{tmp_path / 'out'}\nhttps://hub/me/model\n")
    status, out, err = command(*arguments, "--private")
    assert (status, out) == (1, f"{tmp_path / 'out'}\n")
    assert "was not uploaded: no network" in err
    assert calls == [("out", "me/model", False), ("out", "me/model", True)]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Three runs that differ by their seed, and where their average goes."""
    folder = tmp_path_factory.mktemp("seeds")
    runs = [make_run(folder / f"seed_{i}", telling_model(seed=i)) for i in range(3)]
    return runs, folder / "averaged"


def test_several_runs_become_one_model_for_every_command(averaged, audio, tmp_path, command):
    runs, target = averaged
    assert command("export", *runs, target)[:2] == (0, f"{target}\n")
    status, out, _ = command("info", target, "--format", "json")
    found = json.loads(out)
    one = sum(parameter.numel() for parameter in telling_model().parameters())
    assert (status, sum(found["parameters"].values())) == (0, 3 * one)
    assert (found["embedding_size"], len(found["runs"]), found["metrics"]) == (72, 3, None)
    status, out, _ = command("info", target)
    assert status == 0
    assert "The average of 3 models" in out
    assert "| demo | 2 | 7 | 6 | 83.33 % | 91.67 % |" in out

    status, out, _ = command("classify", audio, "--model", target, "--format", "csv")
    answers = {row["path"]: row["label"] for row in csv.DictReader(out.splitlines())}
    assert (status, len(answers)) == (0, 3)
    assert command("embed", audio, "--model", target, "--output", tmp_path / "e.npy")[0] == 0
    recording = next(iter(answers))
    arguments = ["timeline", recording, "--model", target, "--output", tmp_path / "t.png"]
    assert command(*arguments)[0] == 0

    manifest = tmp_path / "manifest.csv"
    with manifest.open("w", newline="") as file:
        rows = [[f"u{i}", *pair, f"s{i}"] for i, pair in enumerate(answers.items())]
        csv.writer(file).writerows([["ID", "wav", "emotion", "spk_id"], *rows])
    status, out, _ = command("evaluate", manifest, "--model", target, "--format", "json")
    found = json.loads(out)
    assert (status, found["war"], found["n_test"]) == (0, 1.0, 3)
    assert found["labels"] == LABELS


def test_runs_alone_are_not_written_over(averaged, command):
    """Whoever forgets where to write names a run there."""
    runs, _ = averaged
    status, out, err = command("export", *runs)
    assert (status, out) == (2, "")
    assert f"{runs[-1]} exists and is not an export" in err
    assert "Name another folder to write; on the command line it is the last one." in err
    assert (runs[-1] / "save").is_dir()


def test_a_run_given_twice_is_a_usage_error(averaged, tmp_path, command):
    runs, _ = averaged
    status, _, err = command("export", runs[0], runs[0], tmp_path / "out")
    assert status == 2
    assert "hold the same model" in err
    assert not (tmp_path / "out").exists()
