"""A container's way out: a process of the launcher's in its network namespace."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from pytest_containers.runtime.network.lookups import read_in
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import StartEgress
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Future, owned, sleep

_POLL_S, _WITHIN_S = 0.005, 10.0


class EgressConnection:
    """A connection of a container to other machines, until it is closed. Made by `connect`.

    Args:
        loop: Runs it.
        program: Path of slirp4netns or pasta.
        alive_fd: A pipe's end: the launcher ends the process when it is closed, by whatever death.

    Attributes:
        ended: Done when nothing of the process is left; its device is gone then.
    """

    def __init__(self, loop: Loop, program: str, alive_fd: int) -> None:
        self.ended: Future[None] = Future()
        self._loop = loop
        self._program = program
        self._alive = alive_fd
        self._errno: int | None = None

    @classmethod
    async def connect(
        cls, loop: Loop, launcher: Peer, program: str, netns_fd: int, own_netns_fd: int
    ) -> EgressConnection:
        """Connect a network namespace; returns once there is a way out.

        Raises:
            FaultError: The program cannot be started, ended, or makes no route.
        """
        alive, ours = os.pipe2(os.O_CLOEXEC)
        egress = cls(loop, program, ours)
        try:
            try:
                answer = launcher.request(StartEgress(program=program, netns=netns_fd, alive=alive))
            finally:
                os.close(alive)
            started = await owned(answer, lambda started: close_all([started.pidfd, started.words]))
            egress._watch(started.pidfd, started.words)
            await egress._route(netns_fd, own_netns_fd)
        except BaseException:
            egress.close()
            raise
        return egress

    def _watch(self, pidfd: int, words: int) -> None:
        def end() -> None:
            self._loop.remove_reader(pidfd)
            self._errno = _errno_of(words)
            close_all([pidfd, words])
            self.ended.set(None)

        self._loop.add_reader(pidfd, end)

    async def _route(self, netns_fd: int, own_netns_fd: int) -> None:
        """Wait for a default route in the container."""
        deadline = time.monotonic() + _WITHIN_S
        while not _has_default_route(read_in(netns_fd, own_netns_fd, "route")):
            if self.ended.done:
                cause = f": {os.strerror(self._errno)}" if self._errno else ""
                raise self._failure(f"it ended{cause}", self._errno)
            if time.monotonic() > deadline:
                raise self._failure(f"it made no route within {_WITHIN_S:.0f} s")
            await sleep(self._loop, _POLL_S)

    def _failure(self, reason: str, code: int | None = None) -> FaultError:
        return FaultError(
            "StartError",
            f"{self._program} could not connect the container to the network: {reason}; "
            "try the other one of slirp4netns and pasta, or do without a way out",
            errno=code,
        )

    def close(self) -> None:
        """End it; idempotent."""
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1


def _errno_of(words: int) -> int | None:
    """Return what the processes around the program have told, if they have."""
    os.set_blocking(words, False)
    with suppress(BlockingIOError):
        told = os.read(words, 16)
        return int(told) if told.isdigit() else None
    return None


def _has_default_route(table: str) -> bool:
    return any(line.split()[1] == "00000000" for line in table.splitlines())
