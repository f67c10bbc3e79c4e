"""Ports of the host's 127.0.0.1 that lead to containers: the launcher's side."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault, fault
from pytest_containers.runtime.network.relay import Relay

Dialled = Callable[[socket.socket | Fault], None]
Dial = Callable[[str, str, int, Dialled], None]
_DATAGRAM_BYTES = 1 << 16
_MAX_PEERS, _MAX_WAITING = 1024, 64


class Forwards:
    """All forwarded ports.

    Args:
        loop: Runs it.
        dial: ``dial(protocol, ip, port, done)`` makes a socket in the run's namespace.
    """

    def __init__(self, loop: Loop, dial: Dial) -> None:
        self._loop = loop
        self._dial = dial
        self._open: dict[str, _Streams | _Datagrams] = {}

    def open(
        self,
        key: str,
        protocol: str,
        target: tuple[str, int],
        host_port: int | None,
        done: Callable[[int | Fault], None],
    ) -> None:
        """Forward a port; `done` gets its number at 127.0.0.1.

        Args:
            key: To close it by.
            target: Address and port of the container.
            host_port: The number that is wanted, or None.
        """
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if protocol == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", host_port or 0))
            if protocol == "tcp":
                sock.listen(128)
        except OSError as error:
            sock.close()
            done(_refused(error, host_port, protocol))
            return
        number: int = sock.getsockname()[1]
        forward = _Streams if protocol == "tcp" else _Datagrams
        self._open[key] = forward(self._loop, sock, target, self._dial)
        done(number)

    def close(self, key: str) -> None:
        """Forward it no longer; connections go on until their container ends."""
        forward = self._open.pop(key, None)
        if forward is not None:
            forward.close()


def _refused(error: OSError, host_port: int | None, protocol: str) -> Fault:
    what = f"host port {host_port}/{protocol} on 127.0.0.1"
    if error.errno == errno.EADDRINUSE:
        cause = "it is taken by another program; choose another, or none to get a free one"
    elif error.errno == errno.EACCES:
        cause = "ports below 1024 are for root here; choose a higher one"
    else:
        cause = error.strerror or str(error)
    return fault("StartError", f"{what}: {cause}", port=host_port, errno=error.errno)


class _Streams:
    """A listening socket; each connection is joined to one of its own into the container."""

    def __init__(
        self, loop: Loop, sock: socket.socket, target: tuple[str, int], dial: Dial
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._target = target
        self._dial = dial
        self._relays: set[Relay] = set()
        loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            near, _ = self._sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Level-triggered: without a pause this would spin until a descriptor is free.
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(0.1, self._resume)
            return

        def dialled(far: socket.socket | Fault) -> None:
            if isinstance(far, Fault):
                reset(near)
                return
            try:
                relay = Relay(self._loop, near, far, lambda: self._relays.discard(relay))
            except OSError:  # no pipe: out of descriptors
                far.close()
                reset(near)
                return
            self._relays.add(relay)

        self._dial("tcp", *self._target, dialled)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


def reset(sock: socket.socket) -> None:
    """Close with a reset: the client learns that nobody was there, as without a forwarder."""
    with sock:
        reset_at_close(sock)


def reset_at_close(sock: socket.socket) -> None:
    """Let the end of `sock` be a reset, whoever closes it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class _Datagrams:
    """A UDP port; each client gets a socket of its own into the container, for its answers."""

    def __init__(
        self, loop: Loop, sock: socket.socket, target: tuple[str, int], dial: Dial
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._target = target
        self._dial = dial
        self._peers: dict[tuple[str, int], socket.socket] = {}
        self._waiting: dict[tuple[str, int], list[bytes]] = {}
        loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data, address = self._sock.recvfrom(_DATAGRAM_BYTES)
        except OSError:
            return
        far = self._peers.get(address)
        if far is not None:
            _send(far, data)
        elif address in self._waiting:
            if len(self._waiting[address]) < _MAX_WAITING:
                self._waiting[address].append(data)
        else:
            self._waiting[address] = [data]
            self._dial("udp", *self._target, lambda result: self._dialled(address, result))

    def _dialled(self, address: tuple[str, int], far: socket.socket | Fault) -> None:
        waiting = self._waiting.pop(address, [])
        if isinstance(far, Fault):
            return
        if self._sock.fileno() < 0:
            far.close()
            return
        if len(self._peers) >= _MAX_PEERS:
            self._forget(next(iter(self._peers)))
        far.setblocking(False)
        self._peers[address] = far
        self._loop.add_reader(far.fileno(), lambda: self._answer(address, far))
        for data in waiting:
            _send(far, data)

    def _answer(self, address: tuple[str, int], far: socket.socket) -> None:
        try:
            data = far.recv(_DATAGRAM_BYTES)
            self._sock.sendto(data, address)
        except OSError:
            return  # refused, or full: datagrams may be lost

    def _forget(self, address: tuple[str, int]) -> None:
        far = self._peers.pop(address)
        self._loop.remove_reader(far.fileno())
        far.close()

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for address in list(self._peers):
            self._forget(address)


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        return  # refused, or full: datagrams may be lost
