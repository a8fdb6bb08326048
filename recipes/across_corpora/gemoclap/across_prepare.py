#!/usr/bin/env python3
"""Manifests of RAVDESS and nEMO together: one language tested on the other, or both trained on.

    python across_prepare.py results/fold1 --fold 1 --protocol transfer \
        --ravdess_folder /corpora/RAVDESS --nemo_folder /corpora/nEMO

The corpora are read as their own recipes read them. An utterance and a speaker have their corpus
before their name, so that none of two corpora is taken for one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.corpora import nemo, ravdess
from gemoclap_sb.data.preparation import (
    CorpusIssues,
    choose_classes,
    compare_counts,
    finished_preparation,
    write_preparation,
)
from gemoclap_sb.data.splits import Row, hold_out_speakers, split_fold

RAVDESS, NEMO = "RAVDESS", "nEMO"
EMOTIONS = {
    RAVDESS: tuple(ravdess.EMOTIONS.values()),
    NEMO: tuple(nemo.EMOTIONS.values()),
}
# The corpora, and the folds that their own recipes have.
CORPORA = {RAVDESS: ravdess.FOLDS, NEMO: nemo.FOLDS}
CLASSES = tuple(dict.fromkeys(EMOTIONS[RAVDESS] + EMOTIONS[NEMO]))
SHARED = tuple(name for name in CLASSES if name in EMOTIONS[RAVDESS] and name in EMOTIONS[NEMO])

# The corpus that a fold of `transfer` tests.
TESTED = {1: RAVDESS, 2: NEMO}
FOLDS = {"transfer": tuple(TESTED), "both": nemo.FOLDS, "all": (1,)}
VALIDATIONS = {
    "transfer": ravdess.VALIDATIONS,
    "both": ravdess.VALIDATIONS,
    "all": ("speaker",),
}
UNTESTED = "untested"
ALWAYS_TRAINED = [
    ravdess.speaker_name(actor)
    for fold in sorted(set(ravdess.FOLDS) - set(FOLDS["both"]))
    for actor in ravdess.TEST_ACTORS[fold]
]


def prepare_across(
    data_folder: str | os.PathLike,
    save_folder: str | os.PathLike,
    fold: int,
    *,
    ravdess_folder: str | os.PathLike,
    nemo_folder: str | os.PathLike,
    protocol: str = "both",
    merge_calm: bool = False,
    classes: Sequence[str] | str | None = None,
    validation: str = "speaker",
    valid_speakers: int | Sequence[str] = 2,
    valid_fraction: float = 0.1,
    seed: int = 1,
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv`` and ``test.csv`` of one fold of both corpora.

    ``ID`` and ``spk_id`` begin with ``RAVDESS_`` or ``nEMO_``, ``session`` is that of the
    corpus's own recipe, and a column ``corpus`` is added; a column that only one corpus has is
    empty in the other's rows. A ``prepare.json`` beside the manifests records arguments and
    counts; with the same arguments nothing is done again.

    Parameters
    ----------
    data_folder : str or os.PathLike
        Stands for ``$data_root``; a path outside of it is absolute.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        One of those that `FOLDS` has for the protocol.
    ravdess_folder, nemo_folder : str or os.PathLike
        The corpora, as their own recipes take them.
    protocol : str
        ``"transfer"``: fold 1 tests RAVDESS and trains on nEMO, fold 2 the reverse.
        ``"both"``: fold 1 to 4 tests that fold of each corpus and trains on the rest of both;
        the actors of RAVDESS's fifth fold are never tested. ``"all"``: trains on all speakers
        but those of the validation, who stand in ``test.csv`` too, since nobody else is left.
    merge_calm : bool
        Whether RAVDESS's calm counts as neutral, which leaves ``cal`` out of ``classes``.
    classes : sequence of str, optional
        The classes to use, also as one string with commas; by default those that one corpus
        has at least.
    validation : str
        ``"speaker"``, ``"random"``, ``"development"`` or ``"test"``, as the corpora's own
        recipes take it; ``"all"`` takes ``"speaker"`` only.
    valid_speakers : int or sequence of str
        How many speakers of each corpus that is trained on are held out, women and men in turn,
        or which ones, such as ``["RAVDESS_Actor_03", "nEMO_KD0"]``.
    valid_fraction : float
        For ``"random"``: the share.
    seed : int
        Seeds the choice.

    Returns
    -------
    dict
        What `gemoclap_sb.data.preparation.write_preparation` returns; for ``"all"`` with
        ``validation``, which is ``"untested"``.

    Raises
    ------
    FileNotFoundError
        If a corpus is missing.
    ValueError
        If the arguments do not fit each other or the folders.
    """
    if protocol not in FOLDS:
        raise ValueError(f"protocol must be one of {', '.join(FOLDS)}, found {protocol!r}.")
    for name, found, allowed in (
        ("fold", fold, FOLDS[protocol]),
        ("validation", validation, VALIDATIONS[protocol]),
    ):
        if found not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(str, allowed))} where protocol is "
                f"{protocol!r}, found {found!r}."
            )
    folders = {RAVDESS: ravdess_folder, NEMO: nemo_folder}
    if missing := [name for name, folder in folders.items() if not folder]:
        raise ValueError(
            f"no folder of {' and '.join(missing)} is given: expected --ravdess_folder and "
            "--nemo_folder."
        )
    roots = {name: Path(os.path.abspath(folder)) for name, folder in folders.items()}
    chosen = choose_classes(classes, CLASSES, ravdess.MERGED if merge_calm else ())
    arguments = {
        "corpus": " and ".join(roots),
        "data_folder": os.path.abspath(data_folder),
        "ravdess_folder": str(roots[RAVDESS]),
        "nemo_folder": str(roots[NEMO]),
        "fold": fold,
        "protocol": protocol,
        "merge_calm": merge_calm,
        "classes": chosen,
        "validation": UNTESTED if protocol == "all" else validation,
        "valid_speakers": valid_speakers
        if isinstance(valid_speakers, int)
        else list(valid_speakers),
        "valid_fraction": valid_fraction,
        "seed": seed,
    }
    result = finished_preparation(save_folder, arguments)
    if result is None:
        issues = CorpusIssues(arguments["data_folder"])
        corpora, warning = read_corpora(
            roots, Path(arguments["data_folder"]), chosen, merge_calm, issues
        )
        splits, notes = split_corpora(
            corpora,
            protocol,
            fold,
            validation,
            arguments["valid_speakers"],
            seed=seed,
            valid_fraction=valid_fraction,
        )
        result = write_preparation(save_folder, arguments, splits, issues, warning, notes)
    return {**result, "validation": arguments["validation"]}


