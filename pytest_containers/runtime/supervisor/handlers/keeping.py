"""Containers that stay after their test: the run goes on for them when its test process ends.

The run then ends with the last of them, when the time is over, or with any of its processes.
"""

from __future__ import annotations

import time

from pytest_containers.runtime.supervisor.server import Belongings, Server
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.dispatch import Call, greeting
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import Outlive
from pytest_containers.runtime.wire.operations.kept import (
    DropKept,
    KeepContainer,
    KeepRun,
    KeptState,
    KeptStates,
    ListKept,
    RunKept,
)


@OPERATIONS.handles(KeepRun)
async def keep_run(session: Session, op: KeepRun, call: Call[RunKept]) -> RunKept:
    """Let the run outlive its test process, if there are kept containers then."""
    kept = session.server.kept
    if kept.begun:
        close_all([op.listener, op.directory])
        return RunKept(first=False)
    kept.begun, kept.keep_s, kept.most = True, op.keep_s, op.most
    await session.pass_on(
        Outlive(keep_s=op.keep_s, listener=op.listener, directory=op.directory, name=op.name)
    )
    return RunKept(first=True)


@OPERATIONS.handles(KeepContainer)
def keep_container(session: Session, op: KeepContainer, call: Call[None]) -> None:
    """Show a container, and keep it when its test process ends."""
    server, kept = session.server, session.server.kept
    container = server.require(op.container)
    if not kept.begun:
        raise FaultError("ContainersError", "nothing is kept: KeepRun comes first")
    kept.facts[container.id] = op.facts
    if not op.stay:
        return
    owner = (
        server.controller if container.id in server.controller.containers else session.belongings
    )
    if owner.containers.pop(container.id, None) is None:
        return  # it is kept already
    kept.containers[container.id] = container
    network = container.network
    for shown in () if network is None else (network, *network.ancestors()):
        for holder in (owner, server.controller):
            if holder.networks.pop(shown.id, None) is not None:
                kept.networks[shown.id] = shown
                kept.in_use.add(shown.id)
    while len(kept.containers) > kept.most:
        _drop(server, next(iter(kept.containers)))


def _drop(server: Server, number: str) -> None:
    """Remove a kept container, and the kept networks that nothing needs any more."""
    kept = server.kept
    container = kept.containers.get(number)
    if container is None:
        raise FaultError("NotRunningError", f"container {number} is not kept")
    kept.facts.pop(number, None)
    server.remove_container(container, kept)
    server.remove_unneeded_networks()


@OPERATIONS.handles(ListKept)
def list_kept(session: Session, op: ListKept, call: Call[KeptStates]) -> KeptStates:
    """List the containers that are kept or shown."""
    server, kept = session.server, session.server.kept
    states = []
    for number, facts in list(kept.facts.items()):
        container = server.containers.get(number)
        if container is None:  # it was shown only, and has gone
            del kept.facts[number]
            continue
        states.append(
            KeptState(
                id=number,
                facts=facts,
                state=container.state,
                exit_code=container.exit_code,
                ip="" if container.port is None else container.port.ip,
                kept=number in kept.containers,
            )
        )
    left = None if kept.ends_at is None else max(kept.ends_at - time.monotonic(), 0.0)
    return KeptStates(containers=states, ends_in_s=left)


@OPERATIONS.handles(DropKept)
async def drop_kept(session: Session, op: DropKept, call: Call[None]) -> None:
    """Remove kept containers; the run ends with the last one if its test process has ended."""
    server, kept = session.server, session.server.kept
    removed = [op.container] if op.container else list(kept.containers)
    removals = []
    for number in removed:
        container = kept.containers.get(number)
        _drop(server, number)
        if container is not None and container.removal is not None:
            removals.append(container.removal.ended)
    for removal in removals:
        await removal
    if kept.ends_at is not None and not kept.containers:
        call.answer(None)
        server.tools.loop.stop()


def controller_ended(server: Server) -> None:
    """End the run, since its test process has ended; later if containers are kept."""
    kept, loop = server.kept, server.tools.loop
    kept.in_use.clear()
    if not kept.containers:
        loop.stop()
        return
    kept.ends_at = time.monotonic() + kept.keep_s
    loop.call_later(kept.keep_s, loop.stop)


def admit(server: Server, channel: Channel, pidfd: int) -> None:
    """Serve another process of the user, such as a command."""
    session = Session(server, channel, pidfd, lambda: None, Belongings("a command"))
    greeting(session.peer).answer(server.describe())
