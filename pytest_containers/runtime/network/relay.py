"""Bytes from one socket to another and back, by splice(2): they are never seen here."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable

from pytest_containers.linux.files import splice
from pytest_containers.runtime.wire.loop import Loop

RELAY_DESCRIPTORS = 6
"""How many a `Relay` has: two sockets and two pipes."""
_PIPE_BYTES = 1 << 18
_ROUNDS = 16
_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK


class _Direction:
    """A direction from a socket through a pipe to a socket; end of file travels along."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source = source
        self._target = target
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._size: int = fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # the user has too much in pipes already
            self._size = fcntl.fcntl(self._writer, fcntl.F_GETPIPE_SZ)
        self._held = 0
        self._ended = False
        self.done = False

    @property
    def wants_input(self) -> bool:
        return not self._ended and self._held == 0

    @property
    def wants_output(self) -> bool:
        return self._held > 0

    def move(self) -> None:
        """Move what can be moved without waiting, up to a bound: others have their turn too.

        Raises:
            OSError: A side is gone.
        """
        for _ in range(_ROUNDS):
            if self.done:
                return
            if not self._ended and self._held == 0:
                try:
                    count = splice(self._source.fileno(), self._writer, self._size, _FLAGS)
                except BlockingIOError:
                    return
                self._held = count
                self._ended = count == 0
            if self._held:
                try:
                    self._held -= splice(self._reader, self._target.fileno(), self._held, _FLAGS)
                except BlockingIOError:
                    return
            if self._ended and not self._held:
                self.done = True
                self._target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Relay:
    """Joins two stream sockets; owns them. A half that is closed is passed on as such.

    Args:
        closed: Called once when both are closed.
    """

    def __init__(
        self,
        loop: Loop,
        left: socket.socket,
        right: socket.socket,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._sockets = (left, right)
        self._closed: Callable[[], None] | None = closed
        for sock in self._sockets:
            sock.setblocking(False)
        there = _Direction(left, right)
        try:
            back = _Direction(right, left)
        except BaseException:
            there.close()
            raise
        self._directions = (there, back)
        # Nothing is moved yet: a short exchange would be over, and `closed` called, before
        # the owner of this relay has it.
        for sock in self._sockets:
            self._watch(sock.fileno(), read=True, write=False)

    def _turn(self) -> None:
        try:
            for direction in self._directions:
                direction.move()
        except OSError:
            self.close()
            return
        if all(direction.done for direction in self._directions):
            self.close()
            return
        there, back = self._directions
        left, right = (sock.fileno() for sock in self._sockets)
        self._watch(left, read=there.wants_input, write=back.wants_output)
        self._watch(right, read=back.wants_input, write=there.wants_output)

    def _watch(self, fd: int, *, read: bool, write: bool) -> None:
        if read:
            self._loop.add_reader(fd, self._turn)
        else:
            self._loop.remove_reader(fd)
        if write:
            self._loop.add_writer(fd, self._turn)
        else:
            self._loop.remove_writer(fd)

    def close(self) -> None:
        """Close both sockets; idempotent."""
        closed, self._closed = self._closed, None
        if closed is None:
            return
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        for direction in self._directions:
            direction.close()
        closed()
