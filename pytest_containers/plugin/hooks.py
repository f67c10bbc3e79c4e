"""What pytest calls: options, the header line, fixtures, reports, xdist.

Everything that is needed only when a container is asked for is imported then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_containers.plugin.manager import Containers, Manager

_manager_key: pytest.StashKey[Manager] = pytest.StashKey()
_broker_key: pytest.StashKey[Any] = pytest.StashKey()
_began_key: pytest.StashKey[float] = pytest.StashKey()
_states_key: pytest.StashKey[list[Any]] = pytest.StashKey()
_next_key: pytest.StashKey[pytest.Item | None] = pytest.StashKey()
_OPTIONS = (
    ("home", "DIR", "directory of the image store", False),
    ("image", "FIXTURE=IMAGE", "use another image for one fixture, for matrices", True),
    ("ready_timeout", "SECONDS", "how long a container may take to become ready (60)", False),
    ("log_lines", "N", "lines of a container's output in the report of a failure (30)", False),
    ("identity", "MODE", "container users on the host: auto, root, range or single", False),
    ("pull", "POLICY", "ask registries for images: missing (default), always or never", False),
    ("registry_mirror", "REGISTRY=MIRROR", "ask a mirror first for a registry's images", True),
    (
        "insecure_registry",
        "HOST[:PORT]",
        "may be asked in plain http or with any certificate",
        True,
    ),
    ("hub_prefix", "PREFIX", "goes before names of Docker Hub: mirror.example/hub/", False),
    ("runner", "RUNNER", "what makes the system calls: auto, stub or python", False),
    ("fresh", "", "make the states of seeds anew, whatever is there", False),
    (
        "lookahead",
        "on|off|N",
        "containers started for the next test while one runs (on: as many as processors)",
        False,
    ),
)
"""Name, metavar, help, several: as in `settings`, which is imported only when it is needed."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer our hooks."""
    from pytest_containers.plugin import newhooks

    pluginmanager.add_hookspecs(newhooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--containers-*`` and ``containers_*``."""
    group = parser.getgroup("containers", "containers for tests")
    for name, metavar, help, several in _OPTIONS:
        # No default: else the ini value would be hidden behind it.
        how: dict[str, Any] = {"action": "append" if several else "store", "metavar": metavar}
        if not metavar:
            how = {"action": "store_const", "const": "yes"}
        option = f"--containers-{name.replace('_', '-')}"
        group.addoption(option, default=None, help=help, **how)
        if several:
            parser.addini(f"containers_{name}", help, type="linelist")
        else:
            parser.addini(f"containers_{name}", help, type="string")
    parser.addini(
        "containers_endpoint",
        "fixed addresses for settings that are read early: fixture:port VARIABLE=value …",
        type="linelist",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Fix addresses before other plugins read settings of the code under test."""
    lines = early_config.getini("containers_endpoint")
    if lines:
        from pytest_containers.errors import ContainersError
        from pytest_containers.plugin.endpoints import from_ini

        try:
            from_ini(lines)
        except ContainersError as error:
            raise pytest.UsageError(str(error)) from None
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is started; a wrong value on the command line is told at once."""
    config.addinivalue_line(
        "markers",
        "containers_seed(fixture, seed, ...): more seeds for a fixture, on top of its own",
    )
    if any(config.getoption(f"containers_{name}") is not None for name, *_ in _OPTIONS):
        from pytest_containers.errors import SettingsError
        from pytest_containers.plugin.manager import settings_of

        try:
            settings_of(config)
        except SettingsError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line; asks and starts nothing."""
    if config.get_verbosity() < 0:
        return None
    from importlib.metadata import version

    return f"containers: pytest-containers {version('pytest-containers')}, native engine"


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run, if there is one."""
    endpoints = sys.modules.get("pytest_containers.plugin.endpoints")
    if endpoints is not None:
        endpoints.forget_setters()
    broker = config.stash.get(_broker_key, None)
    if broker is not None:
        broker.close()
    manager = config.stash.get(_manager_key, None)
    if manager is not None:
        manager.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist, in the controller: tell a worker where the run is to be had."""
    broker = node.config.stash.get(_broker_key, None)
    if broker is None:
        from pytest_containers.engines.native.broker import Broker

        broker = node.config.stash[_broker_key] = Broker(lambda: manager_of(node.config).engine)
    node.workerinput["containers_broker"] = broker.address
    node.workerinput["containers_began"] = node.config.stash.setdefault(_began_key, time.time())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """xdist, in the controller: a worker has ended and tells what became of states."""
    told = getattr(node, "workeroutput", {}).get("containers_states", ())
    node.config.stash.setdefault(_states_key, []).extend(told)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """xdist, in a worker: tell what became of states."""
    manager = session.config.stash.get(_manager_key, None)
    if manager is not None and hasattr(session.config, "workeroutput"):
        from dataclasses import astuple

        told = [list(astuple(one)) for one in manager.outcomes]
        session.config.workeroutput["containers_states"] = told


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """With ``-v``: which states were there already, and why the others were not."""
    manager = config.stash.get(_manager_key, None)
    told = config.stash.get(_states_key, [])
    if (manager is not None or told) and config.get_verbosity() > 0:
        from pytest_containers.plugin.report import state_lines

        lines = state_lines([] if manager is None else manager.outcomes, told)
        if lines:
            terminalreporter.section("states of containers")
            for line in lines:
                terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Know which test comes next."""
    item.config.stash[_next_key] = nextitem
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse marks that nothing would look at."""
    if item.get_closest_marker("containers_seed") is not None:
        from pytest_containers.plugin.marks import check_marks

        try:
            check_marks(item)
        except pytest.UsageError as error:
            pytest.fail(str(error), pytrace=False)  # this function says nothing about it


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """While a test runs, what the next one needs is started."""
    manager = item.config.stash.get(_manager_key, None)
    if manager is not None and manager.ours:
        manager.lookahead.prepare(item.config.stash.get(_next_key, None))
    return (yield)


def pytest_exception_interact(node: Any, report: Any) -> None:
    """Explain connections that were refused while tests are collected."""
    if isinstance(report, pytest.CollectReport):
        from pytest_containers.plugin.report import explain_endpoints

        explain_endpoints(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the report of a failure say what its containers were doing."""
    report = yield
    manager = item.config.stash.get(_manager_key, None)
    if manager is not None:
        from pytest_containers.plugin.report import add_sections

        add_sections(report, item, manager)
    return report


def manager_of(config: pytest.Config) -> Manager:
    """The engine and containers of this process; made when first asked for."""
    manager = config.stash.get(_manager_key, None)
    if manager is None or not manager.ours:
        from pytest_containers.plugin.manager import Manager

        manager = config.stash[_manager_key] = Manager(config)
    return manager


def _scoped(request: pytest.FixtureRequest) -> Iterator[Containers]:
    with manager_of(request.config).containers(request.scope) as found:
        yield found


@pytest.fixture
def containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for one test: ``containers.run("host:", ["redis-server"], ports=[6379])``.

    They share a private network of the test and are gone after it.
    """
    yield from _scoped(request)


@pytest.fixture(scope="class")
def class_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers that live as long as a test class."""
    yield from _scoped(request)


@pytest.fixture(scope="module")
def module_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers that live as long as a test module."""
    yield from _scoped(request)


@pytest.fixture(scope="package")
def package_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers that live as long as a package of tests."""
    yield from _scoped(request)


@pytest.fixture(scope="session")
def session_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers that live as long as the session (of an xdist worker: its own)."""
    yield from _scoped(request)
