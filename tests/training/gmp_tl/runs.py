"""Tiny runs of GMP-TL, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

from gemoclap_sb.training.gmp_tl import main
from tests.run_folders import ROOT

YAMLS = ROOT / "recipes/IEMOCAP/gmp_tl/hparams"
TINY = {
    "n_mels": 16,
    "channels": [4, 8],
    "strides": [1, 2],
    "frame_size": 8,
    "label_layers": [1],
    "clusters": [4, 9],
    "kmeans_passes": 2,
    "block_seconds": 20,
    "batch_size": 8,
    "crop_seconds": 0.5,
    "warm_up_epochs": 2,
    "stage_one_epochs": 2,
    "number_of_epochs": 2,
    "seed": 3,
}
RESULTS = ("metrics.json", "predictions.csv")
HANDED_ON = ("warm_up/stage.json", "stage_one/stage.json", "pseudo_labels/labels.json")

Data = dict[str, Path]


def command(folder: Path, data: Data, *flags: str, **options: object) -> list[str]:
    given = {"output_folder": folder, **data, **TINY, **options}
    pairs = sum(([f"--{key}", str(value)] for key, value in given.items()), [])
    return [str(YAMLS / "gmp_tl_scratch.yaml"), "--device", "cpu", *pairs, *flags]


def run(*arguments: object, **options: object) -> int:
    return main(None, command(*arguments, **options))


def contents(folder: Path, names: tuple[str, ...] = RESULTS + HANDED_ON) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def result(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())
