"""Framed messages with file descriptors over a Unix stream socket.

A frame is a header of two little-endian 32-bit lengths, a JSON document of the first length
and a blob of raw bytes of the second. Descriptors ride on the frame's first byte.
JSON and never pickle: what arrives is only data, also when it comes from an attacker.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytest_containers.runtime.wire.message import fields_of

_HEADER = struct.Struct("<II")
_INT_SIZE = array.array("i").itemsize
MAX_FDS = 250  # SCM_MAX_FD is 253
MAX_FRAME_BYTES = 64 << 20
_IN_FLIGHT_S = 5.0
"""How long to wait where the user has as many descriptors in flight as may be."""
_TRUNCATED = int(socket.MSG_CTRUNC)  # operators of enums take half a microsecond
_encoder = json.JSONEncoder(separators=(",", ":"), default=fields_of)
_decoder = json.JSONDecoder()


class Frame(NamedTuple):
    """A message: a JSON object, raw bytes beside it, and the descriptors it carried.

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
    document = _encoder.encode(body).encode()
    return _HEADER.pack(len(document), len(blob)) + document + blob


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Descriptors as ancillary data of sendmsg(2)."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def pieces(data: memoryview, fds: Sequence[int]) -> Iterator[tuple[memoryview, Sequence[int]]]:
    """Split a frame into messages, which have room for `MAX_FDS` descriptors each.

    The first ones ride on a byte each; the frame says how many belong to it.
    """
    while len(fds) > MAX_FDS:
        yield data[:1], fds[:MAX_FDS]
        data, fds = data[1:], fds[MAX_FDS:]
    yield data, fds


class Channel:
    """An end of a framed stream; owns its socket.

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
            ChannelClosed: The other side is gone, or has got a part of the frame only.
            OSError: Nothing was sent: no memory is left, or the descriptors are not open.
        """
        data = memoryview(encode(body, len(fds), blob))
        begun = False
        try:
            for piece, piece_fds in pieces(data, fds):
                sent = self._send_with(piece, piece_fds)
                begun = True
                if sent < len(piece):
                    self.sock.sendall(piece[sent:], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the other side of the channel is gone") from error
        except OSError as error:
            if begun:
                self.sock.shutdown(socket.SHUT_RDWR)  # nobody can make sense of what follows
                raise ChannelClosed(f"a frame was sent in part: {error.strerror}") from error
            raise

    def _send_with(self, piece: memoryview, fds: Sequence[int]) -> int:
        """Send bytes with descriptors, of which a user may have so many in flight (unix(7))."""
        deadline = time.monotonic() + _IN_FLIGHT_S
        while True:
            try:
                return self.sock.sendmsg([piece], rights(fds), socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def receive(self) -> Frame:
        """Wait for the next frame.

        Raises:
            ChannelClosed: The other side is gone, also in the middle of a frame, or does not speak
            our protocol.
        """
        while True:
            frame = self._parse()
            if frame is not None:
                return frame
            self._fill()

    def pending(self) -> bool:
        """True if a whole frame is here, so that `receive` will not block."""
        if len(self._buffer) < _HEADER.size:
            return False
        text_len, blob_len = _HEADER.unpack_from(self._buffer)
        return bool(len(self._buffer) >= _HEADER.size + text_len + blob_len)

    def read_available(self) -> None:
        """Read from the socket, without waiting for a whole frame; call it when readable."""
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
        if flags & _TRUNCATED:
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
        text_end = _HEADER.size + text_len
        try:
            with memoryview(self._buffer) as view:
                document = str(view[_HEADER.size : text_end], "utf-8")
                blob = bytes(view[text_end:end])
            del self._buffer[:end]
            body, length = _decoder.raw_decode(document)
        except (ValueError, RecursionError):
            raise ChannelClosed("a frame's body is not JSON") from None
        if not isinstance(body, dict) or length != len(document):
            raise ChannelClosed("a frame's body is not an object")
        # The kernel never merges two messages that carry descriptors into one read, but one
        # read may hold a frame without descriptors before one with: the sender says how many.
        count = body.pop("#fds", 0)
        if type(count) is not int or count < 0:
            raise ChannelClosed("a frame's number of descriptors is not one")
        fds, self._fds = self._fds[:count], self._fds[count:]
        return Frame(body, blob, fds)

    def close(self) -> None:
        """Close the socket and any descriptor that arrived for a frame never read."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.sock.close()
