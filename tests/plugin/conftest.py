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
def load() -> list[str]:
    """The options of pytest that load the plugin."""
    # Where the project is importable but not installed, its entry point is missing.
    from importlib.metadata import entry_points

    installed = any(entry.name == "containers" for entry in entry_points(group="pytest11"))
    return [] if installed else ["-p", "pytest_containers.plugin"]


@pytest.fixture
def run(pytester: pytest.Pytester, load: list[str]):
    """Write a test file and run pytest on it, in a process of its own."""

    def run(test_code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile("import pytest\nimport pytest_containers as pc\n" + test_code)
        return pytester.runpytest_subprocess(*load, "-p", "no:randomly", *arguments)

    return run
