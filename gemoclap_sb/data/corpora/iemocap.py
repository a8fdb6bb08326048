"""Manifests of IEMOCAP's four-class task from an ``IEMOCAP_full_release`` folder.

The task is the usual one of four classes: angry, happy with excited merged into
it, sad, and neutral; 5,531 utterances of ten speakers in five sessions, one
session held out in each fold.

C. Busso et al., "IEMOCAP: interactive emotional dyadic motion capture database",
Language Resources and Evaluation 42, 2008. The corpus needs a licence:
https://sail.usc.edu/iemocap/
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.audio import AudioError, audio_info
from gemoclap_sb.data.manifests import clean_text
from gemoclap_sb.data.preparation import (
    CorpusIssues,
    decode_text,
    prepare_fold,
    visible_files,
)

CLASS_OF_LABEL = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
EXPECTED = {
    "emotion": {"ang": 1103, "hap": 1636, "neu": 1708, "sad": 1084},
    "label": {"exc": 1041, "hap": 595},
    "session": {"1": 1085, "2": 1023, "3": 1151, "4": 1031, "5": 1241},
}
FOLDS = (1, 2, 3, 4, 5)
VALIDATIONS = ("random", "session", "speaker", "development", "test")

# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
_SUMMARY_LINE = re.compile(
    r"\[\s*[\d.]+\s*-\s*[\d.]+\s*\]\s+(?P<turn>\S+)\s+(?P<label>[A-Za-z]{3})\s+\[[^\]]*\]"
)
# Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
_TRANSCRIPT_LINE = re.compile(r"(?P<turn>Ses\w+)\s*\[[^\]]*\]\s*:(?P<text>.*)")
# The letter after the session says who wears the markers; the last one, who speaks.
_TURN = re.compile(r"Ses0(?P<session>[1-5])[FM]_\w+_(?P<gender>[FM])\w*")


def prepare_iemocap(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fold: int,
    validation: str = "random",
    valid_fraction: float = 0.1,
    valid_session: int | None = None,
    valid_speakers: int | list[str] = 2,
    seed: int = 1,
    expect_full_release: bool = True,
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv`` and ``test.csv`` of one fold.

    Beside the columns of every manifest there is ``label``, the release's own
    label, which tells ``exc`` from ``hap``. ``session`` is 1 to 5. A
    ``prepare.json`` beside the manifests records arguments and counts; with
    the same arguments nothing is done again.

    What the real release has and a tidy one would not (AppleDouble files, other
    folders, malformed lines, labels without audio and the reverse, and so on) is
    counted and logged, one line for each kind, and stops nothing. Counts other
    than the published ones are one warning that states both.

    Parameters
    ----------
    data_folder : str or os.PathLike
        The folder that holds ``Session1`` to ``Session5``.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        1 to 5: the session to test on.
    validation : str
        ``"random"``: a share of the training sessions, stratified by emotion
        and speaker. ``"session"``: one training session. ``"speaker"``: speakers of
        the training sessions. ``"development"``: likewise, and tested on them too, for
        choosing settings. ``"test"``: the test session, as some papers do; the notes
        then say so.
    valid_fraction : float
        The share held out by ``"random"``.
    valid_session : int, optional
        The session held out by ``"session"``; by default the one after ``fold``.
    valid_speakers : int or list of str
        How many speakers ``"speaker"`` and ``"development"`` hold out, women and men in
        turn, or which.
    seed : int
        Seeds ``"random"``, ``"speaker"`` and ``"development"``.
    expect_full_release : bool
        Warn where the counts are not the published ones. Turn it off for a
        folder that is known to be something else, such as a part.

    Returns
    -------
    dict
        See `gemoclap_sb.data.preparation.write_preparation`.

    Raises
    ------
    FileNotFoundError
        If ``data_folder`` has no ``Session1`` to ``Session5``.
    ValueError
        If the arguments do not fit each other or the folder, or no utterance of
        the four classes is found.
    """
    arguments = {
        "corpus": "IEMOCAP",
        "data_folder": data_folder,
        "fold": fold,
        "validation": validation,
        "valid_fraction": valid_fraction,
        "valid_session": valid_session,
        "valid_speakers": valid_speakers,
        "seed": seed,
        "expect_full_release": expect_full_release,
    }
    return prepare_fold(
        save_folder,
        arguments,
        read_corpus,
        FOLDS,
        VALIDATIONS,
        EXPECTED if expect_full_release else None,
        valid_fraction=valid_fraction,
        valid_session=valid_session,
        valid_speakers=valid_speakers,
    )


def read_corpus(root: Path, issues: CorpusIssues) -> list[dict[str, Any]]:
    """Make the rows of all sessions."""
    rows = []
    for session, folder in find_sessions(root, issues).items():
        rows += read_session(root, session, folder, issues)
    if not rows:
        raise ValueError(
            f"No utterance of the four classes with its audio was found in {root}: "
            f"{'; '.join(issues.lines()) or 'its session folders are empty'}."
        )
    return rows


