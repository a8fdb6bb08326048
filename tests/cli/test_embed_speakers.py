"""`gemoclap embed` with a speaker encoder of SpeechBrain, and the commands that take none."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from gemoclap_sb.inference import SpeakerEncoder
from tests.cli.printed import names, one_line
from tests.run_folders import write_tones


@pytest.fixture(scope="module")
def speakers(speaker_folders) -> str:
    return str(speaker_folders["ecapa"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_tones(folder)
    rows = "".join(f"utterance {name},{name}.wav\n" for name in [*range(5), "none", *range(5, 10)])
    (folder / "all.csv").write_text(f"ID,wav\n{rows}")
    return folder / "all.csv"


def expected_of(speakers, paths) -> np.ndarray:
    encoder = SpeakerEncoder.from_pretrained(speakers, device="cpu")
    return np.stack([row.embedding.numpy() for row in encoder.encode_files(paths)])


def test_files_into_npy(speakers, audio, broken, tmp_path, command):
    output = tmp_path / "x.npy"
    status, out, err = command("embed", audio, broken, "--model", speakers, "--output", output)
    assert (status, out) == (1, "")
    assert "broken.wav" in err and "3 embeddings of size 12" in err
    found = np.load(output)
    np.testing.assert_allclose(found, expected_of(speakers, names(audio)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert pd.read_csv(output.with_name("x.ids.csv"))["ID"].tolist() == names(audio)


def test_a_manifest_in_shards_of_jobs_and_of_torchrun(
    speakers, manifest, speaker_folders, tmp_path, command, monkeypatch
):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    folder = tmp_path / "out"
    run = ["embed", manifest, "--model", speakers, "--output", folder, "--rows-per-part", 3]
    assert command(*run, "--shard", "1/2")[0] == 0
    assert len(list(folder.glob("part-*-of-00004.parquet"))) == 2
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        assert command(*run)[0] == 1
    status, _, err = command(*run)
    assert status == 1 and "Going on from 4 of 4 parts" in err
    frame = pd.read_parquet(folder)
    paths = [str(manifest.parent / f"{name.split()[1]}.wav") for name in frame["ID"]]
    assert len(paths) == 10
    found = np.stack(frame["embedding"])
    np.testing.assert_allclose(found, expected_of(speakers, paths), atol=1e-5)
    assert json.loads((folder / "__about__/embeddings.json").read_text())["attribute"] == ""

    other = [speaker_folders["xvector"] if given == speakers else given for given in run]
    status, _, err = command(*other)
    assert status == 2 and "expected embeddings of model" in one_line(err)


def test_its_embeddings_can_be_clustered(speakers, manifest, tmp_path, command):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = [f"{i},{i % 5}.wav,{'Ann' if i < 12 else 'Bob'}\n" for i in range(20)]
    given = manifest.with_name("spoken.csv")
    given.write_text("".join(["ID,wav,spk_id\n", *rows]))
    folder = tmp_path / "embeddings"
    assert command("embed", given, "--model", speakers, "--output", folder)[0] == 0
    run = ["cluster", given, "--embeddings", folder, "--output", tmp_path / "clusters"]
    status, _, err = command(*run)
    assert status == 0, err
    record = json.loads((tmp_path / "clusters" / "clusters.json").read_text())
    assert (record["speakers"], record["utterances"]) == (2, 20)
    assert record["embeddings"]["attribute"] == ""


def test_it_has_no_attributes(speakers, audio, manifest, tmp_path, command):
    for given, output in ((audio, "x.npy"), (manifest, "out")):
        run = ["embed", given, "--model", speakers, "--output", tmp_path / output]
        status, out, err = command(*run, "--attribute", "emotion")
        assert (status, out) == (2, "")
        assert "--attribute: " in one_line(err) and "is a speaker encoder" in err
        assert list(tmp_path.iterdir()) == []


def test_other_commands_say_what_it_is_for(speakers, model, audio, manifest, tmp_path, command):
    made = tmp_path / "x.npy"
    assert command("embed", audio, "--model", speakers, "--output", made)[0] == 0
    for given in (
        ["classify", audio, "--model", speakers],
        ["timeline", audio / "b.wav", "--model", speakers],
        ["evaluate", manifest, "--model", speakers],
        ["search", "so", made, "--model", speakers],
        ["info", speakers],
    ):
        status, out, err = command(*given)
        assert (status, out) == (2, "")
        assert "`gemoclap embed`" in one_line(err), given
    status, _, err = command("export", speakers, tmp_path / "exported")
    assert status == 2
    one_line(err)
    # As for any other model than the one that made them.
    assert "another model" in one_line(command("search", "so", made, "--model", model)[2])


def test_what_is_wrong_with_a_folder_is_one_line(speakers, audio, manifest, tmp_path, command):
    folder = shutil.copytree(speakers, tmp_path / "model")
    for given, output in ((audio, "x.npy"), (manifest, "out")):
        run = ["embed", given, "--model", folder, "--output", tmp_path / output]
        (folder / "embedding_model.ckpt").write_bytes(b"damaged")
        status, out, err = command(*run)
        assert (status, out) == (2, "")
        assert "embedding_model.ckpt: expected a state dict" in err.splitlines()[-1]
        (folder / "embedding_model.ckpt").unlink()
        status, _, err = command(*run)
        assert status == 2 and "no file" in one_line(err)
        shutil.copy(f"{speakers}/embedding_model.ckpt", folder)
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text() + "more: !apply:os.system [id]\n")
    status, _, err = command(*run)
    assert status == 2 and "!apply:os.system" in one_line(err)
