"""Manifests of nEMO, emotional speech in Polish, which anyone may download.

4,481 recordings of nine speakers in six classes, in WAV, FLAC or Ogg at any rate.
``data.tsv`` names them as ``WR0_surprised_64.wav``: a file is known by its stem alone, so
the folders may lie as they like.

I. Christop, "nEMO: Dataset of Emotional Speech in Polish", LREC-COLING 2024, pages
12111-12116. CC BY-NC-SA 4.0: https://github.com/amu-cai/nEMO
"""

from __future__ import annotations

import csv
import functools
import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.audio import AudioError, audio_info
from gemoclap_sb.data.manifests import clean_text
from gemoclap_sb.data.preparation import (
    CorpusIssues,
    choose_classes,
    decode_text,
    prepare_fold,
    visible_files,
)

EMOTIONS = {
    "anger": "ang",
    "fear": "fea",
    "happiness": "hap",
    "neutral": "neu",
    "sadness": "sad",
    "surprised": "sur",
}
GENDERS = {"female": "F", "male": "M"}
# Of each speaker, in the order of EMOTIONS.
RECORDINGS = {
    "EB0": (90, 90, 90, 90, 90, 89),
    "IC0": (90, 90, 90, 90, 90, 90),
    "KD0": (90, 90, 90, 90, 90, 90),
    "KS0": (90, 90, 90, 90, 90, 90),
    "MK0": (90, 90, 90, 90, 90, 0),
    "MP0": (29, 17, 30, 90, 49, 41),
    "SM0": (90, 89, 89, 90, 90, 90),
    "TP0": (90, 90, 90, 90, 90, 89),
    "WR0": (90, 90, 90, 89, 90, 90),
}

# The corpus has no split of its own. A woman, and a man or two, in each of these.
TEST_SPEAKERS = {
    1: ("EB0", "KS0"),
    2: ("IC0", "SM0"),
    3: ("KD0", "TP0"),
    4: ("MK0", "MP0", "WR0"),
}
FOLDS = tuple(TEST_SPEAKERS)
VALIDATIONS = ("speaker", "random", "development", "test")

TABLE = "data.tsv"
_COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender", "age")
_NAME = re.compile(r"[A-Z]{2}\d_[a-z]+_(?P<sentence>\d+)")


