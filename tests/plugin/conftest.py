"""Plugin tests run pytest in pytest, as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _settings(
    monkeypatch: pytest.MonkeyPatch, store_home: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(store_home))
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(pytester: pytest.Pytester, request: pytest.FixtureRequest):
    """Write a test file and run pytest on it, in a process of its own."""
    # Where the project is importable but not installed, its entry point is missing.
    from importlib.metadata import entry_points

    installed = any(one.name == "containers" for one in entry_points(group="pytest11"))
    load = [] if installed else ["-p", "pytest_containers.plugin"]

    def run(text: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile("import pytest\nimport pytest_containers as pc\n" + text)
        return pytester.runpytest_subprocess(*load, "-p", "no:randomly", *arguments)

    return run
