"""From a fresh process in new namespaces to a serving supervisor."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from pytest_containers.linux import process
from pytest_containers.linux.descriptors import raise_descriptor_limit
from pytest_containers.linux.spawn import stub_available
from pytest_containers.runtime.garbage import collect_from_now_on
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.supervisor import handlers as handlers  # they register
from pytest_containers.runtime.supervisor.handlers import keeping
from pytest_containers.runtime.supervisor.oom import OomScore, open_own
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.server import Server
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.supervisor.tools import Tools
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.dispatch import (
    Call,
    fail_at_start,
    greeting,
    receive_operation,
)
from pytest_containers.runtime.wire.faults import FaultError, refused
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.inside import Go
from pytest_containers.runtime.wire.operations.run import RunFacts, StartRun
from pytest_containers.runtime.wire.tasks import run_task


def main(
    client: Channel,
    launcher: Channel,
    networks: Channel,
    controller_fd: int,
    identity: Identity,
    request: StartRun,
    *,
    owns_interpreter: bool,
) -> None:
    """Serve until the test process or the launcher is gone.

    Args:
        client: To the test process that started the run.
        launcher: To the launcher, which first says "go": the identity is there.
        networks: To the network helper.
        controller_fd: A pidfd of the test process.
        identity: What container ids are on the host.
        request: What the test process asked for.
        owns_interpreter: True if a user of containers is the owner of the interpreter's file.
    """
    go = receive_operation(launcher, Go)
    try:
        server = _build(
            launcher, networks, identity, request, go, owns_interpreter=owns_interpreter
        )
    except FaultError as error:
        greeting(client).refuse(error.fault)
        return
    except Exception as error:  # noqa: BLE001 - the test process is told
        greeting(client).broken(error)
        return
    loop = server.tools.loop
    # The test process that owns the run: its end is the end, unless it keeps containers.
    server.tools.admit = partial(keeping.admit, server)
    ended = partial(keeping.controller_ended, server)
    controller = Session(server, client, controller_fd, ended, server.controller)
    run_task(_greet(server, greeting(controller.peer)))
    loop.run()
    # The exit of PID 1 takes all containers along; nothing is left to tidy.
    sys.stderr.flush()
    os._exit(0)


def _build(
    launcher: Channel,
    networks: Channel,
    identity: Identity,
    request: StartRun,
    go: Go,
    *,
    owns_interpreter: bool,
) -> Server:
    """Become root of the run, mount its file systems, and be ready to serve."""
    oom_score_fd = open_own()
    try:
        _become_root(identity)
    except OSError as error:
        raise FaultError.of(refused("become root of the run's user namespace", error)) from None
    process.forget_keys()
    raise_descriptor_limit()
    os.umask(0)
    try:
        root = RunRoot.build(
            identity,
            force_fallback=request.force_fallback,
            host_network=request.network == "host",
            memory_bytes=go.memory_bytes,
        )
    except OSError as error:
        raise FaultError.of(refused("mount the run's own file systems", error)) from None
    runner = request.runner
    if runner == "auto":
        runner = "stub" if stub_available() else "python"
    fail_at_start(request.fail_in)
    OPERATIONS.fail_in(request.fail_in)
    collect_from_now_on()
    loop = Loop()
    tools = Tools(
        loop, root, identity, runner, OomScore(loop, oom_score_fd), launcher, networks,
        cgroups=go.cgroups, max_containers=request.max_containers,
        owns_interpreter=owns_interpreter,
    )  # fmt: skip
    return Server(tools)


async def _greet(server: Server, call: Call[RunFacts]) -> None:
    try:
        call.answer(await server.set_up())
    except FaultError as error:
        call.refuse(error.fault)
    except Exception as error:  # noqa: BLE001 - the test process waits for a word
        call.broken(error)


def _become_root(identity: Identity) -> None:
    if identity.mode != "single":
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # Cleared by the change of credentials. The launcher cannot have died unnoticed: it has just
    # spoken, and the end of its channel ends the loop.
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Nothing in a container may look into this process: exec's children start as copies of it.
    process.prctl(process.PR_SET_DUMPABLE, 0)
