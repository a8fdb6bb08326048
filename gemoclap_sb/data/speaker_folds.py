"""A corpus split within each of its speakers: all of them are learnt, and all are tested."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from gemoclap_sb.data.folds import manifest_row
from gemoclap_sb.data.manifests import read_cells, read_manifest
from gemoclap_sb.data.preparation import CorpusIssues, prepare_fold
from gemoclap_sb.data.splits import Row
from gemoclap_sb.files import file_digest

COLUMNS = ("ID", "wav", "spk_id")
# One to learn from, one to watch, one to test on.
LEAST_UTTERANCES = 3
_VALIDATION = "random"


def known_speakers(rows: Iterable[Row]) -> list[str]:
    """Name the speakers who have utterances enough for a split, sorted.

    >>> known_speakers([{"spk_id": speaker} for speaker in "bbbbaaac"])
    ['a', 'b']
    """
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[str(row["spk_id"])] += 1
    return sorted(speaker for speaker, count in counts.items() if count >= LEAST_UTTERANCES)


def deal_utterances(rows: Iterable[Row], number_of_folds: int, seed: int) -> dict[str, int]:
    """Deal each speaker's utterances to folds, from 1, evenly and at random; by ID.

    What a speaker's are dealt depends on nothing else.

    >>> rows = [{"ID": f"{speaker}{n}", "spk_id": speaker} for speaker in "ab" for n in range(6)]
    >>> dealt = deal_utterances(rows, 3, seed=1)
    >>> [[fold for name, fold in dealt.items() if name[0] == of].count(1) for of in "ab"]
    [2, 2]
    """
    of_speaker = defaultdict(list)
    for row in rows:
        of_speaker[row["spk_id"]].append(str(row["ID"]))
    return {
        name: place % number_of_folds + 1
        for names in of_speaker.values()
        for place, name in enumerate(sorted(names, key=lambda n: _drawn(seed, n)))
    }


def _drawn(seed: int, name: str) -> bytes:
    return sha256(f"{seed} {name}".encode()).digest()


def prepare_speakers(
    data_folder: str | os.PathLike | None,
    save_folder: str | os.PathLike,
    fold: int,
    *,
    manifest: str | os.PathLike,
    number_of_folds: int = 10,
    valid_fraction: float = 0.1,
    skip_bad_audio: bool = False,
    seed: int = 1,
) -> dict[str, Any]:
    """Write ``train.csv``, ``valid.csv`` and ``test.csv`` for a classifier of speakers.

    Speakers who have fewer than three utterances are counted and left out.

    Parameters
    ----------
    data_folder : str or os.PathLike, optional
        Stands for ``$data_root``; by default the manifest's folder.
    save_folder : str or os.PathLike
        Where to write.
    fold : int
        From 1: which of the parts is tested.
    manifest : str or os.PathLike
        A CSV file with at least ``ID``, ``wav`` and ``spk_id``.
    number_of_folds : int
        Parts of each speaker's utterances.
    valid_fraction : float
        Of what is not tested.
    skip_bad_audio : bool
        See `gemoclap_sb.data.manifests.read_manifest`.
    seed : int
        Seeds the parts.

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
    """
    path = Path(os.path.abspath(manifest))
    arguments = {
        "corpus": path.name,
        "data_folder": data_folder or path.parent,
        "manifest": str(path),
        "sha256": file_digest(path),
        "fold": fold,
        "number_of_folds": number_of_folds,
        "skip_bad_audio": skip_bad_audio,
        "validation": _VALIDATION,
        "valid_fraction": valid_fraction,
        "seed": seed,
    }

    def read_rows(root: Path, issues: CorpusIssues) -> list[Mapping[str, Any]]:
        cells_of = read_cells(path, COLUMNS)
        known = set(known_speakers(cells_of))
        for cells in cells_of:
            if cells["spk_id"] not in known:
                issues.add("utterances of speakers with fewer than 3, left out", cells["spk_id"])
        kept = {cells["ID"]: cells for cells in cells_of if cells["spk_id"] in known}
        fold_of = deal_utterances(kept.values(), number_of_folds, seed)
        found = read_manifest(path, root, None, skip_bad_audio, required=())
        return [
            manifest_row(name, found.get(name, {**cells, "duration": 0.0}), root, fold_of[name])
            for name, cells in kept.items()
        ]

    return prepare_fold(
        save_folder,
        arguments,
        read_rows,
        range(1, number_of_folds + 1),
        [_VALIDATION],
        valid_fraction=valid_fraction,
    )
