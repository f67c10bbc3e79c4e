"""Waiting until sockets listen in a network namespace, by asking the kernel (sock_diag(7)).

Nobody connects, so a server's log stays clean and its backlog empty. The kernel has no event for a
new listening socket; a question costs 20 µs, so it is put after pauses of 0.2 to 5 ms that grow
with the time that has passed: nobody waits much longer than he had to.

A server that listens on the loopback device only, or on IPv6 only, is not reached at the address
that a test is given. Whether it counts is decided by where it listens, so that it is the same for
every user: as root, tests connect to the container's address; else the run does that for them.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pytest_containers.linux.netlink import (
    HEADER,
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NetlinkSocket,
    attributes,
)
from pytest_containers.linux.process import CLONE_NEWNET, setns
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import Future

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI48s")  # inet_diag_req_v2
# INET_DIAG_REQ_BYTECODE: INET_DIAG_BC_S_GE and _S_LE, each with where to go on and a port.
_FILTER = struct.Struct("=HHBBHHHBBHHH")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = {"tcp": 6, "udp": 17}
_STATES = {"tcp": 1 << 10, "udp": 1 << 7}  # listening; not connected
_PORT_AT, _ADDRESS_AT, _MESSAGE_SIZE, _V6ONLY = 4, 8, 72, 11  # of inet_diag_msg
_ANY4, _ANY6 = "0.0.0.0", "::"
_MAPPED = bytes(10) + b"\xff\xff"
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _PART = 0.0002, 0.005, 0.05

PortKey = tuple[int, str]


class Listener(NamedTuple):
    """A socket that listens (TCP), or that is bound and not connected (UDP).

    Attributes:
        port: Its number and protocol.
        address: IPv4 or IPv6; of a socket of IPv6 that is one of IPv4 as well, IPv4.
    """

    port: PortKey
    address: str

    def __str__(self) -> str:
        number = self.port[0]
        if self.address == _ANY6:
            return f"[::]:{number} (IPv6)"
        return f"[{self.address}]:{number}" if ":" in self.address else f"{self.address}:{number}"


class ListenCriteria(NamedTuple):
    """The ports of a wait.

    Attributes:
        ports: All of them.
        outside: Those that others must reach; the rest may listen on any address.
        address: The IPv4 address at which others reach them.
    """

    ports: Sequence[PortKey]
    outside: Collection[PortKey] = ()
    address: str = ""

    def counts(self, listener: Listener) -> bool:
        """True if the listener is what is waited for."""
        return listener.port not in self.outside or self.is_outside(listener)

    def is_outside(self, listener: Listener) -> bool:
        """True if others reach the listener."""
        return listener.address in (_ANY4, self.address)


class ListenResult(NamedTuple):
    """The end of a wait.

    Attributes:
        missing: Ports without a listener that counts; empty when all have one.
        elsewhere: The listeners of missing ports, none of which counts.
        open: Other ports that others reach.
    """

    missing: Sequence[PortKey] = ()
    elsewhere: Sequence[Listener] = ()
    open: Sequence[PortKey] = ()


class Waiter:
    """A wait, until it is cancelled.

    Attributes:
        result: Done once all ports have a listener that counts, or when the time is up.
    """

    def __init__(
        self, loop: Loop, sock: NetlinkSocket, criteria: ListenCriteria, deadline: float
    ) -> None:
        self.result: Future[ListenResult] = Future()
        self._loop = loop
        self._sock: NetlinkSocket | None = sock
        self._criteria = criteria
        self._deadline = deadline
        self._began = time.monotonic()
        loop.waiting()
        self._timer = -1
        self.look()

    def look(self) -> None:
        """Ask once; go on later if a port is missing."""
        assert self._sock is not None
        criteria = self._criteria
        protocols = {protocol for _, protocol in criteria.ports}
        numbers = [number for number, _ in criteria.ports]
        listeners = _listeners(
            self._sock, protocols, (min(numbers, default=0), max(numbers, default=0))
        )
        there = {listener.port for listener in listeners if criteria.counts(listener)}
        missing = [port for port in criteria.ports if port not in there]
        now = time.monotonic()
        if missing and now < self._deadline:
            pause_s = min(max((now - self._began) * _PART, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
            self._timer = self._loop.call_later(pause_s, self.look)
            return
        self._timer = -1
        if missing:
            listeners = _listeners(self._sock, protocols, None)
        self.cancel()
        self.result.set(_result(criteria, missing, listeners))

    def cancel(self) -> None:
        """Stop asking; idempotent."""
        if self._timer >= 0:
            self._loop.cancel(self._timer)
            self._timer = -1
        if self._sock is not None:
            self._loop.waited()
            self._sock.close()
            self._sock = None


class ListenWaits:
    """Waits for listening sockets."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def wait(
        self, netns_fd: int, own_netns_fd: int, criteria: ListenCriteria, timeout_s: float
    ) -> Waiter:
        """Begin to wait for listening sockets.

        Args:
            netns_fd: The namespace to look into.
            own_netns_fd: Our own.
            criteria: The ports.
            timeout_s: How long to wait.
        """
        setns(netns_fd, CLONE_NEWNET)
        try:
            sock = NetlinkSocket(NETLINK_SOCK_DIAG)
        finally:
            setns(own_netns_fd, CLONE_NEWNET)
        return Waiter(self._loop, sock, criteria, time.monotonic() + timeout_s)


def _result(
    criteria: ListenCriteria, missing: Sequence[PortKey], listeners: Sequence[Listener]
) -> ListenResult:
    if not missing:
        return ListenResult()
    elsewhere = [listener for listener in listeners if listener.port in missing]
    others = {
        listener.port
        for listener in listeners
        if listener.port not in criteria.ports and criteria.is_outside(listener)
    }
    return ListenResult(missing, elsewhere, sorted(others))


def _listeners(
    sock: NetlinkSocket, protocols: Collection[str], ports: tuple[int, int] | None
) -> list[Listener]:
    """Return the sockets that listen, at a port from the first to the last of `ports`, or any.

    A program may have thousands of others, and the whole run would wait while they are read.
    """
    listeners = []
    condition = b""
    if ports is not None:
        first, last = ports
        condition = _FILTER.pack(_FILTER.size, 1, 2, 8, 20, 0, first, 3, 8, 12, 0, last)
    for protocol in protocols:
        for family in _FAMILIES:
            body = _REQUEST.pack(family, _PROTOCOLS[protocol], 0, 0, _STATES[protocol], bytes(48))
            body += condition
            header = HEADER.pack(
                HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0
            )
            for message in _dump(sock, header + body, protocol):
                port = int.from_bytes(message[_PORT_AT : _PORT_AT + 2], "big")
                listeners.append(Listener((port, protocol), _address(message, family)))
    return listeners


def _dump(sock: NetlinkSocket, request: bytes, protocol: str) -> list[bytes]:
    doing = "list listening sockets"
    try:
        return list(sock.dump(request, doing))
    except FileNotFoundError as error:
        # The kernel loads the module when it is first asked for, where there is a modprobe.
        detail = f"the kernel has no {protocol}_diag (modprobe {protocol}_diag)"
        raise OSError(error.errno, detail, doing) from None


def _address(message: bytes, family: int) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(family, message[_ADDRESS_AT : _ADDRESS_AT + 4])
    packed = message[_ADDRESS_AT : _ADDRESS_AT + 16]
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    if packed == bytes(16) and attributes(message, _MESSAGE_SIZE).get(_V6ONLY) == b"\0":
        return _ANY4
    return socket.inet_ntop(family, packed)
