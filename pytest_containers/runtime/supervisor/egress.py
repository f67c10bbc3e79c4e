"""A container's way out: a process of the launcher's in its network namespace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_containers.runtime.channel import Frame
from pytest_containers.runtime.messages import Fault

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.server import Server

_POLL_S, _WITHIN_S = 0.005, 10.0


class Egress:
    """Connects a container; for as long as this object is not closed.

    Args:
        program: Path of slirp4netns or pasta.
        pid: A process in the container's network namespace.
        done: Called when other machines are reachable, or with why not.
    """

    def __init__(
        self, server: Server, program: str, pid: int, done: Callable[[Fault | None], None]
    ) -> None:
        self._loop = server.loop
        self._program = program
        self._routes = f"/proc/{pid}/net/route"
        self._done: Callable[[Fault | None], None] | None = done
        self._deadline = time.monotonic() + _WITHIN_S
        self._pidfd = -1
        alive, self._alive = os.pipe2(os.O_CLOEXEC)
        netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            server.launcher.request(
                {"op": "egress", "program": program}, self._started, [netns, alive]
            )
        finally:
            os.close(netns)
            os.close(alive)

    def _started(self, frame: Frame | Fault) -> None:
        if isinstance(frame, Fault):
            self._finish(frame)
            return
        if self._alive < 0:
            os.close(frame.fds[0])
            return
        self._pidfd = frame.fds[0]
        self._loop.add_reader(self._pidfd, self._ended)
        self._look()

    def _look(self) -> None:
        if self._done is None:
            return
        try:
            with open(self._routes) as file:
                ready = any(line.split()[1] == "00000000" for line in file)
        except OSError:
            ready = False
        if ready:
            self._finish(None)
        elif time.monotonic() > self._deadline:
            self._finish(self._fault(f"it made no route within {_WITHIN_S:.0f} s"))
        else:
            self._loop.call_later(_POLL_S, self._look)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._finish(self._fault("it ended"))

    def _fault(self, why: str) -> Fault:
        return Fault(
            "StartError", f"{self._program} could not connect the container to the network: {why}; "
            "look at `pytest-containers doctor`, or use the host's network", {},
        )  # fmt: skip

    def _finish(self, result: Fault | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)

    def close(self) -> None:
        """End it; idempotent."""
        self._done = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
