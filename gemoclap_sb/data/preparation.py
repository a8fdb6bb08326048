"""What every prepare script does beside reading its own corpus.

What a corpus folder has that a tidy one would not is counted and told, one line for each
kind; its size is compared with the published one; the three manifests of a fold are
written together with a record, ``prepare.json``, by which the same preparation is not done
twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.manifests import clean_text, write_manifest
from gemoclap_sb.data.splits import split_fold
from gemoclap_sb.files import read_json, write_json

logger = get_logger(__name__)

RECORD = "prepare.json"
SPLITS = ("train", "valid", "test")
_MOST_DETAILS_SHOWN = 12


class CorpusIssues:
    """Counts what a corpus folder has that a tidy one would not.

    Parameters
    ----------
    root : str or os.PathLike
        The folder of the corpus; paths below it are shown without it.

    Examples
    --------
    >>> issues = CorpusIssues("/corpus")
    >>> issues.add("AppleDouble files (._*), ignored", Path("/corpus/Session1/._a.wav"))
    >>> issues.add("labels outside the four classes, left out", "fru")
    >>> issues.add("labels outside the four classes, left out", "fru")
    >>> issues.lines()
    ['1 AppleDouble files (._*), ignored: first Session1/._a.wav', \
'2 labels outside the four classes, left out: fru 2']
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self._root = Path(root)
        self._details: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, kind: str, detail: str | Path) -> None:
        """Count a case: what it is and what was done about it, and which one it is."""
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


def visible_files(folder: Path, suffixes: Iterable[str], issues: CorpusIssues) -> Iterator[Path]:
    """Walk through a folder and everything below it, in a fixed order.

    ``suffixes`` are in small letters and match capitals too. Hidden files are counted and
    not given, AppleDouble files among them, which macOS leaves on foreign disks under ``._``
    and the name of the file they belong to. A folder that is not there has no files.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.WAV", "a.wav", "._a.wav", "a.txt"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> issues = CorpusIssues(folder)
    >>> [path.name for path in visible_files(folder, (".wav",), issues)]
    ['a.wav', 'b.WAV']
    >>> issues.counts()
    {'AppleDouble files (._*), ignored': 1}
    """
    endings = tuple(suffixes)
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith("._"):
                issues.add("AppleDouble files (._*), ignored", path)
            elif name.startswith("."):
                issues.add("hidden files, ignored", path)
            elif name.lower().endswith(endings):
                yield path


def decode_text(path: Path, issues: CorpusIssues) -> str:
    r"""Read a text file of unknown encoding without ever failing on a byte.

    What is not UTF-8 is counted and read as Windows-1252, in which the typographic quotes
    of old transcriptions are written.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"don\x92t \x81")
    >>> issues = CorpusIssues(path.parent)
    >>> decode_text(path, issues), list(issues.counts().values())
    ('don’t �', [1])
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        issues.add("text files that are not UTF-8, read as Windows-1252", path)
        return data.decode("cp1252", errors="replace")


def choose_classes(
    classes: Sequence[str] | str | None, available: Sequence[str], merged: Collection[str] = ()
) -> list[str]:
    """Check the classes asked for, a list or one string with commas, and put them in order.

    None asks for all that are ``available``, whose order is kept. Those that are ``merged`` into
    others are left out. ValueError for a class that is not available, or for fewer than two.

    Examples
    --------
    >>> choose_classes("sad, ang", ["ang", "hap", "sad"])
    ['ang', 'sad']
    >>> choose_classes(None, ["neu", "cal", "sad"], merged={"cal"})
    ['neu', 'sad']
    """
    if classes is None:
        classes = available
    asked = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    if unknown := [name for name in asked if name not in available]:
        raise ValueError(
            f"classes has {', '.join(map(repr, unknown))}; expected some of {', '.join(available)}."
        )
    chosen = [name for name in available if name in asked and name not in merged]
    if len(chosen) < 2:
        remark = (
            f" ({', '.join(merged)} is merged into another)" if set(merged) & set(asked) else ""
        )
        raise ValueError(f"classes must name at least two classes, found {list(asked)}{remark}.")
    return chosen


def compare_counts(
    corpus: str,
    rows: Iterable[Mapping[str, Any]],
    expected: Mapping[str, Mapping[str, int]],
) -> str | None:
    """Say in one sentence how the size of a corpus differs from the published one.

    ``expected`` has the number of rows of some values per column; those of the first column
    add up to all rows. None where all is as expected.

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