def read_corpora(
    roots: Mapping[str, Path],
    data_root: Path,
    classes: Sequence[str],
    merge_calm: bool,
    issues: CorpusIssues,
) -> tuple[dict[str, list[dict[str, Any]]], str | None]:
    """Make the rows of both corpora, and say how they differ from the published ones."""
    own = {name: [label for label in classes if label in EMOTIONS[name]] for name in roots}
    if lacking := [name for name, labels in own.items() if not labels]:
        raise ValueError(f"classes has none of {lacking[0]}: {', '.join(EMOTIONS[lacking[0]])}.")
    read = {
        RAVDESS: ravdess.read_corpus(roots[RAVDESS], issues, own[RAVDESS], merge_calm),
        NEMO: nemo.read_corpus(roots[NEMO], issues, own[NEMO]),
    }
    expected = {
        RAVDESS: ravdess.expected_counts(own[RAVDESS], merge_calm),
        NEMO: nemo.expected_counts(own[NEMO]),
    }
    warnings = [compare_counts(name, rows, expected[name]) for name, rows in read.items()]
    columns = dict.fromkeys(name for rows in read.values() for name in rows[0])
    corpora = {
        corpus: [
            {
                **dict.fromkeys(columns, ""),
                **row,
                "ID": f"{corpus}_{row['ID']}",
                "spk_id": f"{corpus}_{row['spk_id']}",
                "wav": _located(row["wav"], roots[corpus], data_root),
                "corpus": corpus,
            }
            for row in rows
        ]
        for corpus, rows in read.items()
    }
    return corpora, " ".join(filter(None, warnings)) or None


