"""The rooms of the house: no circles of modules, and only engines know the engines.

Every import counts: those of type checkers only, and those within functions.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

import pytest_containers
from pytest_containers.model.capabilities import ENGINES

PACKAGE = "pytest_containers"
ROOT = Path(pytest_containers.__file__).parent
SHARED_CLASS_NAMES = {
    "Engine": "the contract, and the native engine",
    "Container": "the contract, and the native engine's",
    "OciContainer": "the contract, and the native engine's",
    "Network": "the contract, and the native engine's",
    "Volume": "the contract, the native engine's, and the instruction of a Dockerfile",
    "Image": "the contract, and the image store's",
    "State": "the contract, and the image store's",
    "Run": "an operation, and the instruction of a Dockerfile",
    "Operation": "the class, and what type checkers see of it",
}
LONG_MODULES = {
    "pytest_containers.engines.native.container",
}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each of its modules imports."""
    paths = {_module(path): path for path in ROOT.rglob("*.py")}
    return {name: _imported(path, set(paths)) - {name} for name, path in paths.items()}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: set[str]) -> set[str]:
    imported = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                imported.add(submodule if submodule in modules else str(node.module))
    return imported & modules


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules each of which imports itself by way of the others (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups = set()

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            start = stack.index(module)
            if len(stack) - start > 1:
                groups.add(frozenset(stack[start:]))
            del stack[start:]

    for module in graph:
        if module not in order:
            visit(module)
    return groups


def test_circles_are_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(graph) == {frozenset({"b", "c"})}


def test_no_circles_of_modules() -> None:
    found = circles(imports())
    assert not found, "\n".join(", ".join(sorted(group)) for group in found)


@pytest.mark.parametrize("engine", ["native", "docker"])
def test_only_engines_import_an_engine(engine: str) -> None:
    package = f"{PACKAGE}.engines.{engine}"
    strangers = {
        module
        for module, imported in imports().items()
        if not module.startswith(f"{PACKAGE}.engines.")
        and any(f"{name}.".startswith(f"{package}.") for name in imported)
    }
    assert not strangers


def test_rooms_import_only_the_rooms_that_are_drawn() -> None:
    rooms = {
        "services": {"services", "state", "model"},
        "state": {"state", "model"},
        "plugin": {"plugin", "services", "state", "engines", "model"},
        "cli": {"cli", "engines", "model"},
    }
    strangers = [
        f"{module} imports {other}"
        for module, imported in imports().items()
        for other in imported
        if (room := module.split(".")[1:2]) and room[0] in rooms
        and other.split(".")[1:2] and other.split(".")[1] not in rooms[room[0]]
    ]  # fmt: skip
    assert not strangers


def test_the_table_of_capabilities_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "stability.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w ,]+) \|$", page, re.MULTILINE)
    expected = {name: ", ".join(engines) or "none yet" for name, engines in ENGINES.items()}
    assert dict(rows) == expected


def test_the_version() -> None:
    assert pytest_containers.__version__ == version("pytest-containers")


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{_module(path)}:{node.lineno}")
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert shared.keys() == SHARED_CLASS_NAMES.keys(), shared


def test_modules_are_short() -> None:
    lines = {_module(path): path.read_bytes().count(b"\n") for path in ROOT.rglob("*.py")}
    assert {module for module, count in lines.items() if count > 500} <= LONG_MODULES
