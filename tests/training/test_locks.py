"""One run at a time in a folder, and the dead hold nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from filelock import FileLock

from gemoclap_sb.training import cross_validation
from gemoclap_sb.training.experiment import main
from gemoclap_sb.training.locks import LOCK, lock_folder
from gemoclap_sb.training.settings import ExperimentError
from tests.run_folders import ROOT, own_manifests, tiny_run


def test_second_is_refused_until_the_first_has_ended(tmp_path):
    first = lock_folder(tmp_path / "run")
    with pytest.raises(ExperimentError, match="another run is at work there. Wait for its end"):
        lock_folder(tmp_path / "run")
    first.release()
    lock_folder(tmp_path / "run").release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.slow
def test_killed_process_holds_nothing(tmp_path):
    code = f"from gemoclap_sb.training.locks import lock_folder as l; x = l({str(tmp_path)!r})"
    wait = "; print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ExperimentError, match="another run"):
        lock_folder(tmp_path)
    holder.kill()
    holder.communicate()
    lock_folder(tmp_path).release()


def test_run_in_a_folder_at_work_touches_nothing(small_manifests, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / LOCK):
        assert main(None, own_manifests(small_manifests, folder)) == 2
        assert [path.name for path in folder.iterdir()] == [LOCK]
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: {folder}: another run is at work there") and said.count("\n") == 1
    )


def test_refused_run_lets_others_in(small_manifests, tmp_path):
    command = own_manifests(small_manifests, tmp_path / "run", "--test_only")
    assert main(None, command) == 2
    lock_folder(tmp_path / "run").release()


def test_cross_validation_has_its_folder_to_itself(small_corpus, tmp_path, monkeypatch, capsys):
    """While its folds run, a second one is refused; afterwards nothing is held."""
    root, argv = tmp_path / "cv", tiny_run(tmp_path / "cv", data_folder=small_corpus)
    seen = []

    def run_folds(folds, jobs):
        if not seen:
            seen.append([fold.number for fold in folds])
            assert cross_validation.main(ROOT / "train.py", argv) == 2
        return {"": 1}

    monkeypatch.setattr(cross_validation, "run_folds", run_folds)
    assert cross_validation.main(ROOT / "train.py", argv) == 1
    assert seen == [[1, 2]]
    assert f"{root}: another run is at work there" in capsys.readouterr().err
    lock_folder(root).release()


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExperimentError, match="--output_folder: "):
        lock_folder(tmp_path / "file" / "run")
