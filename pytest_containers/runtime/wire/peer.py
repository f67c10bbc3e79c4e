"""Requests and answers over a `Channel` within a `Loop`: both sides may ask, none blocks."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pytest_containers.runtime.wire.channel import (
    MAX_FDS,
    Channel,
    ChannelClosed,
    Frame,
    encode,
    pieces,
    rights,
)
from pytest_containers.runtime.wire.defects import report
from pytest_containers.runtime.wire.faults import Fault, FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import (
    TOLD,
    Operation,
    close_all,
    pack_request,
    unpack_answer,
)
from pytest_containers.runtime.wire.tasks import Future

_A = TypeVar("_A")
Handler = Callable[["Peer", Frame], None]
_MAX_QUEUED_BYTES = 64 << 20
_PASSING = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_PAUSE_S = 0.01
_SEND_FLAGS = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


class Peer:
    """The other end of a channel. Owns the channel.

    Args:
        loop: Runs it all.
        channel: Connected; taken over.
        handle: Called with each request that arrives. It owns the frame's descriptors.
        closed: Called once when the other side is gone or breaks the protocol.
    """

    def __init__(
        self, loop: Loop, channel: Channel, handle: Handler, closed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._handle = handle
        self._closed: Callable[[], None] | None = closed
        self._waiting: dict[int, tuple[type[Operation[Any]], Future[Any]]] = {}
        self._next_id = 1
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._queued_bytes = 0
        self._paused = False
        loop.add_reader(channel.fileno(), self._read)

    @property
    def open(self) -> bool:
        """True if the other side can still be reached."""
        return self._closed is not None

    def request(self, operation: Operation[_A]) -> Future[_A]:
        """Ask; the descriptors of `operation` stay the caller's.

        Returns:
            The answer, whose descriptors are the caller's, or a `FaultError`. An answer that may
            have descriptors is to be awaited at once: else they are closed when it comes.
        """
        number = self._next_id
        self._next_id += 1
        answer: Future[_A] = Future()
        self._waiting[number] = (type(operation), answer)
        self.send(*pack_request(operation, number))
        if self._closed is None:
            self._fail_all()
        return answer

    def tell(self, operation: Operation[Any]) -> None:
        """Send an operation that is not answered."""
        self.send(*pack_request(operation, TOLD))

    def send(self, body: dict[str, Any], fds: Sequence[int] = (), blob: bytes = b"") -> None:
        """Send a frame, or queue it while the other side does not read."""
        if self._closed is None:
            return
        data = memoryview(encode(body, len(fds), blob))
        if len(fds) <= MAX_FDS:
            self._send_piece(data, fds)
            return
        for piece, piece_fds in pieces(data, fds):
            self._send_piece(piece, piece_fds)

    def _send_piece(self, data: memoryview, fds: Sequence[int]) -> None:
        if self._closed is None:
            return
        if self._queue:
            self._enqueue(data, fds)
            return
        sent = self._try_send(data, fds)
        if sent < len(data) and self.open:
            self._enqueue(data[sent:], fds if sent == 0 else ())
            if self._queue and not self._paused:
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
            return self._channel.sock.sendmsg([data], rights(fds), _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _PASSING:  # the kernel has no memory for it: it is sent again
                self._pause()
                return 0
            if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise
            self._lose()
            return len(data)

    def _pause(self) -> None:
        """Write again in a moment: the socket has room, so the loop would try without end."""
        if not self._paused:
            self._paused = True
            self._loop.remove_writer(self._channel.fileno())
            self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = False
        if self.open and self._queue:
            self._loop.add_writer(self._channel.fileno(), self._write)

    def _enqueue(self, data: memoryview, fds: Sequence[int]) -> None:
        self._queued_bytes += len(data)
        if self._queued_bytes > _MAX_QUEUED_BYTES:
            self._lose()  # the other side has stopped reading for good
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
        except ChannelClosed:
            self._lose()
        except (OSError, ValueError) as error:  # out of descriptors, or not our protocol
            report("read", error)
            self._lose()

    def _dispatch(self, frame: Frame) -> None:
        body = frame.body
        if "op" in body:
            self._handle(self, frame)
            return
        kind, future = self._waiting.pop(body.get("id", 0), (None, None))
        if kind is None or future is None:
            close_all(frame.fds)
            return
        answer = unpack_answer(kind.__name__, kind.answer, *frame)
        if isinstance(answer, Fault):
            future.fail(FaultError.of(answer))
        else:
            if not future.awaited:  # given up meanwhile
                close_all(frame.fds)
            future.set(answer)

    def _lose(self) -> None:
        closed = self._closed
        self.close()
        if closed is not None:
            closed()
            self._fail_all()

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            future.fail(FaultError("RunLostError", "the other half of the run is gone"))
