"""Manifests of the RAVDESS speech files, which anyone may download.

1,440 recordings of 24 actors in eight classes, in WAV or FLAC at any rate. A
file is known by its name alone, such as ``03-01-05-01-02-01-16.wav``, so the
folders may lie as they like.

S. R. Livingstone and F. A. Russo, "The Ryerson Audio-Visual Database of Emotional
Speech and Song (RAVDESS)", PLoS ONE 13(5): e0196391, 2018. CC BY-NC-SA 4.0:
https://zenodo.org/records/1188976
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.audio import AudioError, audio_info
from gemoclap_sb.data.preparation import (
    CorpusIssues,
    choose_classes,
    prepare_fold,
    visible_files,
)

EMOTIONS = {
    "01": "neu",
    "02": "cal",
    "03": "hap",
    "04": "sad",
    "05": "ang",
    "06": "fea",
    "07": "dis",
    "08": "sur",
}
# What ``merge_calm`` counts as neutral.
MERGED = ("cal",)
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
# Neutral was not acted in a strong intensity.
FILES_PER_ACTOR = {name: 4 if name == "neu" else 8 for name in EMOTIONS.values()}

# The subject-wise folds of Luna-Jimenez et al., "A Proposal for Multimodal Emotion
# Recognition Using Aural Transformers and Action Units on RAVDESS Dataset", Applied
# Sciences 12(1), 2021, where they are numbered from 0.
TEST_ACTORS = {
    1: (2, 5, 14, 15, 16),
    2: (3, 6, 7, 13, 18),
    3: (10, 11, 12, 19, 20),
    4: (8, 17, 21, 23, 24),
    5: (1, 4, 9, 22),
}
FOLDS = tuple(TEST_ACTORS)
VALIDATIONS = ("speaker", "random", "development", "test")

# modality-channel-emotion-intensity-statement-repetition-actor
_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])"
    r"-(?P<statement>0[12])-(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4])"
)
_AUDIO_ONLY, _SPEECH = "03", "01"


def prepare_ravdess(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fold: int,
    classes: Sequence[str] | str | None = None,
    merge_calm: bool = False,
    validation: str = "speaker",
    valid_speakers: int | Sequence[int] = 2,
    valid_fraction: float = 0.1,
    seed: int = 1,
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv`` and ``test.csv`` of one fold.

    ``session`` is the number of the fold that tests on the actor: the unit that
    is held out, as IEMOCAP's sessions are. Beside the columns of every manifest
    there are ``label``, the corpus' own class before ``merge_calm``, and
    ``intensity``, ``normal`` or ``strong``. A ``prepare.json`` beside the
    manifests records arguments and counts; with the same arguments nothing is
    done again.

    Files that appear twice, as in the copy on Kaggle, songs, AppleDouble files
    and the like are counted and logged, one line for each kind. Counts other
    than the published ones are one warning that states both.

    Parameters
    ----------
    data_folder : str or os.PathLike
        A folder with the ``Actor_NN`` folders, at any depth.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        1 to 5; :data:`TEST_ACTORS` has the actors to test on.
    classes : sequence of str, optional
        The classes to use, of ``neu``, ``cal``, ``hap``, ``sad``, ``ang``,
        ``fea``, ``dis``, ``sur``; also as one string with commas. All by default.
    merge_calm : bool
        Count ``cal`` as ``neu``, and leave it out of ``classes``.
    validation : str
        ``"speaker"``: some actors of the training side. ``"random"``: a share of
        the training side, stratified by emotion and speaker. ``"development"``:
        actors of the training side who are tested too, the test actors being left out:
        for choosing settings. ``"test"``: the test actors; the notes then say so.
    valid_speakers : int or sequence of int
        For ``"speaker"`` and ``"development"``: how many actors, women and men in turn, or
        which ones.
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
        If ``data_folder`` is missing.
    ValueError
        If the arguments do not fit each other or the folder, or no speech file of
        the classes is found.
    """
    chosen = choose_classes(classes, list(EMOTIONS.values()), MERGED if merge_calm else ())
    by_number = isinstance(valid_speakers, int)
    arguments = {
        "corpus": "RAVDESS",
        "data_folder": data_folder,
        "fold": fold,
        "classes": chosen,
        "merge_calm": merge_calm,
        "validation": validation,
        "valid_speakers": valid_speakers if by_number else list(valid_speakers),
        "valid_fraction": valid_fraction,
        "seed": seed,
    }
    return prepare_fold(
        save_folder,
        arguments,
        functools.partial(read_corpus, classes=chosen, merge_calm=merge_calm),
        FOLDS,
        VALIDATIONS,
        expected_counts(chosen, merge_calm),
        valid_fraction=valid_fraction,
        valid_speakers=valid_speakers if by_number else [*map(speaker_name, valid_speakers)],
    )


