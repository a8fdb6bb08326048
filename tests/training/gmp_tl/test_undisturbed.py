"""What changes nothing in a run: a kill, a second process, and what the test session holds."""

from __future__ import annotations

import os
import signal

import numpy as np
import pandas
import pytest
import soundfile
import torch

from gemoclap_sb.data.label_store import read_labels
from gemoclap_sb.data.manifests import read_cells
from gemoclap_sb.training import gmp_tl
from gemoclap_sb.training.gmp_tl import main
from tests.process_groups import CONTEXT, run_group
from tests.training.gmp_tl.runs import RESULTS, command, contents, run


def test_nothing_is_learnt_from_the_test_session(data, whole, tmp_path):
    """Another test session, of noise, with other labels and speakers: the same weights, labels."""
    draw = np.random.default_rng(0)
    table = pandas.read_csv(data["test_csv"], dtype=str)
    for row in table.index:
        path = tmp_path / f"{table.loc[row, 'ID']}.wav"
        soundfile.write(path, draw.normal(0, 0.3, 12000), 16000)
        table.loc[row, "wav"] = str(path)
    others = {"ang": "sad", "sad": "neu", "neu": "hap", "hap": "ang", "F": "M", "M": "F"}
    table = table.replace({"emotion": others, "gender": others})
    table["spk_id"] = [f"another {row % 7}" for row in table.index]
    table["duration"] = 0.75
    table.to_csv(tmp_path / "test.csv", index=False)
    folder = tmp_path / "fold_1"
    assert run(folder, {**data, "test_csv": tmp_path / "test.csv"}) == 0
    for name in ("audio_encoder.ckpt", "stage.json"):
        for stage in ("warm_up", "stage_one"):
            if name.endswith(".json"):
                assert (folder / stage / name).read_bytes() == (whole / stage / name).read_bytes()
            else:
                one, other = (
                    torch.load(of / stage / name, weights_only=True) for of in (folder, whole)
                )
                assert all(torch.equal(one[key], other[key]) for key in other)
    for name in ("labels.npy", "labels.json", "centroids.safetensors"):
        labels = [(of / "pseudo_labels" / name).read_bytes() for of in (folder, whole)]
        assert labels[0] == labels[1]
    # The mark is there: the test hears it.
    assert contents(folder, ("predictions.csv",)) != contents(whole, ("predictions.csv",))
    store = read_labels(folder / "pseudo_labels")
    ids = {row["ID"] for row in read_cells(data["test_csv"], ("ID",))}
    assert not ids & store.spans.keys()


# Killed at any moment

KILLS = [
    ("AtomicCheckpointer", "save_and_keep_only", 2),
    ("frame_features", "atomic_path", 2),
    ("pseudo_labels", "write_labels", 1),
    ("FrameBrain", "fit_batch", 6),
    ("gmp_tl", "write_json", 1),
    ("GEmoCLAPBrain", "fit_batch", 6),
]


def killed_at(place: str, name: str, number: int, argv: list[str]) -> None:
    """Run all stages, and be killed when something is called for the how manieth time."""
    from gemoclap_sb.training import frame_features, pseudo_labels

    torch.set_num_threads(1)
    modules = {of.__name__.rpartition(".")[2]: of for of in (gmp_tl, frame_features, pseudo_labels)}
    owner = modules[place] if place in modules else getattr(gmp_tl, place)
    original, calls = getattr(owner, name), [0]

    def killing(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, killing)
    main(None, argv)


@pytest.mark.faults
@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_undisturbed(whole, data, tmp_path):
    folder = tmp_path / "fold_1"
    for place, name, number in KILLS:
        arguments = (place, name, number, command(folder, data))
        process = CONTEXT.Process(target=killed_at, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (place, name)
        assert not (folder / "metrics.json").exists()
    assert run(folder, data) == 0
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_two_processes_go_through_all_stages(data, tmp_path):
    epochs = dict.fromkeys(("warm_up_epochs", "stage_one_epochs", "number_of_epochs"), 1)
    argv = command(tmp_path / "run", data, batch_size=4, **epochs)
    ended = run_group(2, argv, tmp_path / "processes", main=main)
    assert ended.codes == [0, 0], ended.outputs
    # The main one alone tells.
    told = [output.count("warm_up: ") for output in ended.outputs]
    assert told == [1, 0]
    # What one process tests is what two have trained.
    before = contents(tmp_path / "run", RESULTS)
    assert main(None, [*argv, "--test_only"]) == 0
    assert contents(tmp_path / "run", RESULTS) == before
