"""Ports of the host that containers may reach, at ``host.containers.internal``.

The supervisor listens at the gateway's address. What it accepts is checked to come from a network
that may have the port, and goes to the launcher, which connects to the host's 127.0.0.1.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

from pytest_containers.runtime.network.addresses import BLOCK_SIZE, Facts
from pytest_containers.runtime.network.bridge import Bridge
from pytest_containers.runtime.network.dial import dial
from pytest_containers.runtime.network.forward import reset
from pytest_containers.runtime.network.relay import RELAY_DESCRIPTORS, Relay
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import run_task

Connect = Callable[[socket.socket, int], None]
_ANY6 = "::"
_TIMEOUT_S = 10.0


class HostPorts:
    """The supervisor's side.

    Args:
        loop: Runs it.
        facts: Of the run's network.
        connect: Gets each accepted socket, which it owns, and the port.
    """

    def __init__(self, loop: Loop, facts: Facts, connect: Connect) -> None:
        self._loop = loop
        self._facts = facts
        self._connect = connect
        self._prefix6 = b""
        if facts.prefix6:
            prefix6 = facts.prefix6.partition("/")[0]
            self._prefix6 = socket.inet_pton(socket.AF_INET6, prefix6)[:6]
        self._listeners: dict[int, list[socket.socket]] = {}
        self._allowed: dict[int, Counter[Bridge]] = {}

    def expose(self, port: int, network: Bridge) -> None:
        """Let containers of `network` reach `port` of the host."""
        if port not in self._listeners:
            self._listeners[port] = [self._listen(socket.AF_INET, self._facts.gateway4, port)]
            if self._facts.prefix6:
                self._listeners[port].append(self._listen(socket.AF_INET6, _ANY6, port))
        self._allowed.setdefault(port, Counter())[network] += 1

    def withdraw(self, port: int, network: Bridge) -> None:
        """Take one `expose` back."""
        allowed = self._allowed.get(port)
        if allowed is None:
            return
        allowed[network] -= 1
        if allowed[network] <= 0:
            del allowed[network]
        if not allowed:
            del self._allowed[port]
            for sock in self._listeners.pop(port):
                self._loop.remove_reader(sock.fileno())
                sock.close()

    def _listen(self, family: int, address: str, port: int) -> socket.socket:
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = socket.socket(family, kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        self._loop.add_reader(sock.fileno(), lambda: self._accept(sock, port))
        return sock

    def _accept(self, listener: socket.socket, port: int) -> None:
        try:
            sock, address = listener.accept()
        except OSError:
            return
        if self._may(address[0], port):
            self._connect(sock, port)
        else:
            sock.close()

    def _may(self, peer: str, port: int) -> bool:
        """Check whether the peer is in a network that was given the port.

        An address cannot be forged over a connection: the answer goes to its network's bridge.
        """
        if ":" in peer:
            packed = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
            number, ours = int.from_bytes(packed[6:8], "big"), packed[:6] == self._prefix6
            return ours and any(network.number == number for network in self._allowed.get(port, ()))
        block = int.from_bytes(socket.inet_aton(peer)[2:], "big") // BLOCK_SIZE
        return any(block in network.blocks for network in self._allowed.get(port, ()))


class HostConnections:
    """The launcher's side: joins accepted sockets to ports of the host's loopback device.

    A program that opens ever more connections must not take the descriptors that the containers of
    others need. So there are as many as half of them suffice for, and one address gets half of
    that; what is too much is reset.

    Args:
        loop: Runs it.
        descriptors: How many this process may have.
    """

    def __init__(self, loop: Loop, descriptors: int) -> None:
        self._loop = loop
        self._most = max(descriptors // 2 // RELAY_DESCRIPTORS, 2)
        self._by_peer: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many connections there are."""
        return self._by_peer.total()

    def connect(self, near: socket.socket, port: int) -> None:
        """Join a socket, which it owns, to a port."""
        try:
            peer: str = near.getpeername()[0]
        except OSError:  # it has gone again
            near.close()
            return
        if self.count >= self._most or self._by_peer[peer] >= self._most // 2:
            reset(near)
            return
        self._by_peer[peer] += 1
        run_task(connect_host(self._loop, near, port, lambda: self._closed(peer)))

    def _closed(self, peer: str) -> None:
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


async def connect_host(
    loop: Loop, near: socket.socket, port: int, closed: Callable[[], None] = lambda: None
) -> None:
    """Join an accepted socket to a port of the host's loopback device: the launcher's side.

    At 127.0.0.1, else at ::1, where a server for "localhost" may be. Owns the socket.

    Args:
        closed: Called once when the connection has ended.
    """
    far = None
    try:
        try:
            far = await dial(loop, "tcp", "127.0.0.1", port, _TIMEOUT_S)
        except FaultError:
            far = await dial(loop, "tcp", "::1", port, _TIMEOUT_S)
        Relay(loop, near, far, closed)
    except (FaultError, OSError):  # refused; or no pipe: out of descriptors
        near.close()
        if far is not None:
            far.close()
        closed()
