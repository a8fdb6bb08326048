"""Manifests: the CSV files that stand between a corpus and everything else.

One row is one utterance::

    ID,duration,wav,spk_id,gender,emotion,session,transcript

``duration`` is in seconds, ``wav`` may start with ``$data_root``, ``gender`` is ``F`` or
``M``, ``emotion`` a short code such as ``ang``. More columns may follow. The files are
SpeechBrain's own CSV format (:func:`speechbrain.dataio.dataio.load_data_csv`) and plain
CSV for pandas.

Whoever writes such a file for a corpus trains on it without a prepare script, so reading
checks what a hand-made file gets wrong, all of it at once and each with its row, before
the first batch is made.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from gemoclap_sb.data.audio import AudioError, check_audio
from gemoclap_sb.data.csv_rows import (
    COLUMNS,
    DATA_ROOT,
    MOST_PROBLEMS_SHOWN,
    VARIABLE,
    LabelError,
    ManifestError,
    Record,
    check_data_root,
    is_control,
    printable,
    read_records,
    rooted,
    summary,
    unknown_variables,
)
from gemoclap_sb.files import atomic_path

logger = get_logger(__name__)

_FORMULA = ("=", "+", "-", "@")
_FILES_WORTH_A_PROGRESS_BAR = 500
_DURATION_TOLERANCE_SECONDS = 0.1


def clean_text(text: str) -> str:
    r"""Make any text safe for one cell of a manifest.

    Control characters and runs of white space become one space, and a ``$`` loses its hold
    on the word after it, which SpeechBrain's CSV reader would take for the name of a variable.

    Examples
    --------
    >>> clean_text("  It costs $50,\tyou\0 know.\r\n")
    'It costs $ 50, you know.'
    """
    printable = "".join(" " if is_control(character) else character for character in text)
    return VARIABLE.sub(r"$ \1", " ".join(printable.split()))


def write_manifest(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The CSV file to write or to replace.
    rows : iterable of mapping
        One per utterance with every column of :data:`COLUMNS`; other keys become further
        columns, in the order of the first row. White space around a value is not kept.

    Raises
    ------
    ManifestError
        If there are no rows, a row lacks a column or has one that the first row lacks, two
        rows share an ID, or a value has a line break or a ``$variable`` other than
        ``$data_root`` (see `clean_text`).

    Examples
    --------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> write_manifest(path, [{
    ...     "ID": "a1", "duration": 1.5, "wav": "$data_root/a1.wav", "spk_id": "a",
    ...     "gender": "F", "emotion": "hap", "session": "1", "transcript": "Oh, good.",
    ... }])
    >>> print(path.read_text(), end="")
    ID,duration,wav,spk_id,gender,emotion,session,transcript
    a1,1.5,$data_root/a1.wav,a,F,hap,1,"Oh, good."
    """
    rows = [dict(row) for row in rows]
    if not rows:
        raise ManifestError(f"Cannot write {path}: there are no rows.")
    columns = list(dict.fromkeys([*COLUMNS, *rows[0]]))
    cells: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        where = f"Cannot write {path}: row {number} (ID {row.get('ID')!r})"
        if missing := [name for name in columns if name not in row]:
            raise ManifestError(f"{where} has no {', '.join(missing)}.")
        if extra := [name for name in row if name not in columns]:
            raise ManifestError(f"{where} has {', '.join(extra)}, which the first row has not.")
        values = [str(row[name]).strip() for name in columns]
        if values[0] in cells:
            earlier = list(cells).index(values[0]) + 1
            raise ManifestError(f"{where} has the same ID as row {earlier}.")
        for name, value in zip(columns, values, strict=True):
            if any(map(is_control, value)):
                raise ManifestError(
                    f"{where}: {name} has a line break or a control character: {value!r}. "
                    "clean_text removes them."
                )
            if unknown := unknown_variables(value):
                raise ManifestError(
                    f"{where}: SpeechBrain would read ${unknown[0]} in {name} as a variable: "
                    f"{value!r}. Only $data_root may be used; clean_text sets others apart."
                )
        cells[values[0]] = values
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *cells.values()])