def prepare_fold(
    save_folder: str | os.PathLike,
    arguments: Mapping[str, Any],
    read_rows: Callable[[Path, CorpusIssues], list[Mapping[str, Any]]],
    folds: Collection[int],
    validations: Collection[str],
    expected: Mapping[str, Mapping[str, int]] | None = None,
    **split_options: Any,
) -> dict[str, Any]:
    """Read a corpus, split one fold of it, and write the manifests, unless that was done before.

    Parameters
    ----------
    save_folder : str or os.PathLike
        Where to write.
    arguments : mapping
        All that the manifests depend on, as :mod:`json` can store it: ``corpus``,
        ``data_folder``, ``fold``, ``validation``, ``seed`` and whatever else there is.
    read_rows : Callable
        Makes the rows of a corpus folder, and counts what is unusual there. Rows without a
        ``duration``, their audio being unusable, are split like the others and then left out.
    folds, validations : collection
        What ``fold`` and ``validation`` may be.
    expected : mapping, optional
        See `compare_counts`; None compares nothing.
    **split_options
        For `gemoclap_sb.data.splits.split_fold`.

    Returns
    -------
    dict
        What `write_preparation` returns.

    Raises
    ------
    ValueError
        If the arguments do not fit each other or the folder.
    """
    for name, allowed in (("fold", folds), ("validation", validations)):
        if arguments[name] not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(str, allowed))}, found {arguments[name]!r}."
            )
    root = Path(os.path.abspath(arguments["data_folder"]))
    arguments = {**arguments, "data_folder": str(root)}
    if (finished := finished_preparation(save_folder, arguments)) is not None:
        return finished
    issues = CorpusIssues(root)
    rows = read_rows(root, issues)
    warning = compare_counts(arguments["corpus"], rows, expected) if expected else None
    chosen = (arguments["fold"], arguments["validation"])
    splits, notes = split_fold(rows, *chosen, seed=arguments["seed"], **split_options)
    usable = {split: [row for row in of if row["duration"]] for split, of in splits.items()}
    left_out = {
        split: [row["ID"] for row in of if not row["duration"]] for split, of in splits.items()
    }
    return write_preparation(save_folder, arguments, usable, issues, warning, notes, left_out)


def finished_preparation(
    save_folder: str | os.PathLike, arguments: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Find what `write_preparation` returned for the same arguments earlier.

    None if it has to be done: never done here, done with other arguments, or a file is
    missing.
    """
    save_folder = Path(save_folder)
    try:
        record = read_json(save_folder / RECORD)
        before, notes = record["arguments"], record["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if before != json.loads(json.dumps(dict(arguments))):
        return None
    result = _result(save_folder, arguments, notes, record.get("left_out"))
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
    issues: CorpusIssues,
    warning: str | None = None,
    notes: Iterable[str] = (),
    left_out: Mapping[str, list[str]] | None = None,
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
    issues : CorpusIssues
        Logged here, a line for each kind.
    warning : str, optional
        What `compare_counts` gave. Logged as a warning and put before the notes.
    notes : iterable of str
        What a report of the results must say.
    left_out : mapping of str to list of str, optional
        IDs by split of utterances whose audio cannot be used.

    Returns
    -------
    dict
        ``train_csv``, ``valid_csv``, ``test_csv`` and ``data_root`` (str), ``notes`` (list of
        str), and ``left_out`` where there are such.

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
    >>> result = write_preparation(folder, arguments, splits, CorpusIssues("/corpus"))
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
    record = {
        "validation": arguments["validation"],
        "arguments": dict(arguments),
        "counts": counts,
        "issues": issues.counts(),
        "notes": all_notes,
        "left_out": {split: ids for split, ids in (left_out or {}).items() if ids},
    }
    write_json(save_folder / RECORD, record)
    for line in issues.lines():
        logger.info("%s: %s", arguments["data_folder"], line)
    for split in SPLITS:
        classes = ", ".join(f"{name} {n}" for name, n in counts[split]["emotion"].items())
        path, number = save_folder / f"{split}.csv", counts[split]["utterances"]
        logger.info("%s: %d utterances (%s)", path, number, classes)
    for note in notes:
        logger.info("%s", note)
    if warning:
        logger.warning("%s Going on with what was found.", warning)
    return _result(save_folder, arguments, all_notes, record["left_out"])


def _result(
    save_folder: Path,
    arguments: Mapping[str, Any],
    notes: Iterable[str],
    left_out: Mapping[str, list[str]] | None,
) -> dict[str, Any]:
    paths = {f"{split}_csv": str(save_folder / f"{split}.csv") for split in SPLITS}
    result = {**paths, "data_root": str(arguments["data_folder"]), "notes": list(notes)}
    return {**result, "left_out": dict(left_out)} if left_out else result
