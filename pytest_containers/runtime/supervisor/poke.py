"""A first word with a server that was started ahead: what it does only once is done by then."""

from __future__ import annotations

import base64
import socket
from typing import TYPE_CHECKING, Any

from pytest_containers.runtime.messages import Fault
from pytest_containers.runtime.network.dial import dial_inside

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.container import Container
    from pytest_containers.runtime.supervisor.server import Server

_LONG_S = 5.0
_BYTES = 1 << 16


class Poke:
    """Waits for a text in the log, then says something on a port of the container's loopback.

    What comes of it is nobody's affair: whatever fails, the server was just not spoken to.

    Args:
        wanted: ``text``, ``port``, ``data`` (base64).
    """

    def __init__(self, server: Server, container: Container, wanted: dict[str, Any]) -> None:
        self._server = server
        self._container = container
        self._text: bytes = wanted["text"].encode()
        self._port: int = wanted["port"]
        self._data = base64.b64decode(wanted["data"])
        self._position = 0
        self._held = b""
        container.log.listen(self._look)
        container.when_exited(self._exited)
        self._look()

    def _look(self) -> None:
        self._position, records = self._container.log.since(self._position)
        self._held = (self._held + records)[-_BYTES:]  # headers of records do no harm in between
        if self._text in self._held:
            self._forget()
            self._speak()

    def _exited(self, code: int) -> None:
        self._container.log.unlisten(self._look)

    def _forget(self) -> None:
        self._container.log.unlisten(self._look)
        self._container.forget_waiter(self._exited)

    def _speak(self) -> None:
        container, server = self._container, self._server
        if container.port is None or container.exit_code is not None:
            return
        dial_inside(
            server.loop, container.port.netns_fd, server.net_ns, "tcp", self._port, _LONG_S,
            self._dialled,
        )  # fmt: skip

    def _dialled(self, sock: socket.socket | Fault) -> None:
        if isinstance(sock, Fault):
            return
        loop = self._server.loop

        def end() -> None:
            loop.remove_reader(sock.fileno())
            loop.cancel(timer)
            sock.close()

        def read() -> None:
            try:
                data = sock.recv(_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                end()

        timer = loop.call_later(_LONG_S, end)
        loop.add_reader(sock.fileno(), read)
        try:
            sock.send(self._data)
        except OSError:
            end()