def prepare_nemo(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fold: int,
    classes: Sequence[str] | str | None = None,
    validation: str = "speaker",
    valid_speakers: int | Sequence[str] = 2,
    valid_fraction: float = 0.1,
    seed: int = 1,
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv`` and ``test.csv`` of one fold.

    ``session`` is the number of the fold that tests on the speaker: the unit that
    is held out, as IEMOCAP's sessions are. Beside the columns of every manifest
    there are ``age``, in years, and ``sentence``, 1 to 90, the number of the
    sentence that is read. A ``prepare.json`` beside the manifests records
    arguments and counts; with the same arguments nothing is done again.

    Files that the table does not name, rows without a file, AppleDouble files and
    the like are counted and logged, one line for each kind. Counts other than the
    published ones are one warning that states both.

    Parameters
    ----------
    data_folder : str or os.PathLike
        A folder with ``data.tsv`` and, at any depth, the recordings.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        1 to 4; :data:`TEST_SPEAKERS` has the speakers to test on.
    classes : sequence of str, optional
        The classes to use, of ``ang``, ``fea``, ``hap``, ``neu``, ``sad``, ``sur``;
        also as one string with commas. All by default.
    validation : str
        ``"speaker"``: some speakers of the training side. ``"random"``: a share of
        the training side, stratified by emotion and speaker. ``"development"``:
        speakers of the training side who are tested too, the test speakers being left out:
        for choosing settings. ``"test"``: the test speakers; the notes then say so.
    valid_speakers : int or sequence of str
        For ``"speaker"`` and ``"development"``: how many, women and men in turn, or which
        ones, such as ``["KD0", "WR0"]``.
    valid_fraction : float
        For ``"random"``: the share.
    seed : int
        Seeds the choice.

    Returns
    -------
    dict
        ``train_csv``, ``valid_csv``, ``test_csv``, ``data_root`` (str) and ``notes`` (list of str).

    Raises
    ------
    FileNotFoundError
        If ``data_folder`` or its ``data.tsv`` is missing.
    ValueError
        If the arguments do not fit each other or the folder, the table lacks a
        column, or no recording of the classes is found.
    """
    chosen = choose_classes(classes, list(EMOTIONS.values()))
    speakers = valid_speakers if isinstance(valid_speakers, int) else list(valid_speakers)
    arguments = {
        "corpus": "nEMO",
        "data_folder": data_folder,
        "fold": fold,
        "classes": chosen,
        "validation": validation,
        "valid_speakers": speakers,
        "valid_fraction": valid_fraction,
        "seed": seed,
    }
    return prepare_fold(
        save_folder,
        arguments,
        functools.partial(read_corpus, classes=chosen),
        FOLDS,
        VALIDATIONS,
        expected_counts(chosen),
        valid_fraction=valid_fraction,
        valid_speakers=speakers,
    )


def read_corpus(root: Path, issues: CorpusIssues, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Make the rows of all recordings of some classes, in the order of their names."""
    table = read_table(root, issues)
    recordings = find_recordings(root, issues)
    for name in sorted(set(recordings) - set(table)):
        issues.add(f"audio files that {TABLE} does not name, left out", recordings[name])
    fold_of = {name: fold for fold, names in TEST_SPEAKERS.items() for name in names}
    rows = []
    for name, cells in sorted(table.items()):
        emotion, speaker = EMOTIONS.get(cells["emotion"]), cells["speaker_id"]
        known = emotion and speaker in fold_of and cells["gender"] in GENDERS
        if not (known and (fields := _NAME.fullmatch(name))):
            issues.add(f"rows of {TABLE} with values that nEMO does not have, left out", name)
            continue
        if emotion not in classes:
            issues.add("recordings of classes that were not asked for, left out", emotion)
            continue
        if name not in recordings:
            issues.add(f"rows of {TABLE} without a recording, left out", name)
            continue
        try:
            duration = audio_info(recordings[name]).duration
        except AudioError:
            issues.add("files that are unreadable or zero-length, left out", recordings[name])
            continue
        rows.append(
            {
                "ID": name,
                "duration": round(duration, 6),
                "wav": f"$data_root/{recordings[name].relative_to(root).as_posix()}",
                "spk_id": speaker,
                "gender": GENDERS[cells["gender"]],
                "emotion": emotion,
                "session": str(fold_of[speaker]),
                "transcript": clean_text(cells["raw_text"]),
                "age": cells["age"],
                "sentence": fields["sentence"],
            }
        )
    if not rows:
        raise ValueError(
            f"No nEMO recording of the classes {', '.join(classes)} was found below {root}. "
            f"Expected {TABLE} and names such as samples/WR0_surprised_64.wav. "
            f"{'; '.join(issues.lines())}"
        )
    return rows


def read_table(root: Path, issues: CorpusIssues) -> dict[str, dict[str, str]]:
    """Read ``data.tsv``: stem to cells, without the white space around some of them."""
    if not root.is_dir():
        raise FileNotFoundError(f"nEMO folder {root} is missing.")
    path = root / TABLE
    if not path.is_file():
        below = sorted(other.parent for other in root.glob(f"*/{TABLE}"))
        hint = f" {below[0]} has: give that one." if below else ""
        raise FileNotFoundError(f"{root} has no {TABLE}, the table of nEMO.{hint}")
    text = io.StringIO(decode_text(path, issues))
    reader = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
        raise ValueError(
            f"{path}: missing column {', '.join(missing)}; found "
            f"{', '.join(reader.fieldnames or ()) or 'none'}. Expected nEMO's own table."
        )
    table: dict[str, dict[str, str]] = {}
    for row in reader:
        cells = {name: (row[name] or "").strip() for name in _COLUMNS}
        name = Path(cells["file_id"]).stem
        if name in table:
            issues.add(f"rows of {TABLE} that name a file again, counted once", name)
        table.setdefault(name, cells)
    return table


def find_recordings(root: Path, issues: CorpusIssues) -> dict[str, Path]:
    """Find all audio files: stem to path."""
    recordings: dict[str, Path] = {}
    for path in visible_files(root, (".wav", ".flac", ".ogg"), issues):
        if path.stem in recordings:
            issues.add("files of the same name as another, counted once", path)
        recordings.setdefault(path.stem, path)
    return recordings


def expected_counts(classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count what the published corpus has of some classes."""
    table = {
        speaker: dict(zip(EMOTIONS.values(), counts, strict=True))
        for speaker, counts in RECORDINGS.items()
    }
    return {
        "emotion": {name: sum(counts[name] for counts in table.values()) for name in classes},
        "session": {
            str(fold): sum(table[speaker][name] for speaker in speakers for name in classes)
            for fold, speakers in TEST_SPEAKERS.items()
        },
    }


def main() -> None:
    """Prepare one fold from the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", help="the folder with data.tsv and the recordings")
    parser.add_argument("save_folder", help="where the manifests go")
    parser.add_argument("--fold", type=int, required=True, help="1 to 4")
    parser.add_argument("--classes", help="such as neu,hap,sad,ang; all six by default")
    parser.add_argument("--validation", choices=VALIDATIONS, default="speaker")
    parser.add_argument("--valid_speakers", type=int, default=2)
    parser.add_argument("--valid_fraction", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        prepare_nemo(**vars(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
