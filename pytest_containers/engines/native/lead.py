"""Sockets of the test process that forward to containers, through the launcher of the run."""

from __future__ import annotations

import secrets

from pytest_containers.engines.native.core import Core
from pytest_containers.model.engine import Container
from pytest_containers.runtime.wire.operations.containers import OpenEndpoint, PointEndpoint


class NativeLead:
    """The implementation of `model.engine.Lead`: the launcher listens from the first use on.

    Args:
        core: The run.
        sock: The descriptor of a bound socket; the caller keeps ownership. None binds one.
        label: The name of the socket in messages.
        host_port: The port to bind without a socket.
    """

    def __init__(self, core: Core, sock: int | None, label: str, host_port: int) -> None:
        self._core = core
        self._sock = sock
        self._label = label
        self._host_port = host_port
        self._key = f"{label}-{secrets.token_hex(8)}"
        self._port: int | None = None

    def to(self, container: Container, port: int) -> int:
        """Forward connections; see `Lead.to`."""
        client = self._core.client
        if self._port is None:
            bound = [] if self._sock is None else [self._sock]
            opening = OpenEndpoint(
                key=self._key, label=self._label, bound=bound, port=self._host_port
            )
            client.call(opening)
        self._port = port
        return client.call(PointEndpoint(key=self._key, container=container.id, port=port)).count

    def nowhere(self) -> None:
        """Refuse connections; see `Lead.nowhere`."""
        if self._port is not None:
            self._core.tell(PointEndpoint(key=self._key, container=None, port=self._port))

    def refused(self) -> int:
        """Return the number of refused connections; see `Lead.refused`."""
        if self._port is None:
            return 0
        pointing = PointEndpoint(key=self._key, container=None, port=self._port)
        return self._core.client.call(pointing).count
