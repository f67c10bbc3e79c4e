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
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

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
        """Send one or more messages and wait for each one's acknowledgement.

        The kernel handles them in order and does not stop at the first failure.

        Args:
            message: Encoded, one after the other, each with NLM_F_ACK among its flags.
            doing: For each message what it does and to what, for the error.

        Raises:
            OSError: Of the first that failed, after all were answered. Its file name is
                `doing` with the kernel's own explanation.
        """
        self._sock.send(message)
        failure: OSError | None = None
        answered = 0
        while answered < len(doing):
            for kind, flags, body in _frames(self._sock.recv(_RECEIVE_BYTES)):
                if kind != _NLMSG_ERROR:
                    continue
                code = -_ERROR.unpack_from(body)[0]
                if code and failure is None:
                    failure = _failure(code, flags, body, doing[answered])
                answered += 1
        if failure is not None:
            raise failure

    def ask(self, message: bytes, doing: str) -> bytes:
        """Send a request for one thing; the body of the answer.

        Args:
            message: Encoded, without NLM_F_ACK.
            doing: What it asks, for the error.

        Raises:
            OSError: The kernel refused.
        """
        self._sock.send(message)
        kind, flags, body = next(_frames(self._sock.recv(_RECEIVE_BYTES)))
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
            for kind, flags, body in _frames(self._sock.recv(_RECEIVE_BYTES)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise _failure(-_ERROR.unpack_from(body)[0], flags, body, doing)
                yield body


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes that follow the first `offset` bytes of a message's body."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += _align(length)
    return found


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """``(type, flags, body)`` of each message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, data[offset + HEADER.size : offset + length]
        offset += _align(length)


def _failure(code: int, flags: int, body: bytes, doing: str) -> OSError:
    if flags & _NLM_F_ACK_TLVS:
        # After the errno comes the header of the request; then the attributes.
        text = attributes(body, _ERROR.size + HEADER.size).get(_NLMSGERR_ATTR_MSG)
        if text:
            doing = f"{doing} ({text.rstrip(bytes(1)).decode(errors='replace')})"
    return OSError(code, os.strerror(code), doing)


def _align(length: int) -> int:
    return (length + 3) & ~3
