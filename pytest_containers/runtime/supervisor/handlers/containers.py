"""The life of containers: start, wait, signals, stop, removal, restart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.linux.process import number_in_proc
from pytest_containers.runtime.supervisor.bundle import BundleStart
from pytest_containers.runtime.supervisor.container import SIGKILL, RunContainer
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.supervisor.start import Start
from pytest_containers.runtime.supervisor.usage import usage_of
from pytest_containers.runtime.wire.dispatch import LATER, Call, Later
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.containers import (
    ContainerIds,
    ContainerState,
    ContainerUsage,
    ExitCode,
    Exited,
    Inspect,
    ListContainers,
    Pause,
    ReadUsage,
    Remove,
    Signal,
    Stop,
    Unpause,
    WaitExit,
)
from pytest_containers.runtime.wire.operations.session import AttachImage
from pytest_containers.runtime.wire.operations.starts import (
    BundleCreated,
    CreateBundle,
    Execute,
    ForwardedPort,
    Restart,
    Run,
    Started,
)
from pytest_containers.runtime.wire.tasks import Future

_SHORT_BYTES = 1 << 16
_LOOKS, _LOOK_AGAIN_S = 100, 0.01  # a second: on a busy machine a shell may wait for its turn


@OPERATIONS.handles(AttachImage)
async def attach_image(session: Session, op: AttachImage, call: Call[None]) -> None:
    """Attach the layers of an image."""
    trees = session.server.tools.trees
    trees.hold(op.key, op.hold)
    await trees.make_ready(op)


@OPERATIONS.handles(Run)
async def run(session: Session, op: Run, call: Call[Started]) -> Later:
    """Start a container."""
    start = Start(session.server, session.belongings, call, op.request, op.config)
    container, forwards = await start.run()
    _answer_started(call, container, forwards, start.notes)
    return LATER


@OPERATIONS.handles(CreateBundle)
async def create_bundle(session: Session, op: CreateBundle, call: Call[BundleCreated]) -> Later:
    """Create a container of an OCI bundle."""
    with OwnedDescriptors(op.namespaces) as namespaces:
        start = BundleStart(session.server, session.belongings, call, op, namespaces)
        container = await start.create()
    process = container.init.pidfd
    container.hand_over(
        lambda streams: call.answer(
            BundleCreated(id=container.id, process=process, streams=streams)
        )
    )
    return LATER


@OPERATIONS.handles(Execute)
async def execute(session: Session, op: Execute, call: Call[None]) -> None:
    """Start the program of a container that is created."""
    await session.server.require(op.container).execute()


@OPERATIONS.handles(Restart)
async def restart(session: Session, op: Restart, call: Call[Started]) -> Later:
    """Start an ended container again."""
    container = session.server.require(op.container)
    start = Start(session.server, session.belongings, call, op.request, op.config)
    await start.restart(container)
    _answer_started(call, container, (), start.notes)
    return LATER


def _answer_started(
    call: Call[Started],
    container: RunContainer,
    forwards: Sequence[ForwardedPort],
    notes: Sequence[str],
) -> None:
    assert container.main is not None
    pid, port = container.main.pid, container.port
    ip, ip6 = (port.ip, port.ip6) if port else ("", "")

    def answer(streams: Sequence[int]) -> None:
        call.answer(
            Started(
                id=container.id,
                pid=pid,
                ip=ip,
                ip6=ip6,
                forwards=forwards,
                streams=streams,
                notes=notes,
            )
        )

    container.hand_over(answer)


@OPERATIONS.handles(WaitExit)
async def wait(session: Session, op: WaitExit, call: Call[Exited]) -> Exited:
    """Wait for the end of a container."""
    container = session.server.require(op.container)
    code = await container.exited
    log = container.log
    complete = not log.open and log.end <= _SHORT_BYTES
    output = log.since(0)[1] if complete else b""
    return Exited(code=code, complete=complete, output=output)


@OPERATIONS.handles(ListContainers)
def list_containers(session: Session, op: ListContainers, call: Call[ContainerIds]) -> ContainerIds:
    """List the containers of the caller."""
    return ContainerIds(ids=list(session.belongings.containers))


@OPERATIONS.handles(Inspect)
def inspect(session: Session, op: Inspect, call: Call[ContainerState]) -> ContainerState:
    """Look at a container."""
    container = session.server.require(op.container)
    container.note_memory_kills()
    return ContainerState(
        state=container.state, exit_code=container.exit_code, oom_killed=container.oom_killed
    )


@OPERATIONS.handles(ReadUsage)
def stats(session: Session, op: ReadUsage, call: Call[ContainerUsage]) -> ContainerUsage:
    """Read what a container uses."""
    container = session.server.require(op.container)
    return usage_of(container.cgroup, number_in_proc(container.init.pidfd))


@OPERATIONS.handles(Signal)
def signal(session: Session, op: Signal, call: Call[None]) -> None:
    """Send a signal to the program of a container."""
    session.server.require(op.container).signal(op.signum)


@OPERATIONS.handles(Stop)
async def stop(session: Session, op: Stop, call: Call[ExitCode]) -> ExitCode:
    """Send a signal, wait, then kill."""
    container, loop = session.server.require(op.container), session.server.tools.loop
    if container.state == "paused":
        container.unpause()
    deaf = await _is_deaf(container, op.signum, loop)
    if container.exit_code is None:
        container.signal(SIGKILL if deaf else op.signum)

    def kill() -> None:
        if container.main is not None:
            container.main.kill(SIGKILL)
            container.cgroup.thaw()

    timer = loop.call_later(op.timeout_s, kill)
    try:
        return ExitCode(code=await container.exited)
    finally:
        loop.cancel(timer)


async def _is_deaf(container: RunContainer, signum: int, loop: Loop) -> bool:
    """True if the kernel drops a signal to the program of a container, and not only by chance.

    A shell that forks blocks all signals for a moment, and a program that waits for signals can be
    seen between two waits: so look until two looks agree.
    """
    before = None
    for _ in range(_LOOKS):
        fate = container.fate_of(signum)
        if fate == "heard" or fate == before != "unclear":
            return fate == "dropped"
        before = fate
        later: Future[None] = Future()
        loop.call_later(_LOOK_AGAIN_S, partial(later.set, None))
        await later
    return False


@OPERATIONS.handles(Pause)
def pause(session: Session, op: Pause, call: Call[None]) -> None:
    """Stop all processes of a container."""
    session.server.require(op.container).pause()


@OPERATIONS.handles(Unpause)
def unpause(session: Session, op: Unpause, call: Call[None]) -> None:
    """Let the processes of a container go on."""
    session.server.require(op.container).unpause()


@OPERATIONS.handles(Remove)
async def remove(session: Session, op: Remove, call: Call[None]) -> None:
    """Kill a container and drop all it had."""
    container = session.belongings.containers.get(op.container)
    if container is not None:
        await session.server.remove_container(container, session.belongings)