def split_corpora(
    corpora: Mapping[str, Sequence[Row]],
    protocol: str,
    fold: int,
    validation: str,
    valid_speakers: int | Sequence[str],
    **options: Any,
) -> tuple[dict[str, list[Row]], list[str]]:
    """Split the rows of both corpora as a protocol says; ``options`` are `split_fold`'s."""
    if protocol == "transfer":
        number = {corpus: fold for fold, corpus in TESTED.items()}
        rows = {row["ID"]: row for rows in corpora.values() for row in rows}
        by_corpus = [{**row, "session": str(number[row["corpus"]])} for row in rows.values()]
        splits, notes = split_fold(
            by_corpus, fold, validation, valid_speakers=valid_speakers, **options
        )
        # With the sessions of their own corpora again.
        return {split: [rows[row["ID"]] for row in of] for split, of in splits.items()}, notes
    named = [] if isinstance(valid_speakers, int) else valid_speakers
    if unknown := [name for name in named if not name.startswith(tuple(f"{c}_" for c in corpora))]:
        raise ValueError(
            f"valid_speakers: {unknown[0]} is of neither corpus; expected the corpus before the "
            f"speaker's name, as in {next(iter(corpora.values()))[0]['spk_id']}."
        )
    parts = []
    for corpus, rows in corpora.items():
        speakers = _of_corpus(valid_speakers, corpus)
        if protocol == "all":
            train, valid = hold_out_speakers(rows, speakers, options["seed"])
            parts.append(({"train": train, "valid": valid, "test": valid}, []))
        else:
            parts.append(split_fold(rows, fold, validation, valid_speakers=speakers, **options))
    splits = {split: [row for part, _ in parts for row in part[split]] for split in parts[0][0]}
    notes = list(dict.fromkeys(note for _, of in parts for note in of))
    if protocol == "both" and validation != "development":
        notes.append(
            f"RAVDESS has five folds, nEMO four: {', '.join(ALWAYS_TRAINED)} of RAVDESS are on "
            "the training side of every fold, and never tested."
        )
    return splits, notes


def with_number_of_folds(argv: Sequence[str]) -> list[str]:
    """Add ``--number_of_folds`` to a command line that names a protocol, where it lacks it."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--protocol")
    parser.add_argument("--number_of_folds")
    given, _ = parser.parse_known_args(argv)
    if given.number_of_folds is not None or given.protocol not in FOLDS:
        return list(argv)
    return [*argv, "--number_of_folds", str(len(FOLDS[given.protocol]))]


def _located(wav: str, root: Path, data_root: Path) -> str:
    """Give a path below a corpus as a manifest of both has it."""
    path = root / wav.removeprefix("$data_root/")
    inside = path.is_relative_to(data_root)
    return f"$data_root/{path.relative_to(data_root).as_posix()}" if inside else str(path)


def _of_corpus(speakers: int | Sequence[str], corpus: str) -> int | list[str]:
    if isinstance(speakers, int):
        return speakers
    return [name for name in speakers if name.startswith(f"{corpus}_")]


def main() -> None:
    """Prepare one fold from the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("save_folder", help="where the manifests go")
    parser.add_argument("--ravdess_folder", required=True, help="with the Actor_NN folders")
    parser.add_argument("--nemo_folder", required=True, help="with data.tsv and the recordings")
    parser.add_argument("--protocol", choices=tuple(FOLDS), default="both")
    parser.add_argument("--fold", type=int, default=1, help="1 to 2 or, for both, 4")
    parser.add_argument("--merge_calm", action="store_true", help="count calm as neutral")
    parser.add_argument("--classes", help=f"all by default; {','.join(SHARED)} are shared")
    parser.add_argument("--validation", choices=VALIDATIONS["both"], default="speaker")
    parser.add_argument("--valid_speakers", type=int, default=2, help="of each corpus")
    parser.add_argument("--valid_fraction", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = vars(parser.parse_args())
    try:
        prepare_across(options["ravdess_folder"], **options)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
