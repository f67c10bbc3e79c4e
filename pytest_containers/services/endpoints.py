"""Fixed addresses for code that reads its settings before any fixture runs.

An address is reserved when a `conftest.py` is imported, so that all later imports can read it from
the environment. It forwards to the container of the current test; between tests, connections are
refused.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

from pytest_containers.model.arguments import TEXT, check, require
from pytest_containers.model.engine import Container, Engine, Lead
from pytest_containers.model.errors import ContainersError, SettingsError, SpecError, hide_frames
from pytest_containers.model.spec import Port

__tracebackhide__ = hide_frames

_TRIES = 50
_log = logging.getLogger("pytest_containers")
_all: list[Endpoint] = []
_exported: set[str] = set()
_setters: dict[str, Endpoint] = {}
_by_fixture: dict[str, Endpoint] = {}
_LOOPBACK = ("127.0.0.1", "localhost")


class Endpoint:
    """An address that stays the same for all tests of this process.

    Attributes:
        name: The name of the fixture whose containers it forwards to.
        number: The port in the container.
        where: The source line that makes it, ``file:line``; empty if unknown.
        host, port: The address.
        fixed: True if the port was chosen by the user.
        fd: The descriptor of the socket that reserves the port; -1 for a fixed port, which is
            bound when the first container needs it.
        listening: True once the kernel no longer refuses its connections.
        refused: The number of connections that were refused, as far as they were seen.
    """

    def __init__(
        self, name: str, number: int, where: str = "", *, host_port: int | None = None
    ) -> None:
        for each in (number, number if host_port is None else host_port):
            Port(each)  # raises for a number that is not a port
        self.name = name
        self.where = where
        self.number = number
        self.host: str = "127.0.0.1"
        self.fixed: bool = host_port is not None
        # A plain descriptor: a socket object would warn at exit that it is still open.
        fd, port = (-1, host_port) if host_port is not None else _reserved()
        self.fd: int = fd
        self.port: int = port
        self.listening: bool = False
        self.refused: int = 0
        _all.append(self)
        _watch_connections()

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``."""
        return self.host, self.port

    def export(self, env: Mapping[str, str], **fields: str) -> None:
        """Set environment variables; ``{host}`` and ``{port}`` in their values are replaced.

        Args:
            env: The values, by variable.
            **fields: More names that may stand in braces.

        Raises:
            SpecError: A value has another name in braces, or another endpoint set the variable.
        """
        for variable, template in env.items():
            other = _setters.setdefault(variable, self)
            # The same source line means that its file was imported again.
            if other is not self and not (self.where and other.where == self.where):
                raise SpecError(
                    f"endpoint of {self._described()}: variable {variable} is already set by the "
                    f"endpoint of {other._described()}; use another variable for one of them"
                )
            _setters[variable] = self
            _exported.add(variable)
            try:
                os.environ[variable] = template.format(host=self.host, port=self.port, **fields)
            except (KeyError, IndexError, ValueError):
                names = ", ".join(f"{{{name}}}" for name in ("host", "port", *fields))
                raise SpecError(
                    f"endpoint {self.name!r}: {variable}={template!r} may use {names} only"
                ) from None

    def _described(self) -> str:
        return f"fixture {self.name!r}" + (
            f" ({os.path.relpath(self.where)})" if self.where else ""
        )

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r} {self.host}:{self.port}>"


