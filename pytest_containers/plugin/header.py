"""The line of the plugin in the header of a test run; every run pays for what is imported here."""

from __future__ import annotations

import os
from importlib.metadata import version

import pytest

from pytest_containers.engines.shared_proc import native_words
from pytest_containers.model import settings


def header_line(config: pytest.Config) -> str:
    """Return the version and the engine of a test run; nothing is started."""
    return f"containers: pytest-containers {version('pytest-containers')}, {_engine_words(config)}"


def _engine_words(config: pytest.Config) -> str:
    setting = settings.ENGINE
    chosen = config.getoption(setting.ini) or os.environ.get(setting.variable)
    name = chosen or config.getini(setting.ini) or setting.default
    if name == "native":
        return native_words()
    from pytest_containers.engines.choose import described

    return described(name)
