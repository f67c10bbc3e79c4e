"""Framed messages with file descriptors over a Unix stream socket.

A frame is a header of two little-endian 32-bit lengths, a JSON document of the first length
and a blob of raw bytes of the second. Descriptors ride on the frame's first byte.
JSON and never pickle: what arrives is data, whoever sent it.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

_HEADER = struct.Struct("<II")
_INT_SIZE = array.array("i").itemsize
MAX_FDS = 250  # SCM_MAX_FD is 253
MAX_FRAME_BYTES = 64 << 20


class Frame(NamedTuple):
    """One message: a JSON object, raw bytes beside it, and the descriptors it carried.

    The receiver owns the descriptors; all are close-on-exec.
    """

    body: dict[str, Any]
    blob: bytes
    fds: list[int]


class ChannelClosed(ConnectionError):
    """The other side closed the channel or died."""


def encode(body: dict[str, Any], fd_count: int = 0, blob: bytes = b"") -> bytes:
    """The bytes of one frame."""
    if fd_count:
        body = {**body, "#fds": fd_count}
    text = json.dumps(body, separators=(",", ":")).encode()
    return _HEADER.pack(len(text), len(blob)) + text + blob


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Descriptors as ancillary data of sendmsg(2)."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


class Channel:
    """One end of a framed stream; owns its socket.

    Not thread-safe. `send` blocks until the whole frame is written, `receive` until one frame
    arrived; `fileno` may be polled to know when `receive` will make progress.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected channels."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(left), cls(right)

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self.sock.fileno()

    def send(self, body: dict[str, Any], fds: Sequence[int] = (), blob: bytes = b"") -> None:
        """Send one frame; the caller keeps its descriptors.

        Raises:
            ChannelClosed: The other side is gone.
        """
        data = encode(body, len(fds), blob)
        try:
            sent = self.sock.sendmsg([data], rights(fds), socket.MSG_NOSIGNAL)
            if sent < len(data):
                self.sock.sendall(memoryview(data)[sent:], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the other side of the channel is gone") from error

    def receive(self) -> Frame:
        """Wait for the next frame.

        Raises:
            ChannelClosed: The other side is gone, also in the middle of a frame.
        """
        while True:
            frame = self._parse()
            if frame is not None:
                return frame
            self._fill()

    def pending(self) -> bool:
        """Whether a whole frame is already here, so that `receive` will not block."""
        if len(self._buffer) < _HEADER.size:
            return False
        text_len, blob_len = _HEADER.unpack_from(self._buffer)
        return bool(len(self._buffer) >= _HEADER.size + text_len + blob_len)

    def read_available(self) -> None:
        """Take in what the socket has, without waiting for a whole frame (call when readable)."""
        self._fill()

    def _fill(self) -> None:
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                1 << 17, socket.CMSG_SPACE(MAX_FDS * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise ChannelClosed("the other side of the channel is gone") from error
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % _INT_SIZE])
                self._fds.extend(received)
        if flags & socket.MSG_CTRUNC:
            raise OSError(
                24, "a message carried descriptors, but this process has no room for more"
            )
        if not data:
            raise ChannelClosed("the other side of the channel is gone")
        self._buffer += data

    def _parse(self) -> Frame | None:
        if len(self._buffer) < _HEADER.size:
            return None
        text_len, blob_len = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + text_len + blob_len
        if end > MAX_FRAME_BYTES:
            raise ChannelClosed(f"a frame of {end} bytes is beyond the limit of {MAX_FRAME_BYTES}")
        if len(self._buffer) < end:
            return None
        view = bytes(self._buffer[:end])
        del self._buffer[:end]
        body = json.loads(view[_HEADER.size : _HEADER.size + text_len])
        if not isinstance(body, dict):
            raise ChannelClosed("a frame's body is not an object")
        # The kernel never merges two messages that carry descriptors into one read, but one
        # read may hold a frame without descriptors before one with: the sender says how many.
        count = body.pop("#fds", 0)
        fds, self._fds = self._fds[:count], self._fds[count:]
        return Frame(body, view[_HEADER.size + text_len :], fds)

    def close(self) -> None:
        """Close the socket and any descriptor that arrived for a frame never read."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.sock.close()
