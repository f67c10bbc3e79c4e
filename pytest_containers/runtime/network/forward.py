"""Ports of the host's 127.0.0.1 that lead to containers: the launcher's side."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pytest_containers.linux.ports import holder_of
from pytest_containers.runtime.network.relay import Relay
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.starts import ForwardedPort, PortRequest
from pytest_containers.runtime.wire.tasks import Future, run_task

Dial = Callable[[str, str, int], Coroutine[Future[Any], None, socket.socket]]
"""``dial(protocol, ip, port)`` returns a connected socket; a `FaultError` tells why not."""
_DATAGRAM_BYTES = 1 << 16
_MAX_PEERS, _MAX_WAITING = 1024, 64


class Forwards:
    """All forwarded ports.

    Args:
        loop: Runs it.
        dial: Makes a socket in the run's namespace.
    """

    def __init__(self, loop: Loop, dial: Dial) -> None:
        self._loop = loop
        self._dial = dial
        self._open: dict[str, list[_Streams | _Datagrams]] = {}
        self._fixed: dict[tuple[str, int], str] = {}

    def open(
        self, key: str, ip: str, ports: Sequence[PortRequest], label: str = ""
    ) -> list[ForwardedPort]:
        """Forward ports of a container: all of them, or none.

        Args:
            key: To close them by.
            ip: Address of the container.
            label: The container, in the message for others who want the port.

        Raises:
            FaultError: A port of the host that was asked for cannot be had.
        """
        forwards = self._open[key] = []
        forwarded = []
        try:
            for port in ports:
                sock = self.listen(port.protocol, port.host, label)
                forward = _Streams if port.protocol == "tcp" else _Datagrams
                forwards.append(forward(self._loop, sock, (ip, port.number), self._dial))
                number: int = sock.getsockname()[1]
                forwarded.append(
                    ForwardedPort(number=port.number, protocol=port.protocol, host=number)
                )
        except BaseException:
            self.close(key)
            raise
        return forwarded

    def close(self, key: str) -> None:
        """Stop forwarding; connections go on until their container ends."""
        for forward in self._open.pop(key, ()):
            forward.close()

    def listen(self, protocol: str, host_port: int | None, label: str) -> socket.socket:
        """Make a socket at a port of 127.0.0.1; None and 0 are any port.

        Args:
            label: Who has it from now on.

        Raises:
            FaultError: The port is taken; with who has it.
        """
        # Of ports that were given up, the label is not asked for: only bind(2) tells who is first.
        sock = _listening(protocol, host_port, self._fixed.get((protocol, host_port or 0), ""))
        if host_port:
            self._fixed[protocol, host_port] = label
        return sock


def _listening(protocol: str, host_port: int | None, holder: str) -> socket.socket:
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
        raise _refused(error, host_port, protocol, holder) from None
    return sock


def _refused(error: OSError, host_port: int | None, protocol: str, holder: str) -> FaultError:
    port = f"host port {host_port}/{protocol} on 127.0.0.1"
    if error.errno == errno.EADDRINUSE:
        cause = f"it is taken by {_holder_of(host_port or 0, protocol, holder)}"
    elif error.errno == errno.EACCES:
        cause = "ports below 1024 are for root here; choose a higher one"
    else:
        cause = error.strerror or str(error)
    return FaultError("StartError", f"{port}: {cause}", port=host_port, errno=error.errno)


def _holder_of(port: int, protocol: str, ours: str) -> str:
    """Return who has a port, with what to do about it.

    Args:
        ours: Who had it last, of this run.
    """
    holder = holder_of(port, protocol)
    if holder is None:  # of another user, or gone by now
        return "another program; choose another, or none to get a free one"
    if holder.pid == os.getpid() and ours:
        return (
            f"{ours}, of this run; share one container between all tests and workers with "
            'isolation="none" or a session service, keep its tests in one worker (xdist_group), or '
            "leave the port out to get a free one"
        )
    command = f": {holder.command}" if holder.command else ""
    return f"process {holder.pid}{command}; end it, choose another port, or none to get a free one"


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

        run_task(self._join(near))

    async def _join(self, near: socket.socket) -> None:
        try:
            far = await self._dial("tcp", *self._target)
        except FaultError:
            reset(near)
            return
        try:
            relay = Relay(self._loop, near, far, lambda: self._relays.discard(relay))
        except OSError:  # no pipe: out of descriptors
            far.close()
            reset(near)
        else:
            self._relays.add(relay)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


def reset(sock: socket.socket) -> None:
    """Close with a reset: the client sees a refused connection, as without a forwarder."""
    with sock:
        reset_at_close(sock)


def reset_at_close(sock: socket.socket) -> None:
    """Make `sock` end with a reset when it is closed."""
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
            run_task(self._connect(address))

    async def _connect(self, address: tuple[str, int]) -> None:
        try:
            far = await self._dial("udp", *self._target)
        except FaultError:
            del self._waiting[address]
            return
        waiting = self._waiting.pop(address)
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
