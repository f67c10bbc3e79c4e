"""What pytest calls: options, the header line, fixtures, reports, xdist.

Everything that is needed only when a container is asked for is imported then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_containers.plugin.manager import Containers, Manager

_manager_key: pytest.StashKey[Manager] = pytest.StashKey()
_broker_key: pytest.StashKey[Any] = pytest.StashKey()
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
        group.addoption(
            f"--containers-{name.replace('_', '-')}",
            action="append" if several else "store",
            default=None,
            metavar=metavar,
            help=help,
        )
        if several:
            parser.addini(f"containers_{name}", help, type="linelist")
        else:
            parser.addini(f"containers_{name}", help, type="string")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is started; a wrong value on the command line is told at once."""
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
