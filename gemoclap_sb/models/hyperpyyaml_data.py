"""A ``hyperparams.yaml`` of SpeechBrain as data: nothing in it is imported, built or run.

``load_hyperpyyaml`` does what a file says: it calls functions (``!apply:``), reads other files
(``!include:``), makes any object (``!!python/...``, also inside of a ``(tuple)``). A file that
somebody else has written is therefore read here: ``!new:`` and ``!name:`` become a `Named`,
``!ref`` is followed, and any other tag is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperpyyaml.core import parse_arithmetic
from ruamel.yaml import SafeLoader
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gemoclap_sb.models.data_files import read_bytes
from gemoclap_sb.models.errors import ConfigurationError, shortened, shown

_MOST_BYTES, _MOST_NODES, _DEEPEST, _LONGEST_TEXT = 2**16, 2000, 50, 1000
# With what is referred to in its place, each time.
_MOST_UNFOLDED = 20_000
_NAMED = re.compile(r"!(new|name):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)", re.ASCII)
_REFERENCE = re.compile(r"<([^<>]*)>")
_PLACE = re.compile(r"([^\[\].]+)((?:\[[^\[\]]+\])*)")
_ARITHMETIC = re.compile(r"[\d\s.+\-*/%()]{1,100}")
_TUPLE = re.compile(r"\(([^!&*{}\[\]()]*)\)")
# load_hyperpyyaml teaches all loaders of the process to call a text in brackets so.
_TUPLE_TAG = "!tuple"
_YAML = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class _Ref:
    """A ``!ref``, not yet followed."""

    text: str


@dataclass(eq=False)
class Named:
    """``!new:name`` or ``!name:name`` with its arguments, which are in YAML a list or a mapping."""

    is_new: bool
    name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    is_resolved: bool = False


class HyperPyYAMLData:
    r"""The content of a file, read at once and looked up by key.

    ConfigurationError if there is no such file, or it is no HyperPyYAML, or has a tag that could
    run, build or read anything but classes by their names.

    Examples
    --------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("n: 80\nfbank: !new:a.Fbank {n_mels: !ref <n> // 2}\nf: !ref <fbank>")
    >>> found = HyperPyYAMLData(path)["f"]
    >>> found.name, found.kwargs
    ('a.Fbank', {'n_mels': 40})
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            text = read_bytes(path, _MOST_BYTES).decode("utf-8")
            _check_structure(text)
            loader = SafeLoader(text)
            root = loader.get_single_node()
            self.tags = self._checked_tags(root)
            content = _Builder(loader).value(root)
        except FileNotFoundError:
            raise ConfigurationError(f"no file {path} (seen from {Path.cwd()}).") from None
        except ConfigurationError:
            raise
        # The last for values that are not what their tags say, as `!!bool maybe`.
        except (YAMLError, ValueError, TypeError, RecursionError, LookupError) as error:
            reason = shortened(str(error))
            raise ConfigurationError(f"{path}: expected HyperPyYAML: {reason}.") from error
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: expected keys and values, found {shown(content)}.")
        self._content = content
        self._found: dict[str, Any] = {}
        self._following: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """Give what a key stands for, or ``default`` where there is none."""
        return self[key] if key in self._content else default

    def __getitem__(self, key: str) -> Any:
        """Give what a key stands for; ConfigurationError if it is not there, or leads nowhere."""
        try:
            value = self._looked_up(key)
            if (count := _unfolded(value, {})) > _MOST_UNFOLDED:
                raise ConfigurationError(
                    f"{self.path}: {key}: expected at most {_MOST_UNFOLDED:,} values with all that "
                    f"is referred to, found {count:,}."
                )
            return value
        except RecursionError:
            raise ConfigurationError(f"{self.path}: {key}: nested too deeply.") from None

    def _checked_tags(self, root: Node | None) -> set[str]:
        """Give the tags of all classes; refuse tags that are none of those expected."""
        waiting, tags = [root], set()
        while waiting:
            node = waiting.pop()
            if isinstance(node, MappingNode):
                waiting += [one for pair in node.value for one in pair]
            elif isinstance(node, SequenceNode):
                waiting += node.value
            tag = str(getattr(node, "tag", _YAML))
            if _NAMED.fullmatch(tag):
                tags.add(tag)
            elif tag not in ("!ref", _TUPLE_TAG) and not (
                tag.startswith(_YAML) and "python" not in tag
            ):
                raise ConfigurationError(
                    f"{self.path}: expected values, !ref, and classes by !new: and !name:, found "
                    f"the tag {shortened(tag, 100)}, which could run or read something. Nothing "
                    "of it was."
                )
        return tags

    def _looked_up(self, place: str) -> Any:
        """Follow ``key[inner][inner]``; what is there is made once, so that it is the same."""
        if place in self._found:
            return self._found[place]
        if place in self._following:
            raise ConfigurationError(f"{self.path}: {shown(place)} refers to itself.")
        found = _PLACE.fullmatch(place)
        value: Any = self._content
        for key in [found[1], *re.findall(r"\[([^\[\]]+)\]", found[2])] if found else [place]:
            value = value.kwargs if isinstance(value, Named) else value
            if isinstance(value, _Ref):
                value = self._followed(value)
            if not isinstance(value, dict) or key not in value:
                raise ConfigurationError(f"{self.path}: expected {shown(place)}, found none.")
            value = value[key]
        self._following.append(place)
        self._found[place] = self._resolved(value)
        self._following.pop()
        return self._found[place]

    def _resolved(self, value: Any) -> Any:
        """Follow all references in a value."""
        if isinstance(value, _Ref):
            return self._followed(value)
        if isinstance(value, list):
            return [self._resolved(one) for one in value]
        if isinstance(value, dict):
            return {key: self._resolved(one) for key, one in value.items()}
        if isinstance(value, Named):
            # In its place: whoever refers to it has the same one.
            if not value.is_resolved:
                value.is_resolved = True
                value.args, value.kwargs = self._resolved(value.args), self._resolved(value.kwargs)
            return value
        return _with_tuple(value) if isinstance(value, str) else value

    def _followed(self, reference: _Ref) -> Any:
        text = reference.text.strip()
        if whole := _REFERENCE.fullmatch(text):
            return self._looked_up(whole[1])

        def inserted(found: re.Match) -> str:
            value = self._looked_up(found[1])
            if not isinstance(value, str | int | float):
                raise ConfigurationError(
                    f"{self.path}: {shown(text)}: expected a text or a number in {found[0]}."
                )
            return str(value)

        text = _REFERENCE.sub(inserted, text)
        if len(text) > _LONGEST_TEXT:
            raise ConfigurationError(f"{self.path}: {shown(text)} is too long.")
        # No powers: 9 ** 9 ** 9 would never end.
        if _ARITHMETIC.fullmatch(text) and "**" not in text:
            try:
                return parse_arithmetic(text)
            except (ArithmeticError, ValueError) as error:
                raise ConfigurationError(f"{self.path}: {shown(text)}: {error}.") from error
        return _with_tuple(text)


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """List the plain values in what was read, each with the key that it is under.

    What several places share is looked through once: it may be shared again and again.
    """
    waiting, seen = [("", value)], set()
    while waiting:
        key, value = waiting.pop()
        if not isinstance(value, Named | dict | list | tuple):
            yield key, value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Named):
                waiting += [(key, value.args), (key, value.kwargs)]
            elif isinstance(value, dict):
                waiting += value.items()
            else:
                waiting += [(key, one) for one in value]


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """Count the plain values in what was read; what is shared counts wherever it is.

    To print or copy it takes as long.
    """
    if isinstance(value, Named):
        inner = [value.args, value.kwargs]
    elif isinstance(value, dict | list | tuple):
        inner = list(value.values() if isinstance(value, dict) else value)
    else:
        return 1
    if id(value) not in known:
        # One that holds itself counts once.
        known[id(value)] = 0
        known[id(value)] = sum(_unfolded(one, known) for one in inner)
    return known[id(value)]


