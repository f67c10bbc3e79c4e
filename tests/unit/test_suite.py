"""The suite itself: every test file runs without being named."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest


def test_pytest_enters_all_directories_of_tests(pytestconfig: pytest.Config) -> None:
    """Some names are skipped, such as ``build``, unless they are on the command line."""
    skipped = pytestconfig.getini("norecursedirs")
    tests = pytestconfig.rootpath / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    hidden = [
        folder
        for folder in sorted(folders)
        if any(fnmatch(part, pattern) for part in folder.parts for pattern in skipped)
    ]
    assert hidden == []
