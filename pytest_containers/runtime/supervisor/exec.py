"""An exec: one more program in a running container."""

from __future__ import annotations

import os
from typing import Any

from pytest_containers.runtime.plan.become_user import command_parameters
from pytest_containers.runtime.plan.oci import command
from pytest_containers.runtime.plan.users import ProcessUser, of_process, resolve
from pytest_containers.runtime.supervisor import processes
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.supervisor.processes import Process, Streams
from pytest_containers.runtime.supervisor.tools import Tools
from pytest_containers.runtime.wire.dispatch import Call
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations.containers import Exec, ExecStarted


def start_exec(
    tools: Tools, container: RunContainer, request: Exec, call: Call[ExecStarted]
) -> Process:
    """Start a program in a container, and give its streams to the caller.

    Raises:
        FaultError, OSError: Nothing was started.
    """
    process = tools.plans.process(request.process)
    args = command(process, request.args)
    user = _user_of(container, request, process)
    program = tools.plans.enter(
        request.process, process, user, container.syscall_filter, len(container.cgroup.tasks)
    )
    init = container.init
    if container.state == "paused":
        raise FaultError("ExecError", f"container {container.name!r} is paused")
    if container.state == "created":  # until its execve, nobody may look into its process
        raise FaultError("ExecError", f"container {container.name!r} is created; start it first")
    owner = tools.owner_of(user)
    with (
        _streams(tools, container, request, process, owner) as streams,
        command_parameters(program, args) as parameters,
    ):
        bound = program.bind({
            **streams.parameters(), **container.cgroup.parameters(), "container": init.pidfd,
            **parameters,
        })  # fmt: skip
        try:
            with tools.oom_score.inherited(process, tools.runner) as runner:
                child = processes.spawn_inside(
                    bound, init.pidfd, tools.pid_ns, runner, container.cgroup.into
                )
        except ProcessLookupError:
            raise FaultError(
                "NotRunningError", f"container {container.name!r} is not running"
            ) from None
        streams.close_inner()
        outer = tuple(fd for fd in streams.outer if fd >= 0)
        call.answer(ExecStarted(pid=child.pid, ended=child.pidfd, streams=outer))
    program_process = Process(tools.loop, child, watch_start=False)
    container.raise_oom_score(program_process, process)
    return program_process


def _user_of(container: RunContainer, request: Exec, process: dict[str, Any]) -> ProcessUser:
    name, groups = request.user, tuple(request.groups)
    unnamed = name is None and not groups
    if unnamed and not process.get("user") and container.user is not None:
        return container.user
    root = container.open_root()
    try:
        own = of_process(root, process) if unnamed else None
        return own or resolve(root, name or "", groups)
    finally:
        os.close(root)


def _streams(
    tools: Tools,
    container: RunContainer,
    request: Exec,
    process: dict[str, Any],
    owner: tuple[int, int],
) -> Streams:
    if not process.get("terminal"):
        return Streams.pipes(tools.null_fd, owner, stdin=request.stdin)
    root = container.open_root()
    try:
        return Streams.terminal(processes.open_ptmx(root), owner)
    finally:
        os.close(root)
