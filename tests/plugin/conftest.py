"""Plugin tests run pytest in pytest, as a user would."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import inner


@pytest.fixture(autouse=True)
def _settings(
    monkeypatch: pytest.MonkeyPatch, store_home: Path, request: pytest.FixtureRequest
) -> None:
    inner.prepare(monkeypatch, store_home)


@pytest.fixture
def load() -> list[str]:
    """The options of pytest that load the plugin."""
    return inner.plugins()


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Write a test file and run pytest on it, in a process of its own."""

    def run(test_code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile("import pytest\nimport pytest_containers as pc\n" + test_code)
        return pytester.runpytest_subprocess(*arguments, *inner.plugins(*arguments))

    return run