def read_corpus(
    root: Path, issues: CorpusIssues, classes: Sequence[str], merge_calm: bool
) -> list[dict[str, Any]]:
    """Make the rows of all speech files of some classes, in the order of their names."""
    if not root.is_dir():
        raise FileNotFoundError(f"RAVDESS folder {root} is missing.")
    fold_of = {actor: fold for fold, actors in TEST_ACTORS.items() for actor in actors}
    rows: dict[str, dict[str, Any]] = {}
    for path in visible_files(root, (".wav", ".flac"), issues):
        fields = _NAME.fullmatch(path.stem)
        if fields is None:
            issues.add("audio files with other names than RAVDESS has, left out", path)
            continue
        if fields["modality"] != _AUDIO_ONLY or fields["channel"] != _SPEECH:
            issues.add("songs or sound tracks of videos, left out", path)
            continue
        label = EMOTIONS[fields["emotion"]]
        emotion = "neu" if merge_calm and label in MERGED else label
        if emotion not in classes:
            issues.add("files of classes that were not asked for, left out", label)
            continue
        if path.stem in rows:
            issues.add("files of the same name as another, counted once", path)
            continue
        try:
            duration = audio_info(path).duration
        except AudioError:
            issues.add("files that are unreadable or zero-length, left out", path)
            continue
        actor = int(fields["actor"])
        rows[path.stem] = {
            "ID": path.stem,
            "duration": round(duration, 6),
            "wav": f"$data_root/{path.relative_to(root).as_posix()}",
            "spk_id": speaker_name(actor),
            "gender": "M" if actor % 2 else "F",
            "emotion": emotion,
            "session": str(fold_of[actor]),
            "transcript": STATEMENTS[fields["statement"]],
            "label": label,
            "intensity": INTENSITIES[fields["intensity"]],
        }
    if not rows:
        raise ValueError(
            f"No RAVDESS speech file of the classes {', '.join(classes)} was found below {root}. "
            "Expected names such as Actor_16/03-01-05-01-02-01-16.wav. "
            f"{'; '.join(issues.lines())}"
        )
    return [rows[name] for name in sorted(rows)]


def speaker_name(actor: int) -> str:
    """Name an actor as the corpus' folders do."""
    return f"Actor_{actor:02d}"


def expected_counts(classes: Sequence[str], merge_calm: bool) -> dict[str, dict[str, int]]:
    """Count what the published corpus has of some classes."""
    per_actor = {name: FILES_PER_ACTOR[name] for name in classes}
    if merge_calm and "neu" in per_actor:
        per_actor["neu"] += FILES_PER_ACTOR["cal"]
    num_actors = sum(map(len, TEST_ACTORS.values()))
    return {
        "emotion": {name: number * num_actors for name, number in per_actor.items()},
        "session": {
            str(fold): sum(per_actor.values()) * len(actors) for fold, actors in TEST_ACTORS.items()
        },
    }


def main() -> None:
    """Prepare one fold from the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", help="the folder with the Actor_NN folders")
    parser.add_argument("save_folder", help="where the manifests go")
    parser.add_argument("--fold", type=int, required=True, help="1 to 5")
    parser.add_argument("--classes", help="such as neu,hap,sad,ang; all eight by default")
    parser.add_argument("--merge_calm", action="store_true", help="count calm as neutral")
    parser.add_argument("--validation", choices=VALIDATIONS, default="speaker")
    parser.add_argument("--valid_speakers", type=int, default=2)
    parser.add_argument("--valid_fraction", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        prepare_ravdess(**vars(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
