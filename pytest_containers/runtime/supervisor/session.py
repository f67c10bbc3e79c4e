"""A session: one test process, its requests, and all that ends with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from pytest_containers.runtime.supervisor.container import SIGKILL
from pytest_containers.runtime.supervisor.processes import Process
from pytest_containers.runtime.supervisor.server import Belongings, Server
from pytest_containers.runtime.wire.channel import Channel, Frame
from pytest_containers.runtime.wire.dispatch import Dispatcher
from pytest_containers.runtime.wire.message import Operation, close_all, descriptors_of
from pytest_containers.runtime.wire.operations.host import CloseEndpoints
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Task

_A = TypeVar("_A")

OPERATIONS: Dispatcher[Session] = Dispatcher()
"""What the supervisor does for test processes; the modules of `handlers` add to it."""


class Session:
    """A test process that is connected. Its belongings end with it.

    States: open; ended, when the process or its connection is gone (`_lost`). The order of the
    end: tasks first, so that none of them makes anything new; then containers; then what they
    have used.

    Args:
        server: The run.
        channel: Connected to the process.
        pidfd: Of the process: one that it forked may carry the channel on.
        ended: Called when it has ended and its containers are being removed.
        belongings: Its own; None for new ones.

    Attributes:
        execs: Programs that it started in containers, by the number of the request.
        tasks: Requests that are being worked on, by number.
    """

    def __init__(
        self,
        server: Server,
        channel: Channel,
        pidfd: int,
        ended: Callable[[], object],
        belongings: Belongings | None = None,
    ) -> None:
        self.server = server
        self.peer: Peer = Peer(server.tools.loop, channel, self._handle, self._lost)
        self.belongings: Belongings = belongings or Belongings()
        self.execs: dict[int, Process] = {}
        self.tasks: dict[int, Task] = {}
        self._pidfd = pidfd
        self._when_ended = ended
        self._ended = False
        server.sessions.add(self)
        server.tools.loop.add_reader(pidfd, self._lost)

    def _handle(self, peer: Peer, frame: Frame) -> None:
        OPERATIONS.dispatch(self, peer, frame, self.tasks)

    async def pass_on(self, operation: Operation[_A]) -> _A:
        """Have the launcher do something; the descriptors of `operation` are closed."""
        answer = self.server.tools.launcher.request(operation)
        close_all(descriptors_of(operation))
        return await answer

    def _lost(self) -> None:
        """Let go of everything, since the process or its connection has ended."""
        if self._ended:
            return
        self._ended = True
        server, belongings = self.server, self.belongings
        self.peer.close()
        server.tools.loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for task in list(self.tasks.values()):
            task.cancel()
        for process in list(self.execs.values()):
            process.kill(SIGKILL)
        for container in list(belongings.containers.values()):
            server.remove_container(container, belongings)
        if belongings.endpoints:
            server.tools.launcher.request(CloseEndpoints(keys=sorted(belongings.endpoints)))
        server.shared.lost(self)
        for volume in belongings.volumes.values():
            volume.close()
        for network in belongings.networks.values():
            server.remove_network(network)
        server.sessions.discard(self)
        self._when_ended()
