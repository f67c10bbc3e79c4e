"""The stop of a child between its creation and its execve."""

from __future__ import annotations

import socket

from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import Future


class Hold:
    """A socket that a created child waits at (see `become_user`); `release` lets it go on.

    Attributes:
        reached: Done when the child waits; never, if it ends before.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._outer, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.reached: Future[None] = Future()
        loop.add_reader(self._outer.fileno(), self._on_byte)
        self._watched = True

    @property
    def inner_fd(self) -> int:
        """The child's end."""
        return self._inner.fileno()

    def close_inner(self) -> None:
        """Close the child's end, once it has its own."""
        self._inner.close()

    def _on_byte(self) -> None:
        self._unwatch()
        if self._outer.recv(1):
            self.reached.set(None)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._outer.fileno())

    def release(self) -> None:
        """Let the child go on; one that was killed meanwhile tells by its end."""
        try:
            self._outer.send(b"s")
        except OSError:
            return

    def close(self) -> None:
        """Close it, only after the child is through or was killed. Safe to call twice."""
        self._unwatch()
        self._inner.close()
        self._outer.close()
