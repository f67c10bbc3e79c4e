"""Programs in containers: exec, logs, files, jobs."""

from __future__ import annotations

import os
import stat

from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.supervisor.container import SIGKILL, RunContainer
from pytest_containers.runtime.supervisor.exec import start_exec
from pytest_containers.runtime.supervisor.failures import explain
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.wire.dispatch import LATER, Call, Later
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.operations.containers import (
    Exec,
    ExecStarted,
    ExitCode,
    LogRecords,
    ReadLogs,
    SignalExec,
)
from pytest_containers.runtime.wire.operations.job import JobResult
from pytest_containers.runtime.wire.operations.session import CallJob, Open, Opened
from pytest_containers.runtime.wire.tasks import Cancelled


@OPERATIONS.handles(Exec)
async def execute(session: Session, op: Exec, call: Call[ExecStarted]) -> ExitCode:
    """Run a program in a container; answers when it is started, and at its end."""
    container = session.server.require(op.container)
    process = start_exec(session.server.tools, container, op, call)
    session.execs[call.id] = process
    try:
        code = await process.ended
    except Cancelled:
        process.kill(SIGKILL)
        raise
    finally:
        del session.execs[call.id]
    failure = process.started.result()
    # Without an errno it was killed on the way, together with the container: its code tells.
    if failure is not None and failure.errno:
        raise FaultError.of(explain(failure, f"exec in container {container.name!r}"))
    return ExitCode(code=code)


@OPERATIONS.handles(SignalExec)
def signal_exec(session: Session, op: SignalExec, call: Call[None]) -> None:
    """Send a signal to a program that was started by `Exec`."""
    process = session.execs.get(op.request)
    if process is not None:
        process.kill(op.signum)


@OPERATIONS.handles(ReadLogs)
async def read_logs(session: Session, op: ReadLogs, call: Call[LogRecords]) -> LogRecords:
    """Read what a container has written; waits for more if it is asked to."""
    container, loop = session.server.require(op.container), session.server.tools.loop
    log = container.log
    if container.exit_code is None:
        log.drain()
        container.note_memory_kills()
    if op.wait and log.end <= op.position and _may_write(container):
        loop.waiting()
        try:
            while log.end <= op.position and _may_write(container):
                await log.next_change()
                if container.state == "removed" and log.end <= op.position:
                    message = f"container {container.name!r} was removed"
                    raise FaultError("NotRunningError", message)
        finally:
            loop.waited()
    following, records = log.since(op.position)
    incomplete = _may_write(container) or following < log.end
    return LogRecords(position=following, more=incomplete, records=records)


def _may_write(container: RunContainer) -> bool:
    return container.exit_code is None or container.log.open


@OPERATIONS.handles(Open)
def open_file(session: Session, op: Open, call: Call[Opened]) -> Later:
    """Open a regular file of a container."""
    container = session.server.require(op.container)
    subject = f"{op.path} in container {container.name!r}"
    root = container.open_root()
    try:
        fd = open_in_root(root, op.path, op.flags | os.O_NONBLOCK | os.O_NOCTTY, op.mode)
    except OSError as error:
        raise FaultError(
            "ContainersError", f"{subject}: {error.strerror}", errno=error.errno, path=op.path
        ) from None
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FaultError("ContainersError", f"{subject} is not a file", path=op.path)
        call.answer(Opened(file=fd))
    finally:
        os.close(fd)
    return LATER


@OPERATIONS.handles(CallJob)
async def call_job(session: Session, op: CallJob, call: Call[JobResult]) -> JobResult:
    """Run a job, with the run's own descriptors added to the caller's."""
    server = session.server
    with OwnedDescriptors(op.descriptors) as owned:
        for key in op.views:
            owned.fds.append(server.tools.trees.view(key))
        if op.upper_of:
            owned.fds.insert(0, server.require(op.upper_of).open_upper())
        if op.root_of:
            owned.fds.insert(0, server.require(op.root_of).open_root())
        job = host.StartJob(
            function=op.function, args=op.args, search_path=op.search_path,
            descriptors=owned.hand_over(),
        )  # fmt: skip
    return await session.pass_on(job)
