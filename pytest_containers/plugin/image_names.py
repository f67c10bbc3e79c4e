"""The check of ``--containers-image=NAME=IMAGE``: a name that nothing uses is an error.

Only fixtures are known before the tests run. A test may also start a container by name
(``containers.run(…, name="cache")``), so a name that stands in the source of a collected file may
be used. Settings of a project (ini file, environment) may be meant for tests that are not collected
now: then only a name that is close to a known one is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_containers.model.settings import IMAGE
from pytest_containers.plugin.marks import definitions_of
from pytest_containers.plugin.startup import settings_of
from pytest_containers.services.declaration import declared_names

_NUMBERED = re.compile(r"container-\d+")


def fault_in_names(session: pytest.Session) -> str | None:
    """Return a message for the first name that nothing uses; None if there is none."""
    if session.testsfailed:  # fixtures of files that could not be imported are not known
        return None
    for name, source in settings_of(session.config).image_sources().items():
        if _NUMBERED.fullmatch(name) or _is_fixture(session, name) or _is_mentioned(session, name):
            continue
        close = difflib.get_close_matches(name, declared_names, 3, 0.6)
        if close or source == IMAGE.option or _is_whole_suite(session.config):
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else _names()
            return f"{source}: no fixture or container is called {name!r}; {hint}"
    return None


def _names() -> str:
    names = ", ".join(sorted(declared_names))
    return f"there are {names}" if names else "no fixture has a container"


def _is_fixture(session: pytest.Session, name: str) -> bool:
    modules = {item.path: item for item in session.items}
    return any(definitions_of(item, name) for item in modules.values())


def _is_mentioned(session: pytest.Session, name: str) -> bool:
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    for path in _sources(session):
        with suppress(OSError, UnicodeDecodeError):
            if word.search(path.read_text(encoding="utf-8")):
                return True
    return False


def _sources(session: pytest.Session) -> Iterator[Path]:
    """Iterate over the collected test modules and the conftest.py files."""
    yield from dict.fromkeys(item.path for item in session.items)
    for plugin in session.config.pluginmanager.get_plugins():
        path = getattr(plugin, "__file__", None)
        if isinstance(path, str) and path.endswith("conftest.py"):
            yield Path(path)


def _is_whole_suite(config: pytest.Config) -> bool:
    if config.args_source == pytest.Config.ArgsSource.ARGS:
        return False
    return (
        config.args_source == pytest.Config.ArgsSource.TESTPATHS
        or config.invocation_params.dir == config.rootpath
    )
