"""An exec: one more program in a running container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_containers.linux.program import Failure
from pytest_containers.runtime.messages import Fault, FaultError
from pytest_containers.runtime.oci import command
from pytest_containers.runtime.plan.credentials import command_line
from pytest_containers.runtime.plan.users import User, resolve
from pytest_containers.runtime.supervisor import processes
from pytest_containers.runtime.supervisor.container import Container
from pytest_containers.runtime.supervisor.failures import explain
from pytest_containers.runtime.supervisor.processes import Process, Streams

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.client import Client


class Execution:
    """One ``exec`` request, until its program has ended."""

    def __init__(self, client: Client, number: int, body: dict[str, Any], blob: bytes) -> None:
        self._client = client
        self._number = number
        self._body = body
        self._blob = blob
        self._process: Process | None = None
        self._failure: Fault | None = None

    def start(self) -> None:
        """Start the program and hand the streams over.

        Raises:
            FaultError, OSError: Nothing was started.
        """
        client, body = self._client, self._body
        server = client.server
        container = server.require(body["container"])
        process = server.plans.process(self._blob)
        args = command(process, body.get("args"))
        user = self._user(container)
        program = server.plans.enter(self._blob, process, user)
        init = container.init
        if container.state == "paused":
            raise FaultError("ExecError", f"container {container.name!r} is paused")
        streams = self._streams(container, process, (user.uid, user.gid))
        try:
            argv = command_line(args)
            bound = program.bind({**streams.parameters(), "container": init.pidfd, "argv": argv})
            child = processes.spawn_inside(bound, init.pidfd, server.pid_ns, server.runner)
            streams.close_inner()
            fds = tuple(fd for fd in streams.outer if fd >= 0)
            client.peer.answer(self._number, {"pid": child.pid}, fds)
        except ProcessLookupError:
            raise FaultError(
                "NotRunningError", f"container {container.name!r} is not running"
            ) from None
        finally:
            streams.close()
        self._process = Process(
            server.loop, child,
            lambda failure: self._started(failure, container), self._ended, promptly=False,
        )  # fmt: skip

    def _user(self, container: Container) -> User:
        wanted, groups = self._body["user"], tuple(self._body["groups"])
        if wanted is None and not groups and container.user is not None:
            return container.user
        root = container.open_root()
        try:
            return resolve(root, wanted or "", groups)
        finally:
            os.close(root)

    def _streams(
        self, container: Container, process: dict[str, Any], owner: tuple[int, int]
    ) -> Streams:
        if process.get("terminal"):
            root = container.open_root()
            try:
                return Streams.terminal(processes.open_ptmx(root), owner)
            finally:
                os.close(root)
        return Streams.pipes(self._client.server.null_fd, owner, stdin=self._body["stdin"])

    def kill(self, signum: int) -> None:
        """Signal its program."""
        if self._process is not None:
            self._process.kill(signum)

    def _started(self, failure: Failure | None, container: Container) -> None:
        # Without an errno it was killed on the way, together with the container: its code tells.
        if failure is not None and failure.errno:
            self._failure = explain(failure, f"exec in container {container.name!r}")

    def _ended(self, code: int) -> None:
        client = self._client
        client.forget_execution(self._number)
        if self._failure is not None:
            client.fail(self._number, self._failure)
        else:
            client.finish(self._number, code)
