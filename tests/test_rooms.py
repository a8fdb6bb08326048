"""The house: imports run down, in no circle, and no room reaches for another's private names."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = "gemoclap_sb"
# A room may import from itself and from the floors below it.
FLOORS = [
    {"files", "lobes", "objectives"},
    {"data", "evaluation", "synthetic"},
    {"models"},
    {"inference", "training"},
    {"export"},
    {"cli"},
]
FACES = {"lobes", "objectives", "models", "inference", "export"}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules(folder: Path) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path
        for path in sorted(folder.rglob("*.py"))
    }


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, str | None]]:
    """Modules of the package that a file imports, wherever in it, and which name of them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, None) if whole in known else (node.module, alias.name)


def arrows(folder: Path) -> list[tuple[str, str, str | None]]:
    known = modules(folder)
    found = []
    for module, path in known.items():
        for target, name in imports(path, known):
            if target.split(".")[0] == folder.name:
                found.append((module.removesuffix(".__init__"), target, name))
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def upward(found: list[tuple[str, str, str | None]]) -> list[str]:
    return [
        f"{module} -> {target}"
        for module, target, _ in found
        # The ground, on which the other rooms of its floor stand too.
        if room_of(module) not in (None, room_of(target))
        and room_of(target) != "files"
        and FLOOR[room_of(target)] >= FLOOR[room_of(module)]
    ]


def circles(found: list[tuple[str, str, str | None]]) -> list[str]:
    below: dict[str, set[str]] = {}
    for module, target, _ in found:
        below.setdefault(module, set()).add(target)
    while leaves := [m for m, targets in below.items() if not targets & below.keys()]:
        for leaf in leaves:
            del below[leaf]
    return sorted(below)


def private(found: list[tuple[str, str, str | None]]) -> list[str]:
    return [
        f"{module} takes {name} from {target}"
        for module, target, name in found
        if name is not None and name.startswith("_") and module != target
    ]


@pytest.fixture(scope="module")
def found() -> list[tuple[str, str, str | None]]:
    return arrows(ROOT / PACKAGE)


def test_every_room_has_its_floor(found):
    rooms = {room_of(module) for module in modules(ROOT / PACKAGE)} - {"__init__"}
    assert rooms == set(FLOOR)
    assert len(found) > 100


def test_imports_run_down_only(found):
    assert upward(found) == []


def test_no_module_imports_itself_by_way_of_others(found):
    assert circles(found) == []


def test_no_private_names_across_modules(found):
    assert private(found) == []


def test_modules_import_modules_and_faces_are_for_users(found):
    by_face = [
        f"{module} -> {target}"
        for module, target, _ in found
        if target in {f"{PACKAGE}.{room}" for room in FLOOR} and target != f"{PACKAGE}.files"
    ]
    assert by_face == []
    for room in FLOOR.keys() - {"files"}:
        exports = (ROOT / PACKAGE / room / "__init__.py").read_text()
        assert ("__all__" in exports) == (room in FACES), room


def test_scripts_take_no_private_names():
    taken = []
    for path in [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        taken += [(path.name, *arrow) for arrow in imports(path, modules(ROOT / PACKAGE))]
    assert [t for t in taken if t[1].startswith(PACKAGE) and (t[2] or "").startswith("_")] == []


def test_the_tests_mirror_the_rooms():
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms == FLOOR.keys() - {"files"} | {"benchmarks", "faults", "recipes"}
    for path in (ROOT / "tests").glob("*/test_*.py"):
        modules = [p.stem for p in (ROOT / PACKAGE / path.parent.name).glob("[!_]*.py")]
        tested = path.stem.removeprefix("test_")
        assert not modules or any(tested.startswith(name) for name in modules), path


def test_these_tests_would_notice(tmp_path):
    """An arrow upwards, a circle and a private name, planted in a house of three files."""
    house = tmp_path / PACKAGE
    for name, text in {
        "lobes/a.py": f"from {PACKAGE}.models.b import B, _secret",
        "models/b.py": f"def f():\n    from {PACKAGE}.models import c",
        "models/c.py": f"import {PACKAGE}.models.b",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text + "\n")
    planted = arrows(house)
    assert upward(planted) == [f"{PACKAGE}.lobes.a -> {PACKAGE}.models.b"] * 2
    assert circles(planted) == [f"{PACKAGE}.{n}" for n in ("lobes.a", "models.b", "models.c")]
    assert private(planted) == [f"{PACKAGE}.lobes.a takes _secret from {PACKAGE}.models.b"]


@pytest.mark.slow
def test_public_names_are_where_users_look_for_them():
    script = """
from gemoclap_sb.export import export
from gemoclap_sb.inference import GEmoCLAPClassifier
from gemoclap_sb.lobes import SSLEncoder
from gemoclap_sb.objectives import (
    EmoCLAPObjective, MultiTaskObjective, SoftLabelObjective, kl_contrastive_loss, label_matrix
)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("room", sorted(FACES))
def test_the_readme_lists_what_each_face_hands_on(room):
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if line.startswith(f"| `{PACKAGE}.{room}` |")]
    methods = {"encode_frames", "encode_layer_frames"}
    listed = set(re.findall(r"`(\w+)`", row.split("|")[2])) - methods
    assert listed == set(importlib.import_module(f"{PACKAGE}.{room}").__all__)
