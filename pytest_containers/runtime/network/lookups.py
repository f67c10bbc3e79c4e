"""What containers without a way out look for: a name server that knows no name, and counters.

Names of containers are in ``/etc/hosts``. What is asked here is the name of another machine: the
answer "there is no such name" comes at once, where a resolver without any server would wait for
seconds (musl's does), and the report of a failed test can tell the name.
"""

from __future__ import annotations

import socket
import struct

from pytest_containers.linux.process import CLONE_NEWNET, setns
from pytest_containers.runtime.wire.loop import Loop

_PORT, _DATAGRAM_BYTES = 53, 512
_HEADER = struct.Struct("!6H")  # id, flags, and the numbers of questions and of three answers
_RESPONSE, _OPCODE, _RECURSION, _AVAILABLE, _NO_SUCH_NAME = 0x8000, 0x7800, 0x0100, 0x0080, 3
_MAX_NAMES, _MAX_LABELS = 10, 127


class Lookups:
    """The server; it remembers which names each address has asked for, the first few.

    Args:
        loop: Runs it.
        address: Where it listens.
    """

    def __init__(self, loop: Loop, address: str) -> None:
        self._names: dict[str, dict[str, None]] = {}
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_INET, kind)
        self._sock.bind((address, _PORT))
        loop.add_reader(self._sock.fileno(), self._answer)

    def names(self, address: str) -> list[str]:
        """Return the names that were asked for from an address."""
        return list(self._names.get(address, ()))

    def forget(self, address: str) -> None:
        """Forget an address: another container will have it."""
        self._names.pop(address, None)

    def _answer(self) -> None:
        try:
            query, peer = self._sock.recvfrom(_DATAGRAM_BYTES)
        except OSError:
            return
        try:
            name, answer = refusal(query)
        except ValueError:
            return  # not a question
        names = self._names.setdefault(peer[0], {})
        if len(names) < _MAX_NAMES:
            names[name] = None
        try:
            self._sock.sendto(answer, peer)
        except OSError:
            return  # it is full: datagrams may be lost


def refusal(query: bytes) -> tuple[str, bytes]:
    """Return the name that a query asks for, and the answer that there is none (RFC 1035, 4).

    Raises:
        ValueError: It is not a query of one name.
    """
    if len(query) < _HEADER.size:
        raise ValueError("too short")
    number, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & (_RESPONSE | _OPCODE) or questions != 1:
        raise ValueError("not a query of one name")
    labels: list[str] = []
    offset = _HEADER.size
    while offset < len(query) and query[offset]:
        length = query[offset]
        label = query[offset + 1 : offset + 1 + length]
        if length > 63 or len(label) < length or len(labels) == _MAX_LABELS:
            raise ValueError("not a name")
        labels.append("".join(chr(byte) if 32 < byte < 127 else "?" for byte in label))
        offset += 1 + length
    end = offset + 5  # the last length, which is 0; type and class
    if not labels or end > len(query):
        raise ValueError("not a question")
    flags = _RESPONSE | flags & _RECURSION | _AVAILABLE | _NO_SUCH_NAME
    header = _HEADER.pack(number, flags, 1, 0, 0, 0)
    return ".".join(labels), header + query[_HEADER.size : end]


def read_in(netns_fd: int, own_netns_fd: int, name: str) -> str:
    """Read a file of ``/proc/net`` in another network namespace; empty where there is none.

    Args:
        netns_fd: The namespace.
        own_netns_fd: The one to come back to.
        name: Of the file.
    """
    setns(netns_fd, CLONE_NEWNET)
    try:
        with open(f"/proc/self/net/{name}", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:  # a kernel without IPv6
        return ""
    finally:
        setns(own_netns_fd, CLONE_NEWNET)


def unrouted(netns_fd: int, own_netns_fd: int) -> int:
    """Count what a namespace had no route for: connections and datagrams, IPv4 and IPv6."""
    names, values = (
        line.split()
        for line in read_in(netns_fd, own_netns_fd, "snmp").splitlines()
        if line.startswith("Ip:")
    )
    counters = dict(zip(names, values, strict=True))
    for line in read_in(netns_fd, own_netns_fd, "snmp6").splitlines():
        name, value = line.split()
        counters[name] = value
    return int(counters["OutNoRoutes"]) + int(counters.get("Ip6OutNoRoutes", 0))
