"""In what the settings of two runs differ: what a user can change, without what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

_LONGEST = 80
_OF_MANIFEST = frozenset(
    {"number_of_folds", "num_classes", "prompts", "heads", "weights", "objective"}
)


def roots(
    differing: Collection[str],
    before: Mapping[str, Any],
    as_if: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> set[str]:
    """Leave of the keys that differ the fewest from which the others follow.

    ``as_if`` gives the settings with some keys set otherwise, or nothing if that cannot be.

    >>> def as_if(given):
    ...     alpha = given.get("alpha_e", 0.8)
    ...     return {"alpha_e": alpha, "weights": {"emotion": alpha}} | given
    >>> before = {"alpha_e": 0.9, "weights": {"emotion": 0.9}}
    >>> roots({"alpha_e", "weights"}, before, as_if)
    {'alpha_e'}
    """

    def settled(keys: Collection[str]) -> set[str]:
        found = as_if({key: before.get(key) for key in keys})
        return {key for key in differing if found and found.get(key) == before.get(key)}

    told = {key for key in differing if key in settled([key])}
    for key in sorted(told):
        if settled(told - {key}) == settled(told):
            told.remove(key)
    rest = set(differing) - settled(told)
    # What the manifest was then cannot be tried.
    return told | (rest - _OF_MANIFEST if "manifest" in rest else rest)


def spelled_out(name: str, before: Any, now: Any) -> str:
    """Say what was, and what is now; of a mapping no more than what differs.

    >>> spelled_out("weights", {"emotion": 0.9, "gender": 0.1}, {"emotion": 0.8, "gender": 0.1})
    'weights[emotion] (was 0.9, now 0.8)'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        if before.keys() == now.keys():
            return "; ".join(
                spelled_out(name if str(key).startswith("!") else f"{name}[{key}]", before[key], of)
                for key, of in now.items()
                if of != before[key]
            )
        if all(str(key).startswith("!") for key in (*before, *now)):
            # Of objects of two classes the arguments say little.
            before, now = " ".join(before), " ".join(now)
    was, found = (
        f"{repr(of)[:_LONGEST]}..."
        if isinstance(of, dict | list) and len(repr(of)) > _LONGEST
        else repr(of)
        for of in (before, now)
    )
    return f"{name} (was {was}, now {found})"