def _check_structure(text: str) -> None:
    """Refuse what could multiply, or is more than anybody writes; YAMLError if it is no YAML."""
    loader, depth, count = SafeLoader(text), 0, 0
    while loader.check_event():
        event = loader.get_event()
        if isinstance(event, AliasEvent):
            raise ValueError("an alias (*name), for which HyperPyYAML has !ref <name>")
        is_end = isinstance(event, CollectionEndEvent)
        depth += isinstance(event, CollectionStartEvent) - is_end
        count += isinstance(event, NodeEvent)
        if depth > _DEEPEST or count > _MOST_NODES:
            raise ValueError(
                f"at most {_MOST_NODES:,} values in {_DEEPEST} levels were expected, found more"
            )


class _Builder:
    """From nodes whose tags are checked to values."""

    def __init__(self, loader: SafeLoader) -> None:
        self.loader = loader

    def value(self, node: Node | None) -> Any:
        tag = "" if node is None else str(node.tag)
        if tag == "!ref":
            if not isinstance(node, ScalarNode):
                raise ValueError("!ref without <name>")
            return _Ref(node.value)
        if found := _NAMED.fullmatch(tag):
            named = Named(found[1] == "new", found[2])
            if isinstance(node, SequenceNode):
                named.args = [self.value(one) for one in node.value]
            elif isinstance(node, MappingNode):
                named.kwargs = self._mapping(node)
            elif node.value:
                raise ValueError(f"{shown(node.value)} after {tag}")
            return named
        if isinstance(node, MappingNode):
            return self._mapping(node)
        if isinstance(node, SequenceNode):
            return [self.value(one) for one in node.value]
        if tag == _TUPLE_TAG:
            return node.value
        return None if node is None else self.loader.construct_object(node)

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        found = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.value in found:
                raise ValueError(f"keys that are texts, each once, found {shown(key.value)}")
            found[key.value] = self.value(value)
        return found


def _with_tuple(text: str) -> Any:
    """Read ``(1, 2)`` as HyperPyYAML does."""
    found = _TUPLE.fullmatch(text)
    try:
        return tuple(SafeLoader(f"[{found[1]}]").get_single_data()) if found else text
    except (YAMLError, ValueError):
        return text
