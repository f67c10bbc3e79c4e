"""Fixed addresses for code that reads its settings before any fixture runs.

An address is bound when a `conftest.py` is imported, so it is known to all that is imported after
it. It leads to whichever container the current test has; between tests, connections are refused.
"""

from __future__ import annotations

import linecache
import logging
import os
import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from pytest_containers.errors import ContainersError, SettingsError, SpecError, hide_frames
from pytest_containers.spec import Port

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Engine

__tracebackhide__ = hide_frames

_TRIES = 50
_log = logging.getLogger("pytest_containers")
_all: list[Endpoint] = []
_exported: set[str] = set()
_setters: dict[str, Endpoint] = {}
_known: dict[str, Endpoint] = {}


class Endpoint:
    """An address that stays the same for all tests of this process.

    Attributes:
        name: Of the fixture whose containers it leads to.
        number: The port in the container.
        where: The line that makes it, ``file:line``, as far as it is known.
        host, port: The address.
    """

    def __init__(self, name: str, number: int, where: str = "") -> None:
        Port(number)  # refuses what is no port
        self.name = name
        self.where = where
        self.number = number
        self.host: str = "127.0.0.1"
        # A descriptor for the rest of the process: nobody is to be warned that it is open.
        fd, port = _reserved()
        self.fd: int = fd
        self.port: int = port
        _all.append(self)

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``."""
        return self.host, self.port

    def export(self, env: Mapping[str, str], **known: str) -> None:
        """Set variables; ``{host}`` and ``{port}`` in their values are replaced.

        Raises:
            SpecError: A value has something else in braces, or another endpoint has set one.
        """
        for variable, text in env.items():
            other = _setters.setdefault(variable, self)
            # The same line again is a file that is imported anew.
            if other is not self and not (self.where and other.where == self.where):
                raise SpecError(
                    f"endpoint of {self._described()}: variable {variable} leads to "
                    f"{other._described()} already; take another variable for one of them"
                )
            _setters[variable] = self
            _exported.add(variable)
            try:
                os.environ[variable] = text.format(host=self.host, port=self.port, **known)
            except (KeyError, IndexError, ValueError):
                raise SpecError(
                    f"endpoint {self.name!r}: {variable}={text!r} may use "
                    f"{', '.join(f'{{{one}}}' for one in ('host', 'port', *known))} only"
                ) from None

    def _described(self) -> str:
        return f"fixture {self.name!r}" + (
            f" ({os.path.relpath(self.where)})" if self.where else ""
        )

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r} {self.host}:{self.port}>"


def endpoint(name: str, port: int, *, env: Mapping[str, str] | None = None) -> Endpoint:
    """Fix an address for the containers of a fixture, now and for this process.

    To be called when a `conftest.py` is imported (or told in the ini file, see
    ``containers_endpoint``), before the code that reads it. The address is in the environment from
    then on. While a test has a container of the fixture, connections lead to it; those of the last
    test are reset. Otherwise they are refused.

    Args:
        name: The fixture's.
        port: Of the container.
        env: Variables to set, ``{"DATABASE_URL": "postgresql://test:test@{host}:{port}/test"}``;
            None sets ``NAME_HOST`` and ``NAME_PORT``.

    Raises:
        SpecError: The fixture has an endpoint for another port.
    """
    found = _known.get(name)
    if found is None:
        found = _known[name] = Endpoint(name, port)
    elif found.number != port:
        raise SpecError(
            f"endpoint {name!r} is for port {found.number} already and cannot be for {port} too"
        )
    letters = "".join(one if one.isalnum() else "_" for one in name.upper())
    default = {f"{letters}_HOST": "{host}", f"{letters}_PORT": "{port}"}
    found.export(default if env is None else env)
    return found


def line_of(frame: FrameType) -> tuple[str, str | None]:
    """Where a fixture is made that pytest will know by the name it is assigned to.

    Returns:
        ``file:line``, and that name if it is there to be read.
    """
    path, number = frame.f_code.co_filename, frame.f_lineno
    found = re.match(r"\s*(\w+)\s*(?::[^=]*)?=(?!=)", linecache.getline(path, number))
    return f"{os.path.abspath(path)}:{number}", found.group(1) if found else None


def forget_setters() -> None:
    """For another test run in this process, which has fixtures of its own."""
    _setters.clear()


def exported() -> frozenset[str]:
    """Variables that endpoints have set: their values are other ones in every process."""
    return frozenset(_exported)


def named(name: str) -> Endpoint | None:
    """The endpoint of a fixture, if it has one."""
    return _known.get(name)


def from_ini(lines: list[str]) -> None:
    """``db:5432 VARIABLE=value …`` for each line.

    Raises:
        SettingsError: A line is something else.
    """
    for line in lines:
        head, *rest = line.split()
        name, _, number = head.rpartition(":")
        pairs = [one.partition("=") for one in rest]
        if not name or not number.isdecimal() or not all(equals for _, equals, _ in pairs):
            raise SettingsError(
                f"containers_endpoint: {line!r} is not usable; it must be 'fixture:port "
                "VARIABLE=value …', as in 'db:5432 DATABASE_URL=postgresql://{host}:{port}/test'"
            )
        endpoint(name, int(number), env={key: text for key, _, text in pairs} or None)


def _reserved() -> tuple[int, int]:
    """A socket bound to a free port and not listening, so that connections are refused.

    Returns:
        Its descriptor, and the port.
    """
    for _ in range(_TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Asked for by its number: only so the kernel keeps it when the socket stops listening.
            sock.bind(address)
        except OSError:
            sock.close()
            continue
        return sock.detach(), address[1]
    raise ContainersError("endpoint: no free port on 127.0.0.1")


class Endpoints:
    """Leads endpoints to containers, by way of the run's launcher.

    Args:
        engine: Of this process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys: dict[Endpoint, str] = {}

    def lead(self, endpoint: Endpoint, container: Container | None) -> None:
        """From now on, connections lead to `container`, or nowhere; earlier ones are reset."""
        key = self._keys.get(endpoint)
        if container is None:
            if key is not None:
                self._engine.tell("endpoint_target", key=key, container=None, port=endpoint.number)
            return
        client = self._engine.client
        if key is None:
            key = self._keys[endpoint] = f"{endpoint.name}-{secrets.token_hex(8)}"
            client.call("endpoint", key=key, fds=[endpoint.fd])
        frame = client.call(
            "endpoint_target", key=key, container=container.id, port=endpoint.number
        )
        refused = frame.body["ok"]
        if refused:
            _log.warning(
                "%s; %d came while no test had one", describe(endpoint), refused,
            )  # fmt: skip

    def close(self) -> None:
        """Let the kernel refuse connections again."""
        for endpoint in self._keys:
            with socket.socket(fileno=os.dup(endpoint.fd)) as sock, suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # refused where nobody has listened yet
        self._keys.clear()


def describe(endpoint: Endpoint) -> str:
    """What a connection that was refused should have known."""
    return (
        f"endpoint {endpoint.host}:{endpoint.port} leads to the container of fixture "
        f"{endpoint.name!r} and refuses connections unless a test that uses it is running"
    )


def mentioned(text: str) -> list[str]:
    """What the endpoints are that the text of a failure may be about."""
    refused = "refused" in text.lower()  # by Python, or by a library that tells no port
    return [describe(one) for one in _all if refused or str(one.port) in text]
