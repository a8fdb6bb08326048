"""What the manifests of an experiment contain, wherever the corpus lies, and what they share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import PurePath
from typing import Any

from gemoclap_sb.data.manifests import ManifestError, read_cells
from gemoclap_sb.data.splits import NOT_INDEPENDENT
from gemoclap_sb.files import file_digest

Rows = Mapping[str, Mapping[str, Any]]


_LEARNT = ("train", "test")
_A_LITTLE = 4096


def rows_digest(rows: Rows, data_root: str | os.PathLike | None = None) -> str:
    """Give the SHA-256 of rows by ID, in their order: all cells, but of ``wav`` only its stem.

    A copy of the corpus at another place, or in another format of the same durations, agrees.
    ``data_root`` is what stands in the cells for ``$data_root``.

    Examples
    --------
    >>> one = {"a": {"wav": "/here/a.wav", "duration": 1.0, "emotion": "ang"}}
    >>> other = {"a": {"wav": "/there/a.flac", "duration": 1.0, "emotion": "ang"}}
    >>> rows_digest(one) == rows_digest(other)
    True
    >>> rows_digest(one) == rows_digest({"a": {**one["a"], "emotion": "sad"}})
    False
    """
    digest = hashlib.sha256()
    for cells in _contents(rows, data_root):
        digest.update(json.dumps(cells, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def same_rows(one: Rows, other: Rows) -> bool:
    """Whether two manifests have the same rows, in whatever order and place."""
    if one.keys() != other.keys():
        return False
    return rows_digest(one) == rows_digest({name: other[name] for name in one})


def check_overlaps(
    rows: Mapping[str, Rows],
    manifests: Mapping[str, str],
    validation: str | None = None,
    notes: Iterable[str] = (),
) -> list[str]:
    """Refuse splits that share utterances; say in notes which share speakers, or have copies.

    ``rows`` and ``manifests`` (paths, for messages) are by split. Validation that has the rows of
    the test is meant so. What a preparation says by its ``validation`` (None: nobody has prepared
    these) or in its ``notes`` is not said again. ManifestError if an ID or an audio file is in two
    splits.
    """
    splits = dict(rows)
    if same_rows(splits["valid"], splits["test"]):
        del splits["valid"]
    for one, other in combinations(splits, 2):
        pair = f"{manifests[one]} and {manifests[other]}"
        if shared := [name for name in splits[one] if name in splits[other]]:
            raise ManifestError(
                f"{pair} share {_count(shared, 'ID')}, first {shared[0]!r}: expected each "
                "utterance in one split, under an ID of its own."
            )
        files = {_file(row["wav"]): name for name, row in splits[one].items()}
        of = {name: _file(row["wav"]) for name, row in splits[other].items()}
        if shared := [name for name, file in of.items() if file in files]:
            first = files[of[shared[0]]]
            raise ManifestError(
                f"{pair} share {_count(shared, 'audio file')}, first {splits[one][first]['wav']} "
                f"(IDs {first!r} and {shared[0]!r}): expected each recording in one split."
            )
    told = any(NOT_INDEPENDENT in note for note in notes)
    pairs = [] if told else [("train", "test"), ("valid", "test")]
    pairs += [("train", "valid")] if validation is None else []
    found = [note for pair in pairs for note in _shared_speakers(splits, *pair)]
    return found + [note for pair in combinations(splits, 2) for note in _copies(splits, *pair)]


def unlearnt_classes(rows: Mapping[str, Rows], attribute: str) -> list[str]:
    """Say in a note which classes are tested that the training set does not have."""
    known, asked = ({str(row[attribute]) for row in rows[split].values()} for split in _LEARNT)
    missing = sorted(asked - known)
    return [f"Tested, but not in the training set: {', '.join(missing)}."] if missing else []


def left_out_rows(
    manifests: Mapping[str, str | os.PathLike],
    rows: Mapping[str, Rows],
    before: Mapping[str, Iterable[str]],
) -> dict[str, list[str]]:
    """Give the IDs of a split's manifest that are not among its rows, after those left out before.

    Splits from which nothing is left out are not there.
    """
    found = {}
    for split, of in rows.items():
        names = [cells["ID"] for cells in read_cells(manifests[split], ("ID",))]
        found[split] = [*before.get(split, ()), *(name for name in names if name not in of)]
    return {split: ids for split, ids in found.items() if ids}


def _shared_speakers(splits: Mapping[str, Rows], one: str, other: str) -> Iterator[str]:
    """Tell of speakers of two splits, if both are there."""
    first, second = (
        {str(row["spk_id"]) for row in splits.get(split, {}).values() if row.get("spk_id")}
        for split in (one, other)
    )
    if shared := sorted(first & second):
        yield (
            f"{NOT_INDEPENDENT}: {_count(shared, 'speaker')} of the {other} manifest, first "
            f"{shared[0]}, also in the {one} manifest."
        )


def _file(path: str) -> tuple[int, int] | str:
    """Give what a file and all links to it, hard ones too, have in common."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        # A file system that numbers no files says 0.
        if found.st_ino:
            return found.st_dev, found.st_ino
    return os.path.realpath(path)


def _copies(splits: Mapping[str, Rows], one: str, other: str) -> Iterator[str]:
    """Tell of recordings of a split that are in another, byte by byte, under another name.

    Of files whose size is in one split only nothing is read, of most others a little.
    """
    first, second = (
        {name: row["wav"] for name, row in splits[split].items()} for split in (one, other)
    )
    for mark in (os.path.getsize, _middle, file_digest):
        first, second = _alike(mark, first, second)
    if second:
        yield (
            f"The same recordings: {len(second)} of the {other} manifest, first {[*second][0]}, "
            f"also in the {one} manifest, as copies under other names."
        )


def _alike(mark: Callable[[str], Any], *splits: Mapping[str, str]) -> list[dict[str, str]]:
    """Leave of files by ID those with a mark that is in both splits; a file of none is in none."""
    marks: list[dict[str, Any]] = [{} for _ in splits]
    for found, paths in zip(marks, splits, strict=True):
        for name, path in paths.items():
            with contextlib.suppress(OSError):
                found[name] = mark(path)
    both = set.intersection(*(set(found.values()) for found in marks))
    return [
        {name: paths[name] for name, value in found.items() if value in both}
        for found, paths in zip(marks, splits, strict=True)
    ]


def _middle(path: str) -> tuple[int, bytes]:
    """Read what is in the middle of a file, where recordings of one length differ."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(size // 2)
        return size, file.read(_A_LITTLE)


def _contents(rows: Rows, data_root: str | os.PathLike | None) -> Iterator[dict[str, str]]:
    # As it stands in front of a path; a folder called "a" is no letter of a transcript.
    root = f"{data_root}{os.sep}" if data_root else None
    for name, row in rows.items():
        cells = {"ID": name}
        for key, value in row.items():
            if key == "wav":
                cells[key] = PurePath(value).stem
            elif isinstance(value, float):
                cells[key] = f"{value:.6f}"
            else:
                text = str(value)
                is_path = root is not None and text.startswith(root)
                cells[key] = f"$data_root/{text[len(root) :]}" if is_path else text
        yield cells


def _count(shared: list[str], what: str) -> str:
    return f"{len(shared)} {what}{'s' * (len(shared) > 1)}"