def endpoint(
    name: str, port: int, *, env: Mapping[str, str] | None = None, host_port: int | None = None
) -> Endpoint:
    """Reserve a fixed address for the containers of a fixture.

    Call it at the top of a `conftest.py`, before the import of the code that reads the address; or
    set ``containers_endpoint`` in the ini file. The environment variables are set at once. While a
    test has a container of the fixture, connections go to it, and those of the previous test are
    reset. At other times connections are refused.

    Args:
        name: The name of the fixture.
        port: The port in the container.
        env: Variables to set, ``{"DATABASE_URL": "postgresql://me:secret@{host}:{port}/shop"}``;
            None sets ``NAME_HOST`` and ``NAME_PORT``.
        host_port: The port of the address, for code that has its number built in; None is a free
            one. Only one process at a time can have it: see "Fixed ports" in the documentation.

    Raises:
        SpecError: The fixture has an endpoint for another port.
    """
    require("endpoint()", "name", name, TEXT)
    check("endpoint()", port=port, env=env or {})
    reserved = _by_fixture.get(name)
    if reserved is None:
        reserved = _by_fixture[name] = Endpoint(name, port, host_port=host_port)
    elif reserved.number != port:
        raise SpecError(
            f"endpoint {name!r} is already for port {reserved.number} and cannot be for port {port}"
        )
    elif host_port not in (None, reserved.port):
        raise SpecError(
            f"endpoint {name!r} is already at port {reserved.port} of the host and cannot be at "
            f"port {host_port}"
        )
    prefix = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
    default = {f"{prefix}_HOST": "{host}", f"{prefix}_PORT": "{port}"}
    reserved.export(default if env is None else env)
    return reserved


def forget_run() -> None:
    """Forget who has set which variable, and what was refused, at the end of a test run."""
    _setters.clear()
    for entry in _all:
        entry.refused = 0


def exported() -> frozenset[str]:
    """Return the variables that endpoints have set; their values differ in every process."""
    return frozenset(_exported)


def named(name: str) -> Endpoint | None:
    """Return the endpoint of a fixture, if it has one."""
    return _by_fixture.get(name)


def from_ini(lines: list[str]) -> None:
    """Reserve the endpoints of the ini file, each a line ``db:5432 VARIABLE=value …``.

    ``db:15432:5432`` has a port of the host before that of the container, as in Docker.

    Raises:
        SettingsError: A line has another format.
    """
    for line in lines:
        head, *assignments = line.split()
        address = re.fullmatch(r"(.+?)(?::(\d+))?:(\d+)", head)
        pairs = [assignment.partition("=") for assignment in assignments]
        if address is None or not all(equals for _, equals, _ in pairs):
            raise SettingsError(
                f"containers_endpoint: {line!r} is not usable; it must be 'fixture:port "
                "VARIABLE=value …', as in 'db:5432 DATABASE_URL=postgresql://{host}:{port}/test'"
            )
        endpoint(
            address[1],
            int(address[3]),
            env={key: value for key, _, value in pairs} or None,
            host_port=int(address[2]) if address[2] else None,
        )


def parts_of(value: object) -> tuple[dict[str, str], int | None]:
    """Return the variables and the fixed port that ``endpoint=`` of a service asks for.

    Args:
        value: A variable, a dictionary of variables, a port, or a list of these.

    Raises:
        SpecError: It is something else.
    """
    variables: dict[str, str] = {}
    host_port: int | None = None
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, str):
            variables[part] = "{url}"
        elif isinstance(part, Mapping):
            variables.update(part)
        elif isinstance(part, int) and not isinstance(part, bool):
            host_port = part
        else:
            raise SpecError(
                f"endpoint={value!r} is not usable; it must be the name of a variable, a "
                "dictionary of variables, a port of the host, or an endpoint()"
            )
    return variables, host_port


