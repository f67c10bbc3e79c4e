"""Messages between the processes of a run: JSON objects with descriptors on a SEQPACKET socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

_MOST_BYTES, _MOST_DESCRIPTORS = 1 << 20, 8


class Packet(NamedTuple):
    """A message; the descriptors belong to the receiver."""

    fields: dict[str, Any]
    fds: list[int]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
    return ends


def send(channel: socket.socket, fields: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send a message.

    Raises:
        OSError: The other end is closed, or the message is too long (EMSGSIZE).
    """
    data = json.dumps(fields).encode("utf-8", "surrogateescape")
    if fds:
        socket.send_fds(channel, [data], list(fds), socket.MSG_NOSIGNAL)
    else:
        channel.send(data, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> Packet | None:
    """Return the next message; None if the other end is closed, or sends something else."""
    try:
        data, fds, _, _ = socket.recv_fds(
            channel, _MOST_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return None
    if not data:
        return None
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        for fd in fds:
            os.close(fd)
        return None
    return Packet(fields, list(fds))
