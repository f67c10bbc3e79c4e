"""Sockets of the test process that forward to containers, by threads of this process."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

from pytest_containers.model.errors import ContainersError, StartError, hide_frames
from pytest_containers.model.threads import starting_threads

if TYPE_CHECKING:
    from pytest_containers.model.engine import Container

__tracebackhide__ = hide_frames

_CHUNK_BYTES = 1 << 16
_CONNECT_S = 10.0


class ThreadLead:
    """The implementation of `model.engine.Lead`: a thread listens from the first use on.

    Args:
        sock: The descriptor of a bound socket; the caller keeps ownership. None binds one.
        label: The name of the socket in messages.
        port: The port to bind without a socket.
    """

    def __init__(self, sock: int | None, label: str, port: int) -> None:
        self._fd = sock
        self._label = label
        self._port = port
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._target: tuple[str, int] | None = None
        self._pairs: set[socket.socket] = set()
        self._refused = 0

    def to(self, container: Container, port: int) -> int:
        """Forward connections; see `Lead.to`."""
        address = container.address(port)
        if self._listener is None:
            self._listener = self._listen()
            _thread(self._accept)
        with self._lock:
            self._target = address
            refused, self._refused = self._refused, 0
        self._reset_all()
        return refused

    def _listen(self) -> socket.socket:
        try:
            if self._fd is not None:
                listener = socket.socket(fileno=socket.dup(self._fd))
            else:
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", self._port))
            listener.listen(128)
        except OSError as error:
            raise StartError(
                f"endpoint {self._label!r}: port {self._port} of 127.0.0.1: {error.strerror}",
                port=self._port,
                errno=error.errno,
            ) from error
        return listener

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                target = self._target
                if target is None:
                    self._refused += 1
            if target is None:
                _reset(client)
            else:
                _thread(lambda client=client, target=target: self._forward(client, target))

    def _forward(self, client: socket.socket, target: tuple[str, int]) -> None:
        try:
            server = socket.create_connection(target, _CONNECT_S)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        with self._lock:
            self._pairs |= {client, server}
        back = threading.Thread(target=_carry, args=(server, client), daemon=True)
        with starting_threads():
            back.start()
        _carry(client, server)
        back.join()
        with self._lock:
            self._pairs -= {client, server}
        client.close()
        server.close()

    def _reset_all(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for sock in pairs:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)

    def nowhere(self) -> None:
        """Reset connections and new ones; see `Lead.nowhere`."""
        with self._lock:
            self._target = None
        self._reset_all()

    @property
    def number(self) -> int:
        """The port that it listens on; 0 before the first use."""
        return 0 if self._listener is None else int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Stop listening; reset all connections."""
        self.nowhere()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()

    def refused(self) -> int:
        """Return the number of refused connections; see `Lead.refused`."""
        with self._lock:
            refused, self._refused = self._refused, 0
        return refused


def _thread(work: object) -> None:
    with starting_threads():
        threading.Thread(target=work, name="pytest-containers endpoint", daemon=True).start()  # type: ignore[arg-type]


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ContainersError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
