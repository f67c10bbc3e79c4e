"""A small synchronous netlink socket (netlink(7)): encoded messages out, acknowledgements in.

Encoding is the caller's (`runtime.network.messages`); this module knows only the frame that all
messages share, so it costs nothing to import and the supervisor may use it too.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_RTM_NEWADDR, _IFA_ADDRESS, _IFA_CACHEINFO, _LOOPBACK = 20, 1, 6, 1

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_RECEIVE_BYTES = 1 << 16


class NetlinkSocket:
    """A netlink socket in the network namespace that the calling thread is in when it is made.

    A socket stays in its namespace wherever its process goes later, which is how a namespace is
    configured without living in it. Owns its descriptor; a context manager. Not thread-safe.

    Args:
        protocol: `NETLINK_ROUTE` or `NETLINK_SOCK_DIAG`.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, kind, protocol)
        # Explanations of errors (4.12) instead of an echo of the request.
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._sock.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, message: bytes, *doing: str) -> None:
        """Send one or more messages and wait until the kernel has handled them all.

        It handles them in order and does not stop at the first failure. An acknowledgement costs
        both sides as much as a simple message, so only the last message asks for one; errors are
        reported without being asked for, and come before it.

        Args:
            message: Encoded, one after the other, each with NLM_F_ACK among its flags.
            doing: For each message what it does and to what, for the error.

        Raises:
            OSError: Of the first that failed, after all were handled. Its file name is
                `doing` with the kernel's own explanation.
        """
        last = len(doing) - 1
        self._sock.send(_numbered(message) if last else message)
        failure: OSError | None = None
        while True:
            for kind, flags, sequence, body in _frames(self._sock.recv(_RECEIVE_BYTES)):
                if kind != _NLMSG_ERROR:
                    continue
                code = -_ERROR.unpack_from(body)[0]
                if code and failure is None:
                    failure = _failure(code, flags, body, doing[sequence])
                if sequence == last:
                    if failure is not None:
                        raise failure
                    return

    def ask(self, message: bytes, doing: str) -> bytes:
        """Send a request for one thing; the body of the answer.

        Args:
            message: Encoded, without NLM_F_ACK.
            doing: What it asks, for the error.

        Raises:
            OSError: The kernel refused.
        """
        self._sock.send(message)
        kind, flags, _, body = next(_frames(self._sock.recv(_RECEIVE_BYTES)))
        if kind == _NLMSG_ERROR:
            raise _failure(-_ERROR.unpack_from(body)[0], flags, body, doing)
        return body

    def dump(self, message: bytes, doing: str) -> Iterator[bytes]:
        """Send a dump request; yields the body of each message of the answer.

        The iterator must be used up before the socket is used again.

        Raises:
            OSError: The kernel refused.
        """
        self._sock.send(message)
        while True:
            for kind, flags, _, body in _frames(self._sock.recv(_RECEIVE_BYTES)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise _failure(-_ERROR.unpack_from(body)[0], flags, body, doing)
                yield body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to the next one."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def prefer_localhost4() -> bytes:
    """A message by which "localhost" means 127.0.0.1 before ::1 to glibc and its users.

    It makes ::1 a deprecated address (RFC 6724, rule 3) of the loopback device, which has to be up.
    Servers that listen on 127.0.0.1 only are many, as are clients that try one address only. musl
    does not look, and glibc only where there is another IPv6 address as well.
    """
    lifetimes = struct.pack("=4I", 0, 0xFFFFFFFF, 0, 0)  # preferred: none; valid: for ever
    body = struct.pack("=4BI", socket.AF_INET6, 128, 0, 0, _LOOPBACK)
    body += attribute(_IFA_ADDRESS, bytes(15) + b"\1") + attribute(_IFA_CACHEINFO, lifetimes)
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE
    return HEADER.pack(HEADER.size + len(body), _RTM_NEWADDR, flags, 0, 0) + body


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes that follow the first `offset` bytes of a message's body."""
    values = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        values[kind & 0x3FFF] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += _align(length)
    return values


def _numbered(messages: bytes) -> bytearray:
    """Give messages their sequence numbers, from 0; the last keeps NLM_F_ACK."""
    numbered = bytearray(messages)
    offset = sequence = 0
    while True:
        length, kind, flags, _, port = HEADER.unpack_from(numbered, offset)
        end = offset + _align(length)
        if end < len(numbered):
            flags &= ~NLM_F_ACK
        HEADER.pack_into(numbered, offset, length, kind, flags, sequence, port)
        if end >= len(numbered):
            return numbered
        offset = end
        sequence += 1


def _frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """``(type, flags, sequence number, body)`` of each message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += _align(length)


def _failure(code: int, flags: int, body: bytes, doing: str) -> OSError:
    if flags & _NLM_F_ACK_TLVS:
        # After the errno comes the header of the request; then the attributes.
        explanation = attributes(body, _ERROR.size + HEADER.size).get(_NLMSGERR_ATTR_MSG)
        if explanation:
            doing = f"{doing} ({explanation.rstrip(bytes(1)).decode(errors='replace')})"
    return OSError(code, os.strerror(code), doing)


def _align(length: int) -> int:
    return (length + 3) & ~3
