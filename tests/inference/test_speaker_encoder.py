"""`SpeakerEncoder` against stock SpeechBrain on the same folder, an utterance at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F

from gemoclap_sb.data.audio import read_audio
from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.inference import SpeakerEncoder, bulk
from gemoclap_sb.inference.ray_data import Worker
from gemoclap_sb.inference.ray_pool import Pool
from gemoclap_sb.inference.shards import EmbeddingJob
from gemoclap_sb.inference.speaker_encoder import chosen_attribute, encoder_folder, load_encoder
from gemoclap_sb.models.digest import model_digest
from gemoclap_sb.models.errors import ConfigurationError
from tests.run_folders import write_tone
from tests.speaker_folders import save_ecapa, stock

KINDS = "ecapa", "xvector"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> list[Path]:
    """Of many lengths, each twice or once, in no order."""
    folder = tmp_path_factory.mktemp("recordings")
    seconds = [0.3, 2.0, 0.71, 0.3, 1.3, 2.0, 0.7001, 1.3, 0.11, 3.2]
    return [write_tone(folder / f"{i}.wav", s, 100 + 37 * i) for i, s in enumerate(seconds)]


@pytest.fixture(scope="module")
def encoders(speaker_folders) -> dict[str, SpeakerEncoder]:
    return {
        kind: SpeakerEncoder.from_pretrained(speaker_folders[kind], device="cpu") for kind in KINDS
    }


@pytest.fixture(scope="module")
def stocks(speaker_folders, tmp_path_factory) -> dict:
    return {kind: stock(speaker_folders[kind], tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def expected(stocks, recordings) -> dict[str, torch.Tensor]:
    """What stock SpeechBrain gives each alone; of x-vectors, to which it adds noise, the mean."""
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for kind, rate, times in (("ecapa", 16000, 1), ("xvector", 8000, 32)):
            wavs = [read_audio(path, rate)[None] for path in recordings]
            draws = [[stocks[kind].encode_batch(wav)[0, 0] for wav in wavs] for _ in range(times)]
            found[kind] = F.normalize(torch.stack([*map(torch.stack, draws)]), dim=-1).mean(dim=0)
    return found


def embedded(encoder: SpeakerEncoder, paths, **options) -> torch.Tensor:
    return torch.stack([row.embedding for row in encoder.encode_files(paths, **options)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_each_is_what_stock_speechbrain_gives_it_alone(
    kind, batch_size, encoders, expected, recordings
):
    encoder = encoders[kind]
    assert encoder.sample_rate == {"ecapa": 16000, "xvector": 8000}[kind]
    found = embedded(encoder, recordings, batch_size=batch_size)
    assert found.shape == (len(recordings), encoder.embedding_size)
    assert (found - expected[kind]).abs().max() < 1e-5


def test_stock_speechbrain_hears_the_padding(stocks, encoders, recordings):
    """Or batches of one length would be for nothing."""
    short, long = (read_audio(recordings[i], 16000) for i in (2, 1))
    wavs = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    lengths = torch.tensor([1.0, len(short) / len(long)])
    together = F.normalize(stocks["ecapa"].encode_batch(wavs, lengths)[1, 0], dim=0)
    alone = F.normalize(stocks["ecapa"].encode_batch(short[None])[0, 0], dim=0)
    assert (together - alone).abs().max() > 1e-3
    with pytest.raises(ValueError, match="one length"):
        encoders["ecapa"].tower(wavs, lengths)


def test_utterances_of_one_length_share_a_batch(encoders, recordings, monkeypatch):
    sizes = []
    original = bulk.embed_batch

    def counted(tower, batch, device):
        sizes.append([len(recording.wav) for recording in batch])
        return original(tower, batch, device)

    monkeypatch.setattr(bulk, "embed_batch", counted)
    embedded(encoders["ecapa"], recordings, workers=1)
    assert sorted(map(len, sizes)) == [1, 1, 1, 1, 2, 2, 2]
    assert all(len(set(lengths)) == 1 for lengths in sizes)


def test_what_is_random_in_x_vectors_is_not_here(encoders, stocks, recordings):
    first, second = (embedded(encoders["xvector"], recordings) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    wav = read_audio(recordings[1], 8000)[None]
    assert not torch.equal(stocks["xvector"].encode_batch(wav), stocks["xvector"].encode_batch(wav))


def test_a_long_recording_is_embedded_in_pieces(encoders, stocks, tmp_path):
    [vector] = embedded(encoders["ecapa"], [write_tone(tmp_path / "long.wav", 61.3, 90)])
    wav = read_audio(tmp_path / "long.wav", 16000)
    half = len(wav) // 2
    parts = [stocks["ecapa"].encode_batch(part[None])[0, 0] for part in (wav[:half], wav[half:])]
    expected = F.normalize(sum(F.normalize(part, dim=0) for part in parts), dim=0)
    assert (vector - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_recording_is_that_files_error(kind, encoders, tmp_path):
    encoder = encoders[kind]
    paths = []
    for samples in (1, 20, 20, 100, 4000):
        paths.append(tmp_path / f"{len(paths)}.wav")
        soundfile.write(paths[-1], np.sin(np.arange(samples) / 3), encoder.sample_rate)
    *short, last = encoder.encode_files(paths)
    assert last.error is None
    for path, row in zip(paths, short, strict=False):
        assert row.embedding is None
        assert f"{path}" in row.error and "too short for this model" in row.error
        assert "\n" not in row.error


def test_silence_and_what_cannot_be_read(encoders, recordings, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    paths = [tmp_path / "silence.wav", tmp_path / "none.wav", recordings[0]]
    silence, none, read = encoders["ecapa"].encode_files(paths)
    assert silence.embedding.isfinite().all() and "missing" in none.error
    assert read.error is None


def test_normalisation_over_a_batch_is_done_one_by_one(recordings, tmp_path):
    folder = save_ecapa(tmp_path / "model")
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text().replace("norm_type: sentence", "norm_type: batch"))
    found = embedded(SpeakerEncoder.from_pretrained(folder, device="cpu"), recordings[:6])
    expected = stock(folder, tmp_path / "saved")
    for name, vector in zip(recordings, found, strict=False):
        alone = expected.encode_batch(read_audio(name, 16000)[None])[0, 0]
        assert (vector - F.normalize(alone, dim=0)).abs().max() < 1e-5


def test_nothing_but_the_encoder_is_needed(speaker_folders, encoders, recordings, tmp_path):
    for name in ("hyperparams.yaml", "embedding_model.ckpt"):
        shutil.copy(speaker_folders["ecapa"] / name, tmp_path)
    found = embedded(load_encoder(tmp_path, "cpu"), recordings[:2])
    torch.testing.assert_close(found, embedded(encoders["ecapa"], recordings[:2]))


def test_a_hub_id_downloads_what_an_embedding_takes(speaker_folders, tmp_path, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    hub, here = speaker_folders["ecapa"], tmp_path / "snapshot"
    here.mkdir()
    asked = []

    def snapshot_download(repo_id, allow_patterns, **options):
        asked.append((repo_id, options))
        names = [path.name for path in hub.iterdir()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            shutil.copy(hub / name, here)
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    name = "speechbrain/spkrec-ecapa-voxceleb"
    encoder = SpeakerEncoder.from_pretrained(name, device="cpu", revision="v1")
    assert encoder.embedding_size == 12
    assert asked == [(name, {"revision": "v1"})] * 2
    # A model of this package has a classifier.ckpt, of safetensors, and it is looked for.
    assert {path.name for path in here.iterdir()} - {"classifier.ckpt"} == {
        "hyperparams.yaml",
        "embedding_model.ckpt",
    }


def test_a_hub_id_that_cannot_be_had():
    with pytest.raises(ConfigurationError, match="no model of that name can be had from the hub"):
        encoder_folder("speechbrain/spkrec-ecapa-voxceleb")


def test_heads_of_either_kind(speaker_folders, exported):
    assert chosen_attribute(exported["scratch"]) == "emotion"
    assert chosen_attribute(speaker_folders["ecapa"]) == ""
    for ask in (chosen_attribute, lambda of, name: load_encoder(of, "cpu", name)):
        with pytest.raises(ValueError, match="attribute: .* is a speaker encoder"):
            ask(speaker_folders["ecapa"], "emotion")


def test_weights_of_no_use_are_refused(speaker_folders, tmp_path):
    folder = shutil.copytree(speaker_folders["ecapa"], tmp_path / "model")
    state = torch.load(folder / "embedding_model.ckpt", weights_only=True)
    state["fc.conv.weight"].zero_(), state["fc.conv.bias"].zero_()
    torch.save(state, folder / "embedding_model.ckpt")
    with pytest.raises(ConfigurationError, match="for a tone"):
        SpeakerEncoder.from_pretrained(folder, device="cpu")


def test_a_worker_of_ray_embeds_parts(speaker_folders, encoders, recordings, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = "".join(f"{path.stem},{path}\n" for path in [*recordings[:3], Path("none.wav")])
    (tmp_path / "all.csv").write_text(f"ID,wav\n{rows}")
    folder = speaker_folders["ecapa"]
    manifest = cut_manifest(tmp_path / "all.csv", rows_per_part=2)
    job = EmbeddingJob(manifest, str(tmp_path / "out"), model_digest(folder), "")
    job.open_folder()
    worker = Worker(job, str(folder), Pool(1, 1))
    assert [json.loads(worker({"number": n})["result"])["rows"] for n in (0, 1)] == [2, 1]
    frame = pd.read_parquet(job.folder)
    expected = embedded(encoders["ecapa"], recordings[:3]).numpy()
    np.testing.assert_allclose(np.stack(frame["embedding"]), expected, atol=1e-5)
    other = Worker(job, str(speaker_folders["xvector"]), Pool(1, 1))
    assert "is not the model" in other({"number": 0})["stopped"]
