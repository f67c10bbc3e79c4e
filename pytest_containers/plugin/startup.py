"""What is known of a test run at its start, before anything large is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from pytest_containers.model import settings
from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.settings import Settings

__tracebackhide__ = hide_frames

RUN_VARIABLE = "PYTEST_CONTAINERS_XDIST_RUN"
"""What a controller of xdist tells its workers before they have any other word of it."""


_WITHOUT_TESTS = (
    "collectonly", "showfixtures", "show_fixtures_per_test", "setupplan", "markers", "cacheshow",
    "help", "version",
)  # fmt: skip
"""The options of pytest with which no test runs."""


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of an option of the command line, also before all of it is parsed."""
    # Without arguments, the command line is not parsed yet: initial conftest files are imported.
    return getattr(config.option if config.args else config.known_args_namespace, name, None)


def is_dormant(config: pytest.Config) -> bool:
    """Return True if no test will run, so that no session service is needed."""
    return any(option(config, name) for name in _WITHOUT_TESTS)


def tell_workers(facts: Mapping[str, Any]) -> Callable[[], None]:
    """Set the variable from which workers learn of the run; return how to remove it."""
    before = os.environ.get(RUN_VARIABLE)
    os.environ[RUN_VARIABLE] = f"{os.getpid()} {json.dumps(facts)}"

    def forget() -> None:
        if before is None:
            os.environ.pop(RUN_VARIABLE, None)
        else:
            os.environ[RUN_VARIABLE] = before

    return forget


def worker_facts(config: pytest.Config) -> Mapping[str, Any]:
    """Return what the controller of xdist has sent to this worker; nothing in other processes."""
    sent: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if sent is not None:
        return sent
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    controller, _, facts = os.environ.get(RUN_VARIABLE, "").partition(" ")
    # A pytest that a test of a worker starts inherits the variables, and is no worker.
    if worker is None or controller != str(os.getppid()):
        return {}
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return {**json.loads(facts), "workerid": worker, "testrunuid": run}


def settings_of(config: pytest.Config) -> Settings:
    """Return the settings of a test run.

    Raises:
        SettingsError: A value is not usable.
    """
    from pytest_containers.model.security import absolute_profiles

    ini = {setting.name: config.getini(setting.ini) for setting in settings.OPTIONS}
    # Written once for all who run the tests, wherever they stand.
    profiles = settings.SECURITY_OPT.name
    ini[profiles] = absolute_profiles(ini[profiles], config.rootpath)
    return Settings(
        {setting.name: option(config, setting.ini) for setting in settings.OPTIONS}, ini
    )


def launch_ahead(config: pytest.Config) -> None:
    """Launch a process for session services as soon as the ini file is known to have any.

    Its interpreter starts while pytest imports other plugins, and this one.
    """
    engine = settings.ENGINE
    # The options of plugins are not parsed yet.
    chosen = any(argument.startswith(engine.option) for argument in config.invocation_params.args)
    if not chosen:
        name = os.environ.get(engine.variable) or config.getini(engine.ini) or engine.default
        chosen = name != "native"
    if not chosen and "PYTEST_XDIST_WORKER" not in os.environ and not is_dormant(config):
        from pytest_containers.engines import choose

        choose.launch_ahead()


def begin_run(config: pytest.Config) -> None:
    """Start the run for session services, whose modules are imported meanwhile.

    Does nothing if no test will run, or if another process has the run. What is wrong with the
    settings or the machine is told when the run is needed.
    """
    if is_dormant(config) or "containers_broker" in worker_facts(config):
        return
    from pytest_containers.engines.choose import begin_run
    from pytest_containers.model.engine_options import engine_options

    with suppress(ContainersError):
        begin_run(engine_options(settings_of(config)))
