"""Endpoints that refused connections while no container was behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers.model import settings
from pytest_containers.plugin.startup import is_dormant, settings_of
from pytest_containers.services import endpoints

if TYPE_CHECKING:
    from pytest_containers.plugin.manager import Manager

_REMEDY = (
    "if the tests look for it while they are collected, make it a session service "
    "(containers_services in the ini file, or session_service() in a conftest.py), which is up "
    "from the start"
)


def finish(session: pytest.Session, manager: Manager | None, reported: list[Any]) -> None:
    """Collect what was refused; a worker sends it to the controller, where it may be an error.

    Args:
        reported: What workers have sent; what this process has seen is added.
    """
    config = session.config
    if is_dormant(config):
        return
    if manager is not None and manager.ours:
        manager.count_refused()
    reported += [list(entry) for entry in endpoints.refused()]
    if hasattr(config, "workeroutput"):
        config.workeroutput["containers_refused"] = reported
        return
    passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if reported and passed and settings_of(config).get(settings.STRICT):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def write_summary(
    reporter: pytest.TerminalReporter, config: pytest.Config, reported: Sequence[Sequence[Any]]
) -> None:
    """Name the endpoints in the summary."""
    strict = settings_of(config).get(settings.STRICT)
    reporter.section(
        "endpoints without a container", red=bool(strict), yellow=not strict, bold=True
    )
    for name in dict.fromkeys(entry[0] for entry in reported):
        entries = [entry for entry in reported if entry[0] == name]
        addresses = ", ".join(dict.fromkeys(str(entry[1]) for entry in entries))
        count = sum(entry[2] for entry in entries)
        times = "a connection" if count == 1 else f"{count} connections"
        reporter.write_line(
            f"{'ERROR' if strict else 'WARNING'}: endpoint of fixture {name!r} ({addresses}) "
            f"refused {times} while no container was behind it; {_REMEDY}"
        )
