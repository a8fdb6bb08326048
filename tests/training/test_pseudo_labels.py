"""Pseudo-labels of frames: recomputed by hand, resumed, and refused where they are stale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemoclap_sb.data.contents import rows_digest
from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.label_store import read_labels
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.lobes import ResNetEncoder
from gemoclap_sb.models import FrameClassifier
from gemoclap_sb.training import clustering, pseudo_labels
from gemoclap_sb.training.pseudo_labels import (
    CENTROIDS,
    FEATURES,
    LabelOptions,
    label_record,
    make_pseudo_labels,
    open_pseudo_labels,
)
from gemoclap_sb.training.settings import ExperimentError

OPTIONS = {
    "label_layers": [2],
    "clusters": [3, 7],
    "label_attributes": ["gender"],
    "kmeans_passes": 3,
    "block_seconds": 8.0,
    "seed": 1,
}


class Untouched(dict):
    """Rows that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"the test split was asked for {name}")


@pytest.fixture(scope="module")
def rows(small_manifests):
    found = {}
    for split in ("train", "valid"):
        path = small_manifests[f"{split}_csv"]
        every = list(read_manifest(path, small_manifests["data_root"]).items())
        found[split] = dict(every[:: max(1, len(every) // 12)])
    return found


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    encoder = ResNetEncoder(n_mels=16, channels=[4, 8], strides=[1, 2], output_size=8)
    return FrameClassifier(encoder, trim_db=40)


@pytest.fixture(scope="module")
def make(rows, model):
    encoders = label_encoders(["gender"], {}, rows.values())
    datasets = {split: build_dataset(of, {}) for split, of in rows.items()}
    contents = {split: {"sha256": rows_digest(of)} for split, of in rows.items()}

    def make(folder, record=None, **changes):
        options = LabelOptions(**OPTIONS | changes)
        record = label_record(options, model, contents) | (record or {})
        given = {**rows, "test": Untouched()}, {**datasets, "test": Untouched()}
        make_pseudo_labels(folder, model, *given, encoders, options, record)
        return open_pseudo_labels(folder, record)

    return make


@pytest.fixture(scope="module")
def store(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return folder, make(folder)


def recomputed(model, rows, centroids, name):
    """Clusters of an utterance, from its waveform alone, the distances written out."""
    dataset = build_dataset({name: rows[name]}, {})
    model.eval()
    with torch.no_grad():
        frames, _ = model.encode_layer_frames(dataset[0]["sig"][None], torch.ones(1), [2])
    frames = frames[0].numpy().astype(np.float64)
    squares = [((frames[:, None] - of[None]) ** 2).sum(axis=2) for of in centroids]
    return np.stack([of.argmin(axis=1) for of in squares], axis=1)


def test_labels_are_the_nearest_clusters_times_the_gender(store, rows, model):
    from safetensors.numpy import load_file

    folder, labels = store
    centroids = [load_file(folder / CENTROIDS)[str(scale)] for scale in range(2)]
    assert [len(of) for of in centroids] == [3, 7]
    assert list(labels.num_classes) == [6, 14]
    assert labels.spans.keys() == rows["train"].keys() | rows["valid"].keys()
    genders = set()
    for split in ("train", "valid"):
        for name, row in rows[split].items():
            clusters = recomputed(model, rows[split], centroids, name)
            # Sorted, the genders are F and M.
            gender = {"F": 0, "M": 1}[row["gender"]]
            genders.add(gender)
            assert np.array_equal(labels.of(name).numpy(), clusters * 2 + gender)
    assert genders == {0, 1}
    # Nothing remains but the store.
    assert not (folder / FEATURES).exists()


def test_without_attributes_a_label_is_a_cluster(store, make, tmp_path):
    plain = make(tmp_path, label_attributes=[])
    assert list(plain.num_classes) == [3, 7]
    _, with_gender = store
    for name in plain.spans:
        assert torch.equal(plain.of(name), with_gender.of(name) // 2)


def test_centroids_are_of_the_training_split_alone(store, make, rows, monkeypatch, tmp_path):
    seen = []

    def watched(read, num_blocks, *options):
        seen.extend(read(number) for number in range(num_blocks))
        return clustering.fit_clusters(read, num_blocks, *options)

    monkeypatch.setattr(pseudo_labels, "fit_clusters", watched)
    made = make(tmp_path)
    frames = sum(stop - start for name in rows["train"] for start, stop in [made.spans[name]])
    assert sum(map(len, seen)) == frames


def test_the_same_seed_gives_the_same_labels(store, make, tmp_path):
    folder, labels = store
    make(tmp_path / "again")
    for file in ("labels.npy", "labels.json", CENTROIDS):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    other = make(tmp_path / "other", seed=2)
    assert any(not torch.equal(other.of(name), labels.of(name)) for name in labels.spans)


@pytest.mark.parametrize("place", ["extract_frames", "fit_clusters", "write_labels"])
def test_what_was_interrupted_ends_as_what_was_not(store, make, monkeypatch, tmp_path, place):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pseudo_labels, place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert not (tmp_path / "labels.json").exists()
    monkeypatch.undo()
    make(tmp_path)
    folder, _ = store
    for file in ("labels.npy", "labels.json", CENTROIDS):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_what_is_fitted_is_not_fitted_again(make, monkeypatch, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pseudo_labels, "write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(pseudo_labels, "fit_clusters", interrupted)
    make(tmp_path)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"record": {"encoder": "another"}}, "another encoder"),
        ({"record": {"lobe": {"hop_ms": 8}}}, "another encoder"),
        ({"record": {"trim_db": None}}, "trim_db 40, now None"),
        ({"clusters": [3, 8]}, r"clusters \[3, 7\], now \[3, 8\]"),
        ({"seed": 2}, "seed 1, now 2"),
    ],
)
def test_stale_labels_are_refused(make, monkeypatch, tmp_path, begun, change, told):
    if begun:
        monkeypatch.setattr(pseudo_labels, "write_labels", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(tmp_path)
        monkeypatch.undo()
    else:
        make(tmp_path)
    with pytest.raises(ExperimentError, match=f"{told}.*Delete it and run --stage pseudo_labels"):
        make(tmp_path, **change)


def test_labels_of_other_rows_are_refused(store):
    folder, labels = store
    record = dict(labels.record) | {"rows": {"train": "of another manifest", "valid": ""}}
    with pytest.raises(ExperimentError, match="other rows of the manifests"):
        open_pseudo_labels(folder, record)


def test_a_damaged_store_says_what_to_run(make, tmp_path):
    make(tmp_path)
    record = read_labels(tmp_path).record
    (tmp_path / "labels.npy").write_bytes(b"")
    with pytest.raises(ExperimentError, match="Delete .* and run --stage pseudo_labels"):
        open_pseudo_labels(tmp_path, record)


def test_damaged_centroids_are_named(make, monkeypatch, tmp_path):
    monkeypatch.setattr(pseudo_labels, "write_labels", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path)
    monkeypatch.undo()
    (tmp_path / CENTROIDS).write_bytes(b"{")
    with pytest.raises(ExperimentError, match=f"{CENTROIDS} is damaged"):
        make(tmp_path)


def test_a_damaged_block_is_named_after_the_fit_too(make, monkeypatch, tmp_path):
    monkeypatch.setattr(pseudo_labels, "write_labels", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path)
    monkeypatch.undo()
    block = tmp_path / FEATURES / "train_000000.npz"
    block.write_bytes(block.read_bytes()[:-200])
    with pytest.raises(ExperimentError, match="train_000000.npz is damaged"):
        make(tmp_path)


def test_nothing_of_a_store_that_is_gone_serves_a_new_one(store, make, tmp_path):
    make(tmp_path / "labels", seed=2)
    (tmp_path / "labels/labels.json").unlink()
    make(tmp_path / "labels")
    folder, _ = store
    for file in ("labels.npy", CENTROIDS):
        assert (tmp_path / "labels" / file).read_bytes() == (folder / file).read_bytes()


def test_more_clusters_than_frames_are_an_error_of_the_user(make, tmp_path):
    with pytest.raises(ExperimentError, match="clusters: expected as many frames"):
        make(tmp_path, clusters=[100_000])


def test_a_layer_that_is_not_there_is_an_error_of_the_user(make, tmp_path):
    with pytest.raises(ExperimentError, match="layers"):
        make(tmp_path, label_layers=[9])
