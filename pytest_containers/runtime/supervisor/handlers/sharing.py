"""Test processes among themselves: shared containers, workers, requests that are given up."""

from __future__ import annotations

import socket

from pytest_containers.runtime.supervisor.server import Belongings
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.dispatch import Call, greeting
from pytest_containers.runtime.wire.faults import received
from pytest_containers.runtime.wire.operations.session import (
    Adopt,
    Cancel,
    Claim,
    ClaimShare,
    FailShare,
    PublishShare,
)


@OPERATIONS.handles(ClaimShare)
async def claim_share(session: Session, op: ClaimShare, call: Call[Claim]) -> Claim:
    """Wait until a shared container is made, or be the one to make it."""
    return await session.server.shared.claim(op.key, session)


@OPERATIONS.handles(PublishShare)
def publish_share(session: Session, op: PublishShare, call: Call[None]) -> None:
    """Publish a shared container: it and its network are the controller's from now on."""
    server, belongings = session.server, session.belongings
    container = server.require(op.container)
    controller = server.controller
    controller.containers[container.id] = belongings.containers.pop(container.id)
    controller.networks[op.network] = belongings.networks.pop(op.network)
    server.shared.publish(op.key, op.result)


@OPERATIONS.handles(FailShare)
def fail_share(session: Session, op: FailShare, call: Call[None]) -> None:
    """Tell those who wait for a shared container why it could not be made."""
    session.server.shared.publish(op.key, received(op.error))


@OPERATIONS.handles(Adopt)
def adopt(session: Session, op: Adopt, call: Call[None]) -> None:
    """Serve another test process: an xdist worker."""
    channel = Channel(socket.socket(fileno=op.socket))
    belongings = Belongings(op.label)
    worker = Session(session.server, channel, op.pidfd, lambda: None, belongings)
    greeting(worker.peer).answer(session.server.describe())


@OPERATIONS.handles(Cancel)
def cancel(session: Session, op: Cancel, call: Call[None]) -> None:
    """Give a request up."""
    task = session.tasks.get(op.request)
    if task is not None:
        task.cancel()
