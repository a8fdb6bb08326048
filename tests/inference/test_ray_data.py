"""What an actor that embeds does; `tests/cli/test_embed_manifest.py` has it work."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from gemoclap_sb.data.parts import cut_manifest
from gemoclap_sb.inference.loading import head_of
from gemoclap_sb.inference.ray_data import Worker, embed_with_ray
from gemoclap_sb.inference.ray_pool import Pool, PoolError
from gemoclap_sb.inference.shards import EmbeddingJob
from gemoclap_sb.models.digest import model_digest


@pytest.fixture
def job(exported, tones, tmp_path) -> EmbeddingJob:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = "".join(f"{path.stem},{path}\n" for path in [*tones[:3], Path("none.wav")])
    (tmp_path / "all.csv").write_text(f"ID,wav\n{rows}")
    model = exported["scratch"]
    manifest = cut_manifest(tmp_path / "all.csv", rows_per_part=2)
    job = EmbeddingJob(manifest, str(tmp_path / "out"), model_digest(model), head_of(model))
    job.open_folder()
    return job


def test_a_device_of_its_own_is_refused(job, exported):
    with pytest.raises(ValueError, match="device: expected cpu or cuda"):
        next(embed_with_ray(job, [0], exported["scratch"], "cuda:1"))


@pytest.mark.parametrize("address", ["", "192.0.2.1:6379"])
def test_a_ray_that_cannot_be_had_is_told(address, job, exported, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    asked = {}

    def init(**options):
        asked.update(options)
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL", "RAY_COLOR_PREFIX"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(PoolError, match="Ray .*nobody answers") as error:
        next(embed_with_ray(job, [0], exported["scratch"]))
    assert address in str(error.value)
    # Of an existing cluster nothing may be asked; one that happens to run here is not taken.
    assert ("object_store_memory" in asked) == (asked.get("address") == "local") == (not address)


def test_a_worker_embeds_parts(job, exported):
    worker = Worker(job, str(exported["scratch"]), Pool(1, 1))
    rows = [worker({"number": number}) for number in (0, 1)]
    assert [(row["number"], row["stopped"]) for row in rows] == [(0, ""), (1, "")]
    first, second = (json.loads(row["result"]) for row in rows)
    assert (first["part"], first["rows"], first["failures"]) == (0, 2, [])
    assert (second["part"], second["rows"]) == (1, 1)
    assert [failure["ID"] for failure in second["failures"]] == ["none"]
    assert pd.read_parquet(job.folder)["ID"].tolist() == ["0", "1", "2"]
    assert torch.get_num_threads() == 1


def test_a_worker_says_what_stops_the_work(job, exported):
    other = Worker(job, str(exported["pretrained"]), Pool(1, 1))
    assert "is not the model" in other({"number": 0})["stopped"]
    worker = Worker(job, str(exported["scratch"]), Pool(1, 1))
    Path(job.manifest.path).write_text("ID,wav\n")
    assert "has changed" in worker({"number": 0})["stopped"]
    assert list(Path(job.folder).glob("part-*")) == []


def test_what_ends_workers_again_and_again_ends_the_work(job, exported, monkeypatch):
    worker = Worker(job, str(exported["scratch"]), Pool(1, 1))

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("gemoclap_sb.inference.ray_data.embed_shard", killed)
        for _ in range(5):
            with pytest.raises(SystemExit):
                worker({"number": 0})
    assert "part-00000-of-00002 has ended 5 workers" in worker({"number": 0})["stopped"]
    assert worker({"number": 1})["stopped"] == ""