def read_manifest(
    path: str | os.PathLike,
    data_root: str | os.PathLike | None = None,
    classes: Mapping[str, Collection[str]] | None = None,
    skip_bad_audio: bool = False,
    required: Collection[str] = COLUMNS,
) -> dict[str, dict[str, Any]]:
    r"""Read a manifest and check every row of it and every audio file it names.

    Headers are always read. Files of float samples are decoded and looked through for NaN;
    integer samples cannot hold it.

    Parameters
    ----------
    path : str or os.PathLike
        The CSV file, UTF-8, with commas. A relative ``wav`` starts from its folder, or from
        the current one if no such file is there.
    data_root : str or os.PathLike, optional
        Folder that takes the place of ``$data_root``.
    classes : mapping of str to collection of str, optional
        Allowed values per column, such as ``{"emotion": ("ang", "neu")}``.
    skip_bad_audio : bool
        Leave out rows whose audio is missing, unreadable, zero-length or has NaN, with a
        warning each, instead of raising. Every file is decoded.
    required : collection of str
        Columns that must be there, besides ``ID``, ``wav`` and those of ``classes``. Without
        a ``duration`` it comes from the audio.

    Returns
    -------
    dict of str to dict
        Rows by ID in the order of the file, for SpeechBrain's ``DynamicItemDataset``.
        ``duration`` is a float, everything else a string; further columns are kept.

    Raises
    ------
    ManifestError
        Naming the file and, for each problem, its row (data rows from 1), its line in the
        file, and its ID: a missing column, a class that is not allowed, a duplicate ID, a
        ``duration`` that is no positive number, bad audio, ``$data_root`` without
        ``data_root``; or if no row is left.

    Examples
    --------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", numpy.zeros(8000), 16000)
    >>> _ = (folder / "all.csv").write_text(
    ...     "ID,duration,wav,spk_id,gender,emotion,session,transcript\n"
    ...     "a,0.5,$data_root/a.wav,s1,F,neu,1,Fine.\n"
    ... )
    >>> rows = read_manifest(folder / "all.csv", folder, {"emotion": ("ang", "neu")})
    >>> rows["a"]["duration"], rows["a"]["wav"] == str(folder / "a.wav")
    (0.5, True)
    """
    path = Path(path)
    classes = dict(classes or {})
    records, problems = read_records(path, {"ID", "wav", *required, *classes})
    _check_data_root(path, records, data_root)
    unlabelled = list(_unknown_labels(records, classes))
    problems += unlabelled
    first: dict[str, Record] = {}
    for record in records:
        found = list(_check_cells(record, data_root))
        beside = path.parent / record.cells["wav"]
        if record.has_path and beside.exists():
            record.cells["wav"] = str(beside)
        earlier = first.setdefault(record.cells["ID"], record)
        if earlier is not record:
            found.append(f"duplicate ID, first used in {earlier.where}")
        problems += [f"{record.where}: {problem}" for problem in found]

    unusable, false_durations = _check_files(path, records, decode=skip_bad_audio)
    problems += false_durations if skip_bad_audio else [*unusable, *false_durations]
    if problems:
        kind = LabelError if unlabelled else ManifestError
        raise kind(summary(path, problems))
    if len(unusable) == len(records):
        raise ManifestError(
            f"{path}: no row is left, the audio of all {len(records)} is unusable; first: "
            f"{unusable[0]}"
        )
    for line in unusable[:MOST_PROBLEMS_SHOWN]:
        logger.warning("%s, %s Left out.", path, line)
    if more := len(unusable[MOST_PROBLEMS_SHOWN:]):
        logger.warning("%s: %d more rows left out, their audio being unusable.", path, more)
    _warn_of_formulas(path, records, ("ID", *classes))
    # SpeechBrain provides the ID itself, under the key "id".
    return {
        name: {key: value for key, value in record.cells.items() if key != "ID"}
        for name, record in first.items()
        if record.usable
    }


def read_cells(path: str | os.PathLike, filled: Collection[str]) -> list[dict[str, str]]:
    r"""Read the rows of a manifest as they stand; no audio is looked at.

    ManifestError if the file cannot be read, lacks one of the columns ``filled``, or a row has
    nothing there.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "all.csv"
    >>> _ = path.write_text("ID,spk_id,emotion\na,s1,neu\nb,s2,ang\n")
    >>> [row["emotion"] for row in read_cells(path, ("ID", "emotion"))]
    ['neu', 'ang']
    """
    path = Path(path)
    records, problems = read_records(path, filled)
    for name in filled:
        if empty := [record for record in records if not record.cells[name]]:
            problems.append(f"{_where(empty)}: the {name} is empty")
    if problems:
        raise ManifestError(summary(path, problems))
    return [record.cells for record in records]


