"""A recipe of the smallest corpus: forty-eight tones of four classes, in one manifest."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from gemoclap_sb.data.manifests import read_cells, write_manifest
from gemoclap_sb.data.preparation import prepare_fold
from gemoclap_sb.training.experiment import main

RATE = 16000
CORPUS = "corpus.csv"


def write_corpus(folder: Path) -> Path:
    """Three sessions of two speakers, whose pitch and loudness tell the classes apart a little."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        session, emotion, gender = number // 16, number % 4, "FM"[number // 4 % 2]
        pitch = rng.normal(250 + 150 * emotion, 80)
        time = np.arange(3200 + 160 * (number % 7)) / RATE
        wav = 0.2 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.02, time.size)
        name = f"u{number:02}"
        soundfile.write(folder / f"{name}.wav", wav, RATE)
        rows.append(
            {
                "ID": name,
                "duration": time.size / RATE,
                "wav": f"$data_root/{name}.wav",
                "spk_id": f"s{session}{gender}",
                "gender": gender,
                "emotion": ("ang", "hap", "neu", "sad")[emotion],
                "session": session + 1,
                "transcript": "So it is.",
            }
        )
    write_manifest(folder / CORPUS, rows)
    return folder


def prepare(data_folder: str, save_folder: str, fold: int, **options: Any) -> Mapping:
    """Write the three manifests of a fold."""
    arguments = {"corpus": "tones", "data_folder": data_folder, "fold": fold, **options}

    def read_rows(root: Path, issues: object) -> list[dict[str, Any]]:
        rows = read_cells(root / CORPUS, ("ID",))
        return [{**row, "duration": float(row["duration"])} for row in rows]

    return prepare_fold(save_folder, arguments, read_rows, folds=(1, 2, 3), validations=("random",))


if __name__ == "__main__":
    sys.exit(main(prepare))
