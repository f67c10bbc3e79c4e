"""Runs of pytest in tests: as users have them, without the plugins that a test does not look at.

Those that are installed take longer to load than all else in a short run, in each of its workers.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

_PLUGINS_OF_OPTIONS = {"-n": "xdist", "--reruns": "rerunfailures", "--timeout": "timeout"}


def prepare(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Set the environment of the runs: a store, and nothing of the run around them."""
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(home))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


def plugins(*arguments: str) -> list[str]:
    """Return the options that load this project's plugin, and those that arguments ask for.

    They go after the arguments: what these load comes before, as it is for users.
    """
    # Where the project is importable but not installed, its entry point is missing.
    installed = any(entry.name == "containers" for entry in entry_points(group="pytest11"))
    wanted = ["containers" if installed else "pytest_containers.plugin"]
    for option, plugin in _PLUGINS_OF_OPTIONS.items():
        if any(argument.startswith(option) for argument in arguments):
            wanted.append(plugin)
    return [word for plugin in wanted for word in ("-p", plugin)]
