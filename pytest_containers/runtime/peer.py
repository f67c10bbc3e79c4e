"""Requests and answers over a `Channel` within a `Loop`: both sides may ask, nobody blocks."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.runtime.channel import Channel, Frame, encode, rights
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault

Done = Callable[[Frame | Fault], None]
Handler = Callable[["Peer", Frame], None]
_MAX_QUEUED_BYTES = 64 << 20


class Peer:
    """The other end of a channel. Owns the channel.

    Args:
        loop: Runs it all.
        channel: Connected; used by nobody else from now on.
        handle: Called with each request that arrives. It owns the frame's descriptors.
        closed: Called once when the other side is gone, or behaves in a way it must not.
    """

    def __init__(
        self, loop: Loop, channel: Channel, handle: Handler, closed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._handle = handle
        self._closed: Callable[[], None] | None = closed
        self._waiting: dict[int, Done] = {}
        self._next_id = 1
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._queued_bytes = 0
        loop.add_reader(channel.fileno(), self._read)

    @property
    def open(self) -> bool:
        """Whether anything can still be said."""
        return self._closed is not None

    def request(
        self, body: dict[str, Any], done: Done, fds: Sequence[int] = (), blob: bytes = b""
    ) -> None:
        """Ask; `done` gets the answer's frame, whose descriptors it owns, or a `Fault`."""
        number = self._next_id
        self._next_id += 1
        self._waiting[number] = done
        self.send({**body, "id": number}, fds, blob)

    def answer(
        self, number: int, ok: Any = None, fds: Sequence[int] = (), blob: bytes = b""
    ) -> None:
        """Answer request `number`. The caller keeps the descriptors."""
        self.send({"id": number, "ok": ok}, fds, blob)

    def refuse(self, number: int, fault: Fault) -> None:
        """Answer request `number` with an error."""
        self.send({"id": number, "error": fault})

    def send(self, body: dict[str, Any], fds: Sequence[int] = (), blob: bytes = b"") -> None:
        """Send a frame, or queue it while the other side does not read."""
        if self._closed is None:
            return
        data = memoryview(encode(body, len(fds), blob))
        if self._queue:
            self._enqueue(data, fds)
            return
        sent = self._try_send(data, fds)
        if sent < len(data) and self.open:
            self._enqueue(data[sent:], fds if sent == 0 else ())
            if self.open:
                self._loop.add_writer(self._channel.fileno(), self._write)

    def close(self) -> None:
        """Close without calling `closed`."""
        if self._closed is None:
            return
        self._closed = None
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._channel.close()

    def _try_send(self, data: memoryview, fds: Sequence[int]) -> int:
        try:
            return self._channel.sock.sendmsg(
                [data], rights(fds), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            self._lose()
            return len(data)

    def _enqueue(self, data: memoryview, fds: Sequence[int]) -> None:
        self._queued_bytes += len(data)
        if self._queued_bytes > _MAX_QUEUED_BYTES:
            self._lose()  # it has stopped reading for good
            return
        self._queue.append((data, [os.dup(fd) for fd in fds]))

    def _write(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            sent = self._try_send(data, fds)
            if self._closed is None:
                return
            if sent == 0:
                return
            for fd in fds:
                os.close(fd)
            self._queued_bytes -= sent
            if sent < len(data):
                self._queue[0] = (data[sent:], [])
                return
            self._queue.popleft()
        self._loop.remove_writer(self._channel.fileno())

    def _read(self) -> None:
        try:
            self._channel.read_available()
            while self.open and self._channel.pending():
                self._dispatch(self._channel.receive())
        except (OSError, ValueError):  # closed, out of descriptors, or not our protocol
            self._lose()

    def _dispatch(self, frame: Frame) -> None:
        body = frame.body
        if "op" in body:
            self._handle(self, frame)
            return
        done = self._waiting.pop(body.get("id", 0), None)
        if done is None:
            for fd in frame.fds:
                os.close(fd)
        elif "error" in body:
            kind, message, data = body["error"]
            done(Fault(kind, message, data))
        else:
            done(frame)

    def _lose(self) -> None:
        closed = self._closed
        self.close()
        if closed is not None:
            waiting, self._waiting = self._waiting, {}
            closed()
            for done in waiting.values():
                done(Fault("RunLostError", "the other half of the run is gone", {}))
