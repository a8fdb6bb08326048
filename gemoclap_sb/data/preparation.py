"""What every prepare script does beside reading its own corpus.

A corpus' quirks are counted and told, one line per kind; its size is compared
with the published one; the three manifests of a fold are written together with
a record, ``prepare.json``, by which the same preparation is not done twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.manifests import clean_text, write_manifest
from gemoclap_sb.files import write_json

__all__ = [
    "Quirks",
    "compare_counts",
    "decode_text",
    "finished_preparation",
    "visible_files",
    "write_preparation",
]

logger = get_logger(__name__)

RECORD = "prepare.json"
SPLITS = ("train", "valid", "test")
_MOST_DETAILS_SHOWN = 12


class Quirks:
    """Counts what a corpus folder has that a tidy one would not.

    Parameters
    ----------
    root : str or os.PathLike
        The folder of the corpus; paths below it are shown without it.

    Examples
    --------
    >>> quirks = Quirks("/corpus")
    >>> quirks.add("AppleDouble files (._*), ignored", Path("/corpus/Session1/._a.wav"))
    >>> quirks.add("labels outside the four classes, left out", "fru")
    >>> quirks.add("labels outside the four classes, left out", "fru")
    >>> quirks.lines()
    ['1 AppleDouble files (._*), ignored: first Session1/._a.wav', \
'2 labels outside the four classes, left out: fru 2']
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self._root = Path(root)
        self._details: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, detail: str | Path) -> None:
        """Count one case.

        Parameters
        ----------
        kind : str
            What it is and what was done about it, in the plural.
        detail : str or Path
            Which utterance, label or file it is.
        """
        if isinstance(detail, Path) and detail.is_relative_to(self._root):
            detail = detail.relative_to(self._root)
        self._details[kind][clean_text(str(detail))] += 1

    def counts(self) -> dict[str, int]:
        """Give the number of cases of each kind."""
        return {kind: details.total() for kind, details in sorted(self._details.items())}

    def lines(self) -> list[str]:
        """Give one line for each kind."""
        lines = []
        for kind, details in sorted(self._details.items()):
            # Names that never repeat are files or utterances: one of them is enough.
            if max(details.values()) == 1 or len(details) > _MOST_DETAILS_SHOWN:
                shown = f"first {min(details)}"
            else:
                shown = ", ".join(f"{name} {count}" for name, count in sorted(details.items()))
            lines.append(f"{details.total()} {kind}: {shown}")
        return lines


def visible_files(folder: Path, suffixes: Iterable[str], quirks: Quirks) -> Iterator[Path]:
    """Walk through a folder and everything below it, in a fixed order.

    AppleDouble files, which macOS leaves on foreign disks under ``._`` and the
    name of the file they belong to, are counted and not given. So are other
    hidden files.

    Parameters
    ----------
    folder : Path
        Where to look. A folder that is not there has no files.
    suffixes : iterable of str
        The endings wanted, in small letters, such as ``(".wav",)``; capitals
        are the same to it.
    quirks : Quirks
        Where hidden files are counted.

    Yields
    ------
    Path

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.WAV", "a.wav", "._a.wav", "a.txt"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> quirks = Quirks(folder)
    >>> [path.name for path in visible_files(folder, (".wav",), quirks)]
    ['a.wav', 'b.WAV']
    >>> quirks.counts()
    {'AppleDouble files (._*), ignored': 1}
    """
    endings = tuple(suffixes)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("._"):
                quirks.add("AppleDouble files (._*), ignored", path)
            elif name.startswith("."):
                quirks.add("hidden files, ignored", path)
            elif name.lower().endswith(endings):
                yield path


