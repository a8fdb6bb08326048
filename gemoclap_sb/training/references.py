"""Which keys of an experiment's YAML follow from which others, by its ``!ref``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar

_NAMED = re.compile(r"<([^<>\[]+)")


def read_references(
    hparams_file: str | os.PathLike, overrides: Mapping[str, Any] = {}
) -> dict[str, set[str]]:
    r"""Read by key of an experiment's YAML the keys that it refers to, and that these refer to.

    >>> path = getfixture("tmp_path") / "small.yaml"
    >>> _ = path.write_text("seed: 1\nrun: !ref run_<seed>\nfolder: !ref <run>/fold\n")
    >>> sorted(read_references(path)["folder"]), read_references(path, {"run": "x"})["folder"]
    (['run', 'seed'], {'run'})
    """
    tree = YAML().load(Path(hparams_file).read_text(encoding="utf-8"))
    recursive_update(tree, dict(overrides))
    direct = {key: set(_named(node)) for key, node in tree.items()}

    def every(key: str, seen: frozenset[str] = frozenset()) -> set[str]:
        nearer = direct.get(key, set()) - seen
        return nearer.union(*(every(name, seen | nearer | {key}) for name in nearer))

    return {key: every(key) for key in direct}


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, TaggedScalar):
        yield from _NAMED.findall(str(node.value))
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _named(item)
