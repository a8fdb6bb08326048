"""RAVDESS and nEMO made up, small: their names and tables, and tones that are soon trained on."""

from __future__ import annotations

from pathlib import Path

from tests.run_folders import ROOT, write_tone

ACROSS = ROOT / "recipes" / "across_corpora" / "gemoclap"
# Of each of RAVDESS's five folds a woman and a man, in this order; of nEMO's four likewise.
ACTORS = (2, 5, 6, 3, 10, 11, 8, 17, 4, 1)
SPEAKERS = {"EB0": "F", "KS0": "M", "IC0": "F", "SM0": "M", "KD0": "F", "TP0": "M", "MK0": "F",
            "WR0": "M"}  # fmt: skip
NEMO_EMOTIONS = ("anger", "fear", "happiness", "neutral", "sadness", "surprised")


def write_corpora(folder: Path, sentences: int = 1) -> dict[str, Path]:
    """Write both corpora, each class of each speaker ``sentences`` times (at most two)."""
    for actor in ACTORS:
        for emotion in range(1, 9):
            for repetition in range(1, sentences + 1):
                name = f"03-01-{emotion:02d}-01-01-{repetition:02d}-{actor:02d}.wav"
                pitch = 100 + 60 * emotion + actor
                write_tone(folder / f"RAVDESS/Actor_{actor:02d}" / name, 0.3, pitch)
    lines = ["file_id\temotion\traw_text\tspeaker_id\tgender\tage"]
    for number, (speaker, gender) in enumerate(SPEAKERS.items()):
        for place, emotion in enumerate(NEMO_EMOTIONS):
            if (speaker, emotion) == ("MK0", "surprised"):
                continue
            for sentence in range(1, sentences + 1):
                name = f"{speaker}_{emotion}_{sentence}.wav"
                write_tone(folder / "nEMO/samples" / name, 0.3, 130 + 70 * place + number)
                whole = {"F": "female", "M": "male"}[gender]
                lines.append(f"{name}\t{emotion}\tZdanie {sentence}.\t{speaker}\t{whole}\t27")
    (folder / "nEMO/data.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"ravdess_folder": folder / "RAVDESS", "nemo_folder": folder / "nEMO"}