def decode_text(path: Path, quirks: Quirks) -> str:
    r"""Read a text file of unknown encoding without ever failing on a byte.

    Parameters
    ----------
    path : Path
        A text file.
    quirks : Quirks
        Where a file that is not UTF-8 is counted. It is read as Windows-1252,
        in which the typographic quotes of old transcriptions are written.

    Returns
    -------
    str

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"don\x92t \x81")
    >>> quirks = Quirks(path.parent)
    >>> decode_text(path, quirks), list(quirks.counts().values())
    ('don’t �', [1])
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        quirks.add("text files that are not UTF-8, read as Windows-1252", path)
        return data.decode("cp1252", errors="replace")


def compare_counts(
    corpus: str,
    rows: Iterable[Mapping[str, Any]],
    expected: Mapping[str, Mapping[str, int]],
) -> str | None:
    """Say in one sentence how the size of a corpus differs from the published one.

    Parameters
    ----------
    corpus : str
        Its name, for the sentence.
    rows : iterable of mapping
        All rows that will be used.
    expected : mapping of str to mapping of str to int
        Per column, the number of rows of some values. The numbers of the first
        column add up to all rows.

    Returns
    -------
    str or None
        None where all is as expected.

    Examples
    --------
    >>> expected = {"emotion": {"ang": 1, "neu": 2}}
    >>> compare_counts("Tiny", [{"emotion": "neu"}], expected)
    'Tiny: expected 3 utterances (emotion: ang 1, neu 2), found 1 (emotion: ang 0, neu 1).'
    >>> compare_counts("Tiny", [{"emotion": name} for name in ("neu", "ang", "neu")], expected)
    """
    rows = list(rows)
    found = {}
    for column, counts in expected.items():
        present = Counter(str(row[column]) for row in rows)
        found[column] = {value: present[value] for value in counts}
    total = sum(next(iter(expected.values())).values())
    if len(rows) == total and found == expected:
        return None
    return (
        f"{corpus}: expected {total} utterances ({_describe(expected)}), found {len(rows)} "
        f"({_describe(found)})."
    )


def _describe(counts: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{column}: {', '.join(f'{value} {number}' for value, number in sorted(values.items()))}"
        for column, values in counts.items()
    )


def finished_preparation(
    save_folder: str | os.PathLike, arguments: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Find the result of an earlier preparation with the same arguments.

    Parameters
    ----------
    save_folder : str or os.PathLike
        Where it was written.
    arguments : mapping
        The arguments of this preparation, as :mod:`json` can store them.

    Returns
    -------
    dict or None
        What :func:`write_preparation` returned then, or None if it has to be
        done: never done here, done with other arguments, or a file is missing.
    """
    save_folder = Path(save_folder)
    try:
        record = json.loads((save_folder / RECORD).read_text(encoding="utf-8"))
        before, notes = record["arguments"], record["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if before != json.loads(json.dumps(dict(arguments))):
        return None
    result = _result(save_folder, arguments, notes)
    if not all(os.path.isfile(result[f"{split}_csv"]) for split in SPLITS):
        return None
    logger.info(
        "%s was prepared before with the same arguments; remove %s to prepare it again.",
        save_folder,
        save_folder / RECORD,
    )
    return result


def write_preparation(
    save_folder: str | os.PathLike,
    arguments: Mapping[str, Any],
    splits: Mapping[str, list[Mapping[str, Any]]],
    quirks: Quirks,
    warning: str | None = None,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv``, ``test.csv`` and ``prepare.json``.

    Parameters
    ----------
    save_folder : str or os.PathLike
        Where to write; made if missing.
    arguments : mapping
        All that the manifests depend on, with ``data_folder`` and ``validation``.
    splits : mapping of str to list of mapping
        Rows under ``"train"``, ``"valid"`` and ``"test"``.
    quirks : Quirks
        Logged here, a line for each kind.
    warning : str, optional
        What :func:`compare_counts` gave. Logged as a warning and put before the notes.
    notes : iterable of str
        What a report of the results must say.

    Returns
    -------
    dict
        ``train_csv``, ``valid_csv``, ``test_csv`` and ``data_root`` (str), and
        ``notes`` (list of str).

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> row = {
    ...     "ID": "a1", "duration": 1.5, "wav": "$data_root/a1.wav", "spk_id": "a",
    ...     "gender": "F", "emotion": "hap", "session": "1", "transcript": "Good.",
    ... }
    >>> arguments = {"data_folder": "/corpus", "fold": 1, "validation": "test"}
    >>> finished_preparation(folder, arguments) is None
    True
    >>> splits = {"train": [row], "valid": [row], "test": [row]}
    >>> result = write_preparation(folder, arguments, splits, Quirks("/corpus"))
    >>> result["data_root"], finished_preparation(folder, arguments) == result
    ('/corpus', True)
    >>> finished_preparation(folder, {**arguments, "fold": 2}) is None
    True
    """
    save_folder = Path(save_folder)
    notes = list(notes)
    classes = sorted({row["emotion"] for rows in splits.values() for row in rows})
    for split in SPLITS:
        present = {row["emotion"] for row in splits[split]}
        if missing := [name for name in classes if name not in present]:
            notes.append(f"{split}.csv has no utterance of the class {', '.join(missing)}.")
    all_notes = [warning, *notes] if warning else notes
    # Removed first: killed between two manifests, a stale record would vouch for a mixture.
    (save_folder / RECORD).unlink(missing_ok=True)
    for split in SPLITS:
        write_manifest(save_folder / f"{split}.csv", splits[split])
    counts = {
        split: {
            "utterances": len(rows),
            "seconds": round(sum(row["duration"] for row in rows), 3),
            "emotion": dict(sorted(Counter(row["emotion"] for row in rows).items())),
        }
        for split, rows in splits.items()
    }
    write_json(
        save_folder / RECORD,
        {
            "validation": arguments["validation"],
            "arguments": dict(arguments),
            "counts": counts,
            "quirks": quirks.counts(),
            "notes": all_notes,
        },
    )
    for line in quirks.lines():
        logger.info("%s: %s", arguments["data_folder"], line)
    for split in SPLITS:
        logger.info(
            "%s: %d utterances (%s)",
            save_folder / f"{split}.csv",
            counts[split]["utterances"],
            ", ".join(f"{name} {number}" for name, number in counts[split]["emotion"].items()),
        )
    for note in notes:
        logger.info("%s", note)
    if warning:
        logger.warning("%s Going on with what was found.", warning)
    return _result(save_folder, arguments, all_notes)


def _result(
    save_folder: Path, arguments: Mapping[str, Any], notes: Iterable[str]
) -> dict[str, Any]:
    paths = {f"{split}_csv": str(save_folder / f"{split}.csv") for split in SPLITS}
    return {**paths, "data_root": str(arguments["data_folder"]), "notes": list(notes)}