def _check_data_root(
    path: Path, records: list[Record], data_root: str | os.PathLike | None
) -> None:
    using = [record for record in records if f"${DATA_ROOT}" in record.cells["wav"]]
    if using:
        check_data_root(path, len(using), using[0].where, data_root)


def _unknown_labels(records: list[Record], classes: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield a line for each label that is not allowed, however many rows have it."""
    for name, allowed in classes.items():
        rows: dict[str, list[Record]] = {}
        for record in records:
            if record.cells[name] not in allowed:
                rows.setdefault(record.cells[name], []).append(record)
        for label, of in rows.items():
            expected = ", ".join(map(str, allowed))
            yield f"{_where(of)}: {name} is {label!r}, expected one of {expected}"


def _where(records: list[Record]) -> str:
    """Say where the first of some rows is, and how many there are besides."""
    more = f" and {len(records) - 1} more rows" if len(records) > 1 else ""
    return f"{records[0].where}{more}"


def _check_cells(record: Record, data_root: str | os.PathLike | None) -> Iterator[str]:
    """Yield what is wrong with a row, its audio aside, and give its cells their final values."""
    cells = record.cells
    unknown = unknown_variables(cells["wav"])
    record.has_path = bool(cells["wav"]) and not unknown
    if not cells["ID"]:
        yield "the ID is empty"
    if not cells["wav"]:
        yield "the wav is empty"
    if unknown:
        yield f"wav {cells['wav']!r} has ${unknown[0]}; only $data_root is replaced"
    if data_root is not None:
        for name, value in cells.items():
            cells[name] = rooted(value, data_root)


def _check_files(path: Path, records: list[Record], decode: bool) -> tuple[list[str], list[str]]:
    """Check every audio file, mark the unusable, and compare durations with the audio's."""
    unusable, problems, differing = [], [], []
    progress = tqdm(
        [record for record in records if record.has_path],
        desc=f"checking the audio of {printable(path.name)}",
        # None: on a terminal only, so that log files stay readable.
        disable=True if len(records) < _FILES_WORTH_A_PROGRESS_BAR else None,
    )
    for record in progress:
        wav = record.cells["wav"]
        try:
            seconds = check_audio(wav, decode=decode).duration
        except AudioError as error:
            places = dict.fromkeys((str(path.absolute().parent), os.getcwd()))
            started = "" if os.path.isabs(wav) else f" (Looked for in {' and '.join(places)}.)"
            unusable.append(f"{record.where}: {error}{started}")
            record.usable = False
            continue
        stated = record.cells.get("duration") or seconds
        try:
            record.cells["duration"] = float(stated)
        except ValueError:
            record.cells["duration"] = math.nan
        if not 0 < record.cells["duration"] < math.inf:
            problems.append(
                f"{record.where}: duration is {stated!r}, expected a positive number of seconds"
            )
        elif abs(record.cells["duration"] - seconds) > _DURATION_TOLERANCE_SECONDS:
            differing.append(f"{record.where}: {stated} s stated, {seconds:g} s in the audio")
            record.cells["duration"] = seconds
    if differing:
        logger.warning(
            "%s: %d rows state another duration than their audio has, which is used instead; "
            "first: %s.",
            path,
            len(differing),
            differing[0],
        )
    return unusable, problems


def _warn_of_formulas(path: Path, records: list[Record], names: Iterable[str]) -> None:
    """Say which cells a spreadsheet would run; programs need them as they are, and get them so."""
    cells = [record.cells[name] for record in records for name in names]
    if formulas := [cell for cell in cells if cell.startswith(_FORMULA)]:
        logger.warning(
            "%s: %d IDs or labels begin with one of %s, first %r, and a spreadsheet takes them for "
            "formulas. Manifests keep them so: open these as text. Results have a ' before them.",
            path,
            len(formulas),
            " ".join(_FORMULA),
            formulas[0],
        )
