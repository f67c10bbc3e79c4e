"""Whether somebody listens in a network namespace: asked of the kernel (sock_diag(7)).

Nobody connects, so a server's log stays clean and its backlog empty. The kernel has no event for a
new listening socket; a question costs 20 µs, so it is put after pauses of 0.2 to 5 ms that grow
with the time that has passed: nobody waits much longer than he had to.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

from pytest_containers.linux.netlink import (
    HEADER,
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NetlinkSocket,
)
from pytest_containers.linux.process import CLONE_NEWNET, setns
from pytest_containers.runtime.loop import Loop

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI48s")  # inet_diag_req_v2
_FAMILIES = (2, 10)
_PROTOCOLS = {"tcp": 6, "udp": 17}
_TCP_LISTEN, _ANY_STATE = 1 << 10, 0xFFFFFFFF
_SOURCE_PORT_AT = 4
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _PART = 0.0002, 0.005, 0.05

PortKey = tuple[int, str]
Done = Callable[[list[PortKey] | None], None]


class Waiter:
    """One wait; `cancel` ends it without a word."""

    def __init__(
        self, loop: Loop, sock: NetlinkSocket, ports: Sequence[PortKey], deadline: float, done: Done
    ) -> None:
        self._loop = loop
        self._sock: NetlinkSocket | None = sock
        self._ports = ports
        self._deadline = deadline
        self._done = done
        self._began = time.monotonic()
        loop.waiting()
        self._timer = -1
        self.look()

    def look(self) -> None:
        """Ask once; go on later if a port is missing."""
        assert self._sock is not None
        found = _listening(self._sock, self._ports)
        missing = [port for port in self._ports if port not in found]
        now = time.monotonic()
        if missing and now < self._deadline:
            pause_s = min(max((now - self._began) * _PART, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
            self._timer = self._loop.call_later(pause_s, self.look)
            return
        self._timer = -1
        self.cancel()
        self._done(missing or None)

    def cancel(self) -> None:
        """Stop asking; idempotent."""
        if self._timer >= 0:
            self._loop.cancel(self._timer)
            self._timer = -1
        if self._sock is not None:
            self._loop.waited()
            self._sock.close()
            self._sock = None


class Listening:
    """Waits for listening sockets."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def wait(
        self,
        netns_fd: int,
        own_netns_fd: int,
        ports: Sequence[PortKey],
        timeout_s: float,
        done: Done,
    ) -> Waiter:
        """Call `done` with None once all `ports` listen, or with those that do not in time.

        Args:
            netns_fd: The namespace to look into.
            own_netns_fd: Our own.
        """
        setns(netns_fd, CLONE_NEWNET)
        try:
            sock = NetlinkSocket(NETLINK_SOCK_DIAG)
        finally:
            setns(own_netns_fd, CLONE_NEWNET)
        return Waiter(self._loop, sock, ports, time.monotonic() + timeout_s, done)


def _listening(sock: NetlinkSocket, ports: Sequence[PortKey]) -> set[PortKey]:
    """Which ports have a listening (TCP) or bound (UDP) socket."""
    found: set[PortKey] = set()
    for protocol in {protocol for _, protocol in ports}:
        states = _TCP_LISTEN if protocol == "tcp" else _ANY_STATE
        for family in _FAMILIES:
            body = _REQUEST.pack(family, _PROTOCOLS[protocol], 0, 0, states, bytes(48))
            header = HEADER.pack(
                HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0
            )
            for message in sock.dump(header + body, "list listening sockets"):
                port = message[_SOURCE_PORT_AT : _SOURCE_PORT_AT + 2]
                found.add((int.from_bytes(port, "big"), protocol))
    return found