def _reserved() -> tuple[int, int]:
    """Bind a socket to a free port without listening, so that connections are refused.

    Returns:
        The descriptor of the socket, and the port.
    """
    for _ in range(_TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Bound by number: the kernel keeps only such a port when the socket stops listening.
            sock.bind(address)
        except OSError:
            sock.close()
            continue
        return sock.detach(), address[1]
    raise ContainersError("endpoint: no free port on 127.0.0.1")


class Endpoints:
    """The endpoints of a process, with the containers that they forward to.

    Args:
        engine: The engine of this process.
        worker: The worker of xdist that this process is, ``gw0``; empty for none.
    """

    def __init__(self, engine: Engine, worker: str = "") -> None:
        self._engine = engine
        self._worker = worker
        self._leads: dict[Endpoint, Lead] = {}
        self._resting: dict[Endpoint, Container] = {}
        self._targets: dict[Endpoint, Container] = {}

    def rest(self, endpoint: Endpoint, container: Container) -> None:
        """Forward to `container` whenever no test has one of its own."""
        self._resting[endpoint] = container
        self.lead(endpoint, None)

    def lead(self, endpoint: Endpoint, container: Container | None) -> None:
        """Forward new connections to `container`, or refuse them; reset earlier ones.

        Does nothing if it forwards there already, so that connections stay open.

        Args:
            container: None is the container that was given to `rest`, if any.

        Raises:
            UnsupportedError: The engine lacks the capability ``endpoints``.
            StartError: Its fixed port is taken.
        """
        container = container or self._resting.get(endpoint)
        if container is self._targets.get(endpoint):
            return
        lead = self._leads.get(endpoint)
        if container is None:
            del self._targets[endpoint]
            if lead is not None:
                lead.nowhere()
            return
        if lead is None:
            lead = self._leads[endpoint] = self._opened(endpoint)
        refused = lead.to(container, endpoint.number)
        self._targets[endpoint] = container
        endpoint.listening = True
        endpoint.refused += refused
        if refused:
            _log.warning("%s; %d came while no test had one", describe(endpoint), refused)

    def _opened(self, endpoint: Endpoint) -> Lead:
        self._engine.require("endpoints")
        label = f"fixture {endpoint.name!r}"
        if self._worker:
            label += f" in worker {self._worker}"
        if endpoint.fixed:
            return self._engine.lead(None, label, port=endpoint.port)
        return self._engine.lead(endpoint.fd, label)

    def count_refused(self) -> None:
        """Ask for the connections that were refused since the last container, at the end."""
        for endpoint, lead in self._leads.items():
            if endpoint not in self._targets:
                with suppress(ContainersError):  # the run is gone, and the count with it
                    endpoint.refused += lead.refused()

    def close(self) -> None:
        """Make the kernel refuse connections again."""
        for endpoint in self._leads:
            endpoint.listening = False
            if endpoint.fd >= 0:
                with socket.socket(fileno=os.dup(endpoint.fd)) as sock, suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # fails if the socket was never listening
        self._leads.clear()
        self._targets.clear()


_is_watching = False


def _watch_connections() -> None:
    """Count connections to endpoints that the kernel refuses, since nothing listens yet.

    The kernel tells nobody. An audit hook sees connections of Python's sockets, though not those
    of libraries in C; of these, the report of a skipped or failed test may tell (`note_refused`).
    """
    global _is_watching
    if not _is_watching:
        _is_watching = True  # a hook cannot be removed
        sys.addaudithook(_see_connection)


def _see_connection(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and len(address) >= 2 and address[0] in _LOOPBACK:
        for entry in _all:
            if entry.port == address[1] and not entry.listening:
                entry.refused += 1


def note_refused(report: str) -> None:
    """Count a connection that the text of a skip or a failure says was refused."""
    if "refused" not in report.lower():
        return
    for entry in _all:
        if not entry.refused and re.search(rf"\b{entry.port}\b", report):
            entry.refused += 1


def refused() -> list[tuple[str, str, int]]:
    """Return what was refused: the fixture and the address of the endpoint, and how often."""
    return [(entry.name, f"{entry.host}:{entry.port}", entry.refused) for entry in _all
            if entry.refused]  # fmt: skip


def describe(endpoint: Endpoint) -> str:
    """Return a sentence that explains why a connection to an endpoint is refused."""
    return (
        f"endpoint {endpoint.host}:{endpoint.port} forwards to the container of fixture "
        f"{endpoint.name!r} and refuses connections unless a test that uses it is running"
    )


def mentioned(failure: str) -> list[str]:
    """Return an explanation of each endpoint that the text of a failure may be about."""
    refused = "refused" in failure.lower()  # some client libraries name no port
    return [describe(entry) for entry in _all if refused or str(entry.port) in failure]
