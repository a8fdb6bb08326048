"""Words for the labels of any corpus: from a short YAML, or the labels themselves.

::

    emotion: {ang: angry, hap: happy}
    gender: {F: female, M: male}
    templates:
        emotion: ["this person sounds {}"]
    heads: [emotion, gender]

All but ``emotion`` may be missing. What `gemoclap_sb.data.prompts.Prompts` is given follows
from it, and which attributes ML- and SL-GEmo-CLAP learn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gemoclap_sb.data.splits import Row

_EXAMPLE = "emotion: {ang: angry, hap: happy}"


class Words(NamedTuple):
    """What a file of words says: words and templates by attribute, and heads, or none."""

    words: dict[str, dict[str, str]]
    templates: dict[str, list[str]]
    heads: list[str]


def own_words(rows: Sequence[Row], known: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Let the emotions of rows, sorted, be their own words, unless a word for them is known.

    Examples
    --------
    >>> own_words([{"emotion": "sad"}, {"emotion": "ang"}, {"emotion": "sad"}], {"ang": "angry"})
    {'emotion': {'ang': 'angry', 'sad': 'sad'}}
    """
    labels = sorted({str(row["emotion"]) for row in rows})
    return {"emotion": {label: known.get(label, label) for label in labels}}


def read_words(path: str | os.PathLike) -> Words:
    r"""Read a file of words.

    Labels and words are text whatever they look like: ``no`` and ``01`` stay what they are.
    ValueError if the file is missing or is not built as described above.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "words.yaml"
    >>> _ = path.write_text("emotion: {01: calm, no: neutral}\n")
    >>> read_words(path)
    Words(words={'emotion': {'01': 'calm', 'no': 'neutral'}}, templates={}, heads=[])
    """
    path = Path(path)
    try:
        content: Any = YAML(typ="base", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"words: {path} cannot be read: {error}") from error
    except YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "emotion" not in content:
        raise ValueError(f"{path}: expected words for each label of emotion, such as {_EXAMPLE}.")
    templates, heads = content.pop("templates", None) or {}, content.pop("heads", None) or []
    for attribute, of in content.items():
        if not isinstance(of, dict) or not all(isinstance(w, str) and w for w in of.values()):
            raise ValueError(
                f"{path}, {attribute}: expected a word for each label, such as {_EXAMPLE}; "
                f"found {of!r}."
            )
    if not isinstance(templates, dict) or not all(map(_is_list_of_text, templates.values())):
        raise ValueError(
            f"{path}, templates: expected a list of sentences for each attribute, such as "
            f'emotion: ["this person sounds {{}}"]; found {templates!r}.'
        )
    if not _is_list_of_text(heads) or (heads and not _are_heads(heads, content)):
        raise ValueError(
            f"{path}, heads: expected emotion and one or more of the other attributes that have "
            f"words here, each once, such as [emotion, gender]; found {heads!r}."
        )
    return Words(content, templates, heads)


def check_words(
    words: Mapping[str, Mapping[str, str]], rows: Sequence[Row], where: str, manifest: str
) -> None:
    """Refuse labels without a word, and words for emotions that no row has.

    ``where`` and ``manifest`` name the files in the ValueError. An attribute that is no column
    is not looked at.
    """
    problems = []
    for attribute, of in words.items():
        found = {row[attribute] for row in rows if row.get(attribute)}
        if missing := sorted(found - set(of)):
            problems.append(f"no word for the {attribute} {', '.join(missing)} of {manifest}")
        if attribute == "emotion" and (unused := sorted(set(of) - found)):
            problems.append(
                f"words for the emotion {', '.join(unused)}, which no row of {manifest} has "
                f"(its emotions: {', '.join(sorted(found))})"
            )
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}.")


def _are_heads(heads: Sequence[str], words: Mapping[str, Any]) -> bool:
    return heads[0] == "emotion" and len(heads) > 1 and len(set(heads) & set(words)) == len(heads)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
