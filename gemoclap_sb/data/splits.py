"""Who is trained on and who is validated on.

Splits choose among rows of a manifest (mappings with an ``ID``). They depend on
the set of rows and on the seed, never on the order in which a folder listing
gave them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

Row = Mapping[str, Any]

NOT_INDEPENDENT = "Not speaker-independent"
"""How a note begins that tells of speakers who are tested and trained on."""


def stratified_split(
    rows: Iterable[Row], fraction: float, keys: Sequence[str], seed: int
) -> tuple[list[Row], list[Row]]:
    """Hold out a fraction of the rows, between 0 and 1, that looks like the whole.

    The number held out is ``fraction`` of all, rounded. It is dealt to the values of the
    first of the columns ``keys`` (such as ``("emotion", "spk_id")``) by largest remainder,
    so that each class is held out in proportion to within one row even where single strata
    (a class of one speaker) are smaller than ``1 / fraction``. Within a class each stratum
    gets its share rounded down or up; those who were rounded down before are rounded up
    first, which keeps the other keys balanced as well. Returns what is kept and what is held
    out, in the order of ``rows``; neither is empty. ValueError where that cannot be.

    Examples
    --------
    >>> rows = [
    ...     {"ID": f"{speaker}{emotion}{n}", "spk_id": speaker, "emotion": emotion}
    ...     for speaker in "AB" for emotion in ("ang", "neu") for n in range(10)
    ... ]
    >>> kept, held_out = stratified_split(rows, 0.1, ("emotion", "spk_id"), seed=1)
    >>> len(kept), [(row["spk_id"], row["emotion"]) for row in held_out]
    (36, [('A', 'ang'), ('A', 'neu'), ('B', 'ang'), ('B', 'neu')])
    """
    rows = list(rows)
    if not 0 < fraction < 1:
        raise ValueError(
            f"The share to hold out must lie between 0 and 1 (both excluded), found {fraction}."
        )
    if not keys:
        raise ValueError("Expected at least one column to stratify by, found none.")
    if len(rows) < 2:
        raise ValueError(f"Splitting takes at least 2 rows, found {len(rows)}.")
    generator = random.Random(seed)
    total = min(max(round(fraction * len(rows)), 1), len(rows) - 1)

    strata: dict[str, dict[tuple, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: str(row["ID"])):
        strata[row[keys[0]]][tuple(row[key] for key in keys[1:])].append(row["ID"])

    sizes = {name: sum(map(len, groups.values())) for name, groups in strata.items()}
    quotas = _deal(total, sizes, defaultdict(float), generator)
    owed: dict[tuple, float] = defaultdict(float)
    chosen: set[str] = set()
    for name in sorted(strata, key=str):
        group_sizes = {group: len(members) for group, members in strata[name].items()}
        seats = _deal(quotas[name], group_sizes, owed, generator)
        for group in sorted(seats, key=str):
            owed[group] += quotas[name] * group_sizes[group] / sizes[name] - seats[group]
            chosen.update(generator.sample(strata[name][group], seats[group]))
    return (
        [row for row in rows if row["ID"] not in chosen],
        [row for row in rows if row["ID"] in chosen],
    )


def share_of_each_class(
    rows: Mapping[str, Row], share: float, key: str, seed: int
) -> dict[str, Row]:
    """Keep a share of the rows, the same of each class to within one row, and one at least.

    Which rows are kept of a class depends on the seed, their IDs and nothing else: a smaller share
    is part of a larger one. ``rows`` are by ID, and stay in their order.

    Examples
    --------
    >>> rows = {f"{emotion}{n}": {"emotion": emotion} for emotion in "ab" for n in range(4)}
    >>> [len(share_of_each_class(rows, share, "emotion", seed=1)) for share in (0.1, 0.5, 1.0)]
    [2, 4, 8]
    """
    of_class: dict[str, list[str]] = defaultdict(list)
    for name, row in rows.items():
        of_class[str(row[key])].append(name)
    kept: set[str] = set()
    for names in of_class.values():
        names.sort(key=lambda name: sha256(f"{seed} {name}".encode()).digest())
        kept.update(names[: max(1, round(share * len(names)))])
    return {name: row for name, row in rows.items() if name in kept}


def _deal(
    seats: int, sizes: Mapping[Any, int], owed: Mapping[Any, float], generator: random.Random
) -> dict[Any, int]:
    """Share out seats in proportion to sizes: the largest remainder method.

    Whole shares are given first. The rest go by remainder plus what the group
    is still owed from earlier rounds; ties are broken at random.
    """
    total = sum(sizes.values())
    names = sorted(sizes, key=str)
    generator.shuffle(names)
    # Integer arithmetic, so that a whole share has a remainder of exactly zero
    # and is never rounded up past the size of its group.
    given = {name: seats * sizes[name] // total for name in names}
    remainders = {name: seats * sizes[name] % total / total for name in names}
    eligible = [name for name in names if remainders[name] > 0]
    eligible.sort(key=lambda name: remainders[name] + owed[name], reverse=True)
    for name in eligible[: seats - sum(given.values())]:
        given[name] += 1
    return given


def hold_out_speakers(
    rows: Iterable[Row], speakers: int | Sequence[str], seed: int
) -> tuple[list[Row], list[Row]]:
    """Hold out whole speakers, women and men in turn: so many of them, or those named.

    Rows have ``spk_id`` and ``gender``. Returns what is kept and what is held out, in the
    order of ``rows``. ValueError if no speaker would be left on one side, or if a named
    speaker is not among the rows.

    Examples
    --------
    >>> rows = [{"ID": str(n), "spk_id": f"S{n}", "gender": "MF"[n % 2]} for n in range(8)]
    >>> kept, held_out = hold_out_speakers(rows, 2, seed=0)
    >>> len(kept), sorted(row["gender"] for row in held_out)
    (6, ['F', 'M'])
    """
    rows = list(rows)
    genders = {row["spk_id"]: row["gender"] for row in sorted(rows, key=lambda row: row["spk_id"])}
    if isinstance(speakers, int):
        generator = random.Random(seed)
        queues: dict[str, list[str]] = defaultdict(list)
        for speaker, gender in genders.items():
            queues[gender].append(speaker)
        order = sorted(queues)
        generator.shuffle(order)
        for gender in order:
            generator.shuffle(queues[gender])
        longest = max(map(len, queues.values()), default=0)
        drawn = [
            queues[gender][turn]
            for turn in range(longest)
            for gender in order
            if turn < len(queues[gender])
        ]
        chosen = set(drawn[: max(speakers, 0)])
    else:
        chosen = set(speakers)
        if unknown := sorted(chosen - set(genders)):
            raise ValueError(
                f"Cannot validate on {', '.join(unknown)}: the training side has the speakers "
                f"{', '.join(genders)}."
            )
    if not 0 < len(chosen) < len(genders):
        raise ValueError(
            f"Cannot hold out {speakers} of {len(genders)} speakers: expected at least 1 held "
            "out and at least 1 left to train on."
        )
    return (
        [row for row in rows if row["spk_id"] not in chosen],
        [row for row in rows if row["spk_id"] in chosen],
    )


def split_fold(
    rows: Iterable[Row],
    fold: int,
    validation: str,
    *,
    seed: int,
    valid_fraction: float = 0.1,
    valid_session: int | None = None,
    valid_speakers: int | Sequence[str] | None = None,
) -> tuple[dict[str, list[Row]], list[str]]:
    """Split a corpus into the three parts of one cross-validation fold.

    The test part is the rows whose ``session`` is the fold. What is validated on comes from
    the rest, or is the test part itself.

    Parameters
    ----------
    rows : iterable of mapping
        The whole corpus, with ``session`` holding the number of the fold that tests on the
        row.
    fold : int
        The fold, from 1.
    validation : str
        ``"random"``: ``valid_fraction`` of the training side, stratified by emotion and
        speaker. ``"session"``: the session ``valid_session``, by default the one after the
        fold. ``"speaker"``: ``valid_speakers`` of the training side, how many or which.
        ``"development"``: likewise, and tested on them too, while the fold's test part is left
        out: for choosing settings without a look at it. ``"test"``: the test part, which makes
        the reported figure an optimistic one.
    seed : int
        Seeds ``"random"``, ``"speaker"`` and ``"development"``.

    Returns
    -------
    splits : dict of str to list
        Rows under ``"train"``, ``"valid"`` and ``"test"``.
    notes : list of str
        What a report of the results must say.

    Raises
    ------
    ValueError
        If a part would be empty or an argument does not fit the others.

    Examples
    --------
    >>> rows = [
    ...     {"ID": f"{s}{g}{n}", "session": str(s), "spk_id": f"{s}{g}", "gender": g,
    ...      "emotion": "neu"}
    ...     for s in (1, 2, 3) for g in "FM" for n in range(10)
    ... ]
    >>> splits, notes = split_fold(rows, 3, "random", seed=1)
    >>> {name: len(part) for name, part in splits.items()}, notes
    ({'train': 36, 'valid': 4, 'test': 20}, [])
    >>> split_fold(rows, 3, "test", seed=1)[1]
    ['Validated on the test session (3), which is therefore not unseen.']
    """
    rows = list(rows)
    sessions = sorted({str(row["session"]) for row in rows}, key=lambda name: (len(name), name))
    if str(fold) not in sessions:
        raise ValueError(
            f"Fold {fold} would test on session {fold}, which has no utterances; found sessions "
            f"{', '.join(sessions) or 'none'}. Choose one of those."
        )
    if valid_session is not None and validation != "session":
        raise ValueError(
            f"valid_session={valid_session} goes with validation='session', found "
            f"validation={validation!r}. Change one of the two."
        )
    test = [row for row in rows if str(row["session"]) == str(fold)]
    rest = [row for row in rows if str(row["session"]) != str(fold)]
    if not rest:
        raise ValueError(
            f"Fold {fold} leaves nothing to train on: all {len(test)} utterances are of its test "
            f"session {fold}. At least one more session is needed."
        )
    notes = []
    speakers, others = ({row["spk_id"] for row in part} - {""} for part in (test, rest))
    if not speakers:
        notes.append("No speakers are named, so none can be said to be on one side only.")
    if shared := sorted(speakers & others):
        notes.append(
            f"{NOT_INDEPENDENT}: {len(shared)} speakers of the test session ({fold}) are on "
            f"the training side too, first {shared[0]}."
        )
    if validation == "random":
        train, valid = stratified_split(rest, valid_fraction, ("emotion", "spk_id"), seed)
    elif validation == "session":
        others = [name for name in sessions if name != str(fold)]
        later = [name for name in others if sessions.index(name) > sessions.index(str(fold))]
        session = str(valid_session) if valid_session is not None else (later or others)[0]
        if session not in others or len(others) < 2:
            raise ValueError(
                f"Cannot validate on session {session} and test on session {fold}: expected "
                f"another session than the test one and one more to train on, found sessions "
                f"{', '.join(sessions)}."
            )
        train = [row for row in rest if str(row["session"]) != session]
        valid = [row for row in rest if str(row["session"]) == session]
    elif validation in ("speaker", "development"):
        if valid_speakers is None:
            raise ValueError(f"{validation=} needs valid_speakers: how many, or which.")
        train, valid = hold_out_speakers(rest, valid_speakers, seed)
        test = list(valid) if validation == "development" else test
    elif validation == "test":
        train, valid = rest, list(test)
        notes.append(f"Validated on the test session ({fold}), which is therefore not unseen.")
    else:
        raise ValueError(
            "validation must be one of 'random', 'session', 'speaker', 'development', 'test'; "
            f"found {validation!r}."
        )
    return {"train": train, "valid": valid, "test": test}, notes