def find_sessions(root: Path, issues: CorpusIssues) -> dict[int, Path]:
    """Find the session folders of a release."""
    if not root.is_dir():
        raise FileNotFoundError(f"IEMOCAP folder {root} is missing.")
    sessions = {}
    for path in sorted(root.iterdir()):
        if re.fullmatch(r"Session[1-5]", path.name) and path.is_dir():
            sessions[int(path.name[-1])] = path
        elif path.name.startswith("._"):
            issues.add("AppleDouble files (._*), ignored", path)
        elif path.name.startswith("Session"):
            issues.add("names like a session's beside Session1 to Session5, ignored", path)
    if not sessions:
        below = sorted(path.parent for path in root.glob("*/Session1"))
        hint = f" {below[0]} has: give that one." if below else ""
        raise FileNotFoundError(
            f"{root} has no folder Session1 to Session5. Expected the IEMOCAP_full_release "
            f"folder.{hint}"
        )
    return sessions


def read_session(
    root: Path, session: int, folder: Path, issues: CorpusIssues
) -> list[dict[str, Any]]:
    """Make the rows of one session, in the order of their names."""
    labels = read_labels(folder / "dialog" / "EmoEvaluation", session, issues)
    transcripts = read_transcripts(folder / "dialog" / "transcriptions", issues)
    wavs = find_wavs(folder / "sentences" / "wav", issues)
    for turn in sorted(set(wavs) - set(labels)):
        issues.add("utterances with a wav but no label, left out", turn)
    rows = []
    for turn, label in sorted(labels.items()):
        if label not in CLASS_OF_LABEL:
            issues.add("utterances with labels outside the four classes, left out", label)
            continue
        if turn not in wavs:
            issues.add("utterances with a label but no wav, left out", turn)
            continue
        try:
            duration = audio_info(wavs[turn]).duration
        except AudioError:
            issues.add("wavs that are unreadable or zero-length, left out", wavs[turn])
            continue
        if not transcripts.get(turn):
            issues.add("utterances without a transcript, which is left empty", turn)
        gender = _TURN.fullmatch(turn)["gender"]
        rows.append(
            {
                "ID": turn,
                "duration": round(duration, 6),
                "wav": f"$data_root/{wavs[turn].relative_to(root).as_posix()}",
                "spk_id": f"Ses0{session}{gender}",
                "gender": gender,
                "emotion": CLASS_OF_LABEL[label],
                "session": str(session),
                "transcript": transcripts.get(turn, ""),
                "label": label,
            }
        )
    return rows


def read_labels(folder: Path, session: int, issues: CorpusIssues) -> dict[str, str]:
    """Read the summary lines of ``dialog/EmoEvaluation/*.txt``: turn to label."""
    if not folder.is_dir():
        issues.add("sessions without a label folder", folder)
        return {}
    labels: dict[str, str] = {}
    for path in visible_files(folder, (".txt",), issues):
        if path.parent != folder:
            # Each annotator's own files: the summary lines already have their majority.
            issues.add("files in sub-folders beside the label files, not read", path.parent.name)
            continue
        for line in decode_text(path, issues).splitlines():
            if not line.lstrip().startswith("["):
                continue
            match = _SUMMARY_LINE.fullmatch(line.strip())
            turn = _TURN.fullmatch(match["turn"]) if match else None
            if turn is None:
                issues.add("malformed label lines, skipped", f"{path}: {line.strip()}")
            elif int(turn["session"]) != session:
                issues.add("labels of another session than their folder's, skipped", turn[0])
            elif turn[0] in labels:
                same = labels[turn[0]] == match["label"].lower()
                agreement = "once more" if same else "once more and differently"
                issues.add(f"utterances labelled {agreement}, the first label is kept", turn[0])
            else:
                labels[turn[0]] = match["label"].lower()
    return labels


def read_transcripts(folder: Path, issues: CorpusIssues) -> dict[str, str]:
    """Read ``dialog/transcriptions/*.txt``: turn to sentence."""
    if not folder.is_dir():
        issues.add("sessions without a transcription folder", folder)
        return {}
    transcripts: dict[str, str] = {}
    for path in visible_files(folder, (".txt",), issues):
        for line in decode_text(path, issues).splitlines():
            # Lines without a turn, such as "M: [LAUGHTER]", belong to no utterance.
            if match := _TRANSCRIPT_LINE.fullmatch(line.strip()):
                transcripts.setdefault(match["turn"], clean_text(match["text"]))
    return transcripts


def find_wavs(folder: Path, issues: CorpusIssues) -> dict[str, Path]:
    """Find ``sentences/wav/<dialogue>/<turn>.wav``: turn to path."""
    if not folder.is_dir():
        issues.add("sessions without a wav folder", folder)
        return {}
    wavs: dict[str, Path] = {}
    for path in visible_files(folder, (".wav",), issues):
        dialogue = path.stem.rpartition("_")[0]
        if path.stem in wavs:
            issues.add("wavs of the same name, of which one is used", path)
            # The place of the release wins over a stray copy.
            if wavs[path.stem].parent.name == dialogue or path.parent.name != dialogue:
                continue
        wavs[path.stem] = path
    return wavs


def main() -> None:
    """Prepare one fold from the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_folder", help="the IEMOCAP_full_release folder")
    parser.add_argument("save_folder", help="where the manifests go")
    parser.add_argument("--fold", type=int, required=True, help="1 to 5: the session to test on")
    parser.add_argument("--validation", choices=VALIDATIONS, default="random")
    parser.add_argument("--valid_fraction", type=float, default=0.1)
    parser.add_argument("--valid_session", type=int)
    parser.add_argument("--valid_speakers", type=int, default=2, help="women and men in turn")
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        prepare_iemocap(**vars(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
