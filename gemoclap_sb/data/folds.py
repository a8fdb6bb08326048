"""Cross-validation of any corpus: one manifest, split by one of its columns.

What the recipes know of their corpora (who is tested in which fold) follows here from the
manifest itself: a fold for each value of a column, or groups of speakers of about the same
size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gemoclap_sb.data.manifests import COLUMNS, clean_text, read_cells, read_manifest
from gemoclap_sb.data.preparation import CorpusIssues, prepare_fold
from gemoclap_sb.data.splits import Row
from gemoclap_sb.files import file_digest

VALIDATIONS = ("random", "speaker", "session", "development", "test")


def needed_columns(fold_column: str, validation: str) -> list[str]:
    """Columns that a split reads; speakers where it goes by them.

    >>> needed_columns("session", "random"), needed_columns("session", "speaker")[-1]
    (['ID', 'wav', 'emotion', 'session'], 'spk_id')
    """
    speakers = ["spk_id"] if validation in ("speaker", "development") else []
    return list(dict.fromkeys(["ID", "wav", "emotion", fold_column, *speakers]))


def assign_folds(
    rows: Iterable[Row], column: str, number_of_folds: int | None = None
) -> dict[str, int]:
    """Give each value of a column the fold that tests on it, from 1.

    Without ``number_of_folds`` a fold for each value, in sorted order, numbers by size. Else
    the values are dealt to so many folds, those of most rows first, each to the fold that has
    the fewest rows so far (longest processing time first: Graham, SIAM Journal on Applied
    Mathematics 17(2), 1969). ValueError if there would be fewer than two folds, or more than
    values.

    Examples
    --------
    >>> rows = [{"spk_id": speaker} for speaker in "aaaabbbccde"]
    >>> assign_folds(rows, "spk_id")
    {'a': 1, 'b': 2, 'c': 3, 'd': 4, 'e': 5}
    >>> assign_folds(rows, "spk_id", 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1, 'e': 1}
    """
    sizes = Counter(str(row[column]) for row in rows)
    values = sorted(sizes, key=_in_order)
    if len(values) < 2:
        raise ValueError(
            f"expected two values of {column} or more, one side to train on and one to test on; "
            f"found {', '.join(values) or 'none'}."
        )
    if number_of_folds is None:
        return {value: fold for fold, value in enumerate(values, start=1)}
    if not (isinstance(number_of_folds, int) and 2 <= number_of_folds <= len(values)):
        raise ValueError(
            f"number_of_folds: expected 2 to {len(values)}, for there are {len(values)} values "
            f"of {column}; found {number_of_folds!r}."
        )
    totals = dict.fromkeys(range(1, number_of_folds + 1), 0)
    fold_of = {}
    for value in sorted(values, key=lambda value: -sizes[value]):
        fold_of[value] = min(totals, key=totals.__getitem__)
        totals[fold_of[value]] += sizes[value]
    return {value: fold_of[value] for value in values}


def prepare_manifest(
    data_folder: str | os.PathLike | None,
    save_folder: str | os.PathLike,
    fold: int,
    *,
    manifest: str | os.PathLike,
    fold_column: str = "session",
    number_of_folds: int | None = None,
    classes: Mapping[str, Collection[str]] | None = None,
    skip_bad_audio: bool = False,
    validation: str = "random",
    valid_fraction: float = 0.1,
    valid_session: int | None = None,
    valid_speakers: int | list[str] = 2,
    seed: int = 1,
) -> dict[str, Any]:
    r"""Write ``train.csv``, ``valid.csv`` and ``test.csv`` of one fold of a manifest.

    ``session`` in them is the number of the fold that tests on the row. ``spk_id``, ``gender`` and
    ``transcript`` are empty where the manifest has no such column; further columns are kept.
    With the same arguments and the same manifest nothing is done again.

    Parameters
    ----------
    data_folder : str or os.PathLike, optional
        Stands for ``$data_root``; by default the manifest's folder.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        From 1.
    manifest : str or os.PathLike
        A CSV file with at least ``ID``, ``wav``, ``emotion`` and the fold column; with ``spk_id``
        where speakers are held out for validation.
    fold_column, number_of_folds
        See `assign_folds`.
    classes, skip_bad_audio
        See `gemoclap_sb.data.manifests.read_manifest`.
    validation, valid_fraction, valid_session, valid_speakers, seed
        See `gemoclap_sb.data.splits.split_fold`; a session is a fold here.

    Returns
    -------
    dict
        See `gemoclap_sb.data.preparation.write_preparation`.

    Raises
    ------
    ManifestError
        If the manifest or its audio is not as described.
    ValueError
        If the arguments do not fit each other or the manifest.

    Examples
    --------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", numpy.zeros(8000), 16000)
    >>> lines = [f"{s}{n},a.wav,{e},{s}" for s in "xyz" for n, e in enumerate(["ang", "sad"])]
    >>> _ = (folder / "corpus.csv").write_text("\n".join(["ID,wav,emotion,spk_id", *lines]))
    >>> result = prepare_manifest(
    ...     None, folder / "fold_3", 3, manifest=folder / "corpus.csv", fold_column="spk_id",
    ...     validation="speaker", valid_speakers=1,
    ... )
    >>> [row["ID"] for row in read_cells(result["test_csv"], ("ID",))]
    ['z0', 'z1']
    """
    path = Path(os.path.abspath(manifest))
    cells_of = read_cells(path, needed_columns(fold_column, validation))
    fold_of = assign_folds(cells_of, fold_column, number_of_folds)
    folds = sorted(set(fold_of.values()))
    arguments = {
        "corpus": path.name,
        "data_folder": data_folder or path.parent,
        "manifest": str(path),
        "sha256": file_digest(path),
        "fold": fold,
        "fold_column": fold_column,
        "folds": {str(f): [value for value, of in fold_of.items() if of == f] for f in folds},
        "classes": {name: list(of) for name, of in (classes or {}).items()},
        "skip_bad_audio": skip_bad_audio,
        "validation": validation,
        "valid_fraction": valid_fraction,
        "valid_session": valid_session,
        "valid_speakers": valid_speakers,
        "seed": seed,
    }

    def read_rows(root: Path, issues: CorpusIssues) -> list[dict[str, Any]]:
        rows = read_manifest(path, root, classes, skip_bad_audio, required=())
        # As the manifest has them: some are read as numbers, paths or names.
        folds = {cells["ID"]: fold_of[cells[fold_column]] for cells in cells_of}
        left_out = {cells["ID"]: {**cells, "duration": 0.0} for cells in cells_of}
        return [manifest_row(name, of, root, folds[name]) for name, of in (left_out | rows).items()]

    return prepare_fold(
        save_folder,
        arguments,
        read_rows,
        folds,
        VALIDATIONS,
        valid_fraction=valid_fraction,
        valid_session=valid_session,
        valid_speakers=valid_speakers,
    )


def manifest_row(name: str, cells: Mapping[str, Any], root: Path, fold: int) -> dict[str, Any]:
    """Complete a manifest's row for the manifests of a fold."""
    wav = Path(os.path.abspath(cells["wav"]))
    inside = wav.is_relative_to(root)
    further = {key: value for key, value in cells.items() if key not in COLUMNS}
    return {
        "ID": name,
        "duration": round(cells["duration"], 6),
        "wav": f"$data_root/{wav.relative_to(root).as_posix()}" if inside else str(wav),
        "spk_id": cells.get("spk_id", ""),
        "gender": cells.get("gender", ""),
        "emotion": cells.get("emotion", ""),
        "session": str(fold),
        "transcript": clean_text(cells.get("transcript", "")),
        **{key: clean_text(value) for key, value in further.items()},
    }


def _in_order(value: str) -> tuple[int, int, str]:
    return (0, int(value), "") if value.isdecimal() else (1, 0, value)
