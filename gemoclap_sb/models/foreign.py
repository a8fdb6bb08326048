r"""Audio lobes and poolings of other packages, or of one's own: told by the YAML that made them.

A description names such a part's class and repeats its YAML:

    {"class": "my.Lobe", "yaml": "!new:my.Lobe\nchannels: 8\n", "packages": {"my": "my 1.0"}}

Nothing here imports the class. An export copies its weights, which the checkpoint names, and puts
its YAML into ``hyperparams.yaml``, by which SpeechBrain's ``from_hparams`` makes it again.
"""

from __future__ import annotations

import os
import pydoc
import re
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from gemoclap_sb.models.errors import ConfigurationError

CONFIG = "config.json"
PARTS = ("audio_encoder", "pooling")
"""Parts of a model that an export needs no class of, since it does not run them."""
_KEYS = {"class", "yaml", "packages"}
_IMPORTING = re.compile(r"!(?:new|name|module|apply):(.+)")


def is_foreign(entry: object) -> bool:
    """Whether a description's entry names a class that is not the package's own."""
    return isinstance(entry, Mapping) and "yaml" in entry


def describe_foreign(key: str, module: nn.Module, hparams_file: Path) -> dict[str, Any]:
    """Describe a model's lobe or pooling by the run's YAML, with all references resolved.

    ConfigurationError if the YAML did not make it, or names what nobody else can import.
    """
    made = f"{type(module).__module__}.{type(module).__qualname__}"
    try:
        node = _part(yaml.compose(hparams_file.read_text(encoding="utf-8"), yaml.SafeLoader), key)
    except (OSError, yaml.YAMLError, KeyError) as error:
        raise ConfigurationError(
            f"{key}: {made} is not one of the package's own, and its arguments are not told: "
            f"expected them under modules, clap in {hparams_file}"
        ) from error
    name = node.tag.removeprefix("!new:")
    if not node.tag.startswith("!new:") or pydoc.locate(name) is not type(module):
        raise ConfigurationError(
            f"{key}: {made} was put there by a script; {hparams_file} says {node.tag}. Name the "
            "class in the experiment's YAML, by which an exported folder makes it again"
        )
    for tag in _tags(node):
        named = _IMPORTING.fullmatch(tag)
        if named is None and tag.startswith("!") and tag != "!tuple":
            raise ConfigurationError(f"{key}: {made}: an export cannot repeat the YAML tag {tag}")
        if named is not None and named[1].startswith("__main__."):
            raise ConfigurationError(
                f"{key}: {named[1]} lies in the script that was started, which nothing else can "
                "import. Put it into a module of its own and name that in the YAML"
            )
    return {"class": name, "yaml": yaml.serialize(node), "packages": _packages(node)}


def refuse_foreign(where: str, key: str, entry: Mapping[str, Any]) -> None:
    """Raise ConfigurationError: nobody's class is imported because a folder names it."""
    raise ConfigurationError(
        f"{where}: model.{key}: {entry['class']} is not one of this package's own classes, and "
        "from_pretrained imports no others. SpeechBrain's EncoderClassifier.from_hparams(source="
        "FOLDER) imports and runs it: for folders whose author you trust."
    )


def foreign_parts(config: Mapping[str, Any]) -> dict[str, str | None]:
    """List by class what loading a description's foreign parts imports, each with its package.

    ``config`` is of one model. A class that is in no installed package has None.
    """
    found: dict[str, str | None] = {}
    for key in PARTS:
        if is_foreign(entry := config[key]):
            for name in _imported(composed(entry)):
                found[name] = entry["packages"].get(name.split(".")[0])
    return found


def foreign_paths(config: Mapping[str, Any]) -> list[str]:
    """List the files and folders of this machine that a description's foreign parts name."""
    nodes = [
        node
        for key in PARTS
        if is_foreign(entry := config[key])
        for node in _nodes(yaml.compose(entry["yaml"], yaml.SafeLoader))
    ]
    values = [node.value for node in nodes if isinstance(node, yaml.ScalarNode)]
    return [value for value in dict.fromkeys(values) if os.sep in value and os.path.exists(value)]


class Held(nn.Module):
    """Weights of a foreign part, by name, in its place: they can be copied, but not run."""

    def __init__(self, name: str, output_size: int | None = None) -> None:
        super().__init__()
        self.name, self.output_size = name, output_size
        self.held: dict[str, Tensor] = {}

    def forward(self, *args: Any) -> Tensor:
        """Refuse."""
        raise ConfigurationError(
            f"{self.name} is not one of this package's own classes, which alone run here."
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self.held = {
            name.removeprefix(prefix): tensor
            for name, tensor in state_dict.items()
            if name.startswith(prefix)
        }

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        destination.update({prefix + name: tensor for name, tensor in self.held.items()})


def with_held(config: Mapping[str, Any]) -> dict[str, Any]:
    """Put modules that will hold their weights in the place of a description's foreign parts.

    ConfigurationError if one is not described as here.
    """
    size = config.get("audio_size", config["embedding_size"])
    foreign = {key: config[key] for key in PARTS if is_foreign(config[key])}
    for entry in foreign.values():
        composed(entry)
    return {**config, **{key: Held(of["class"], size) for key, of in foreign.items()}}


def composed(entry: Mapping[str, Any]) -> yaml.Node:
    """Give the YAML of a foreign part as a node of a document; ConfigurationError if it is none."""
    try:
        node = yaml.compose(entry["yaml"], yaml.SafeLoader)
        if node.tag == f"!new:{entry['class']}" and set(entry) == _KEYS:
            return node
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError):
        pass
    raise ConfigurationError(
        f"{CONFIG}: expected a class, its YAML and its packages, found {str(entry)[:200]}. Give "
        "the run's own command again, which writes the file anew."
    )


def _part(root: yaml.Node | None, key: str) -> yaml.Node:
    for name in ("modules", "clap", key):
        if not isinstance(root, yaml.MappingNode):
            raise KeyError(name)
        root = {of.value: node for of, node in root.value}[name]
    return root


def _nodes(root: yaml.Node) -> list[yaml.Node]:
    """List all nodes, each once, since a node may be at several places."""
    found: dict[int, yaml.Node] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        if isinstance(node, yaml.MappingNode):
            waiting += [one for pair in reversed(node.value) for one in reversed(pair)]
        elif isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
    return list(found.values())


def _tags(node: yaml.Node) -> list[str]:
    return [one.tag for one in _nodes(node)]


def _imported(node: yaml.Node) -> list[str]:
    named = (_IMPORTING.fullmatch(tag) for tag in _tags(node))
    return [of[1] for of in named if of]


def _packages(node: yaml.Node) -> dict[str, str]:
    """Installed packages of what a node imports, with their versions, by top-level module."""
    known = packages_distributions()
    modules = {name.split(".")[0] for name in _imported(node)}
    return {
        module: ", ".join(f"{of} {version(of)}" for of in sorted(set(known[module])))
        for module in sorted(modules & known.keys())
    }
