"""The table of attacks and their tests: nothing in it is made up, and nothing is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explanation/isolation-tests.md"
FOLDERS = ("integration", "plugin", "unit")
_CVE = re.compile(r"CVE-\d{4}-\d+")


def rows() -> list[tuple[str, list[tuple[str, str]]]]:
    """What is tried, and the file and function of each test."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and "::" in line:
            _, what, tests, _ = line.split(" | " if line.count("| ") < 2 else "|")
            found.append((what.strip(), re.findall(r"`(\w+\.py)::(\w+)`", tests)))
    return found


def functions(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_test_in_it_exists() -> None:
    assert len(rows()) > 50
    files = {name: [path for folder in FOLDERS for path in (ROOT / "tests" / folder).rglob(name)]
             for _, tests in rows() for name, _ in tests}  # fmt: skip
    names = {name: set().union(*map(functions, paths)) for name, paths in files.items()}
    missing = [
        f"{file}::{test}" for _, tests in rows() for file, test in tests if test not in names[file]
    ]
    assert missing == []
    assert [what for what, tests in rows() if not tests] == []


def test_every_attack_that_a_test_names_is_in_it() -> None:
    listed = set(_CVE.findall(PAGE.read_text()))
    named = {
        cve
        for folder in FOLDERS
        for path in (ROOT / "tests" / folder).rglob("*.py")
        for cve in _CVE.findall(path.read_text())
    }
    assert named - listed == set()
    assert len(listed) >= 35


def test_every_test_of_attacks_is_in_it() -> None:
    used = {test for _, tests in rows() for file, test in tests if file == "test_attacks.py"}
    ours = functions(ROOT / "tests/integration/test_attacks.py")
    assert {name for name in ours if name.startswith("test_")} - used == set()
