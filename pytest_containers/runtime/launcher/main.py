"""The start of a run: from a fresh interpreter to launcher, supervisor and network helper.

Imported here is only what the network helper needs too; the rest is loaded once it was forked.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from pytest_containers.linux import process
from pytest_containers.linux.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from pytest_containers.runtime.garbage import collect_from_now_on
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
from pytest_containers.runtime.wire.defects import context, failed
from pytest_containers.runtime.wire.dispatch import (
    fail_at_start,
    greeting,
    receive_operation,
    send_operation,
)
from pytest_containers.runtime.wire.faults import FaultError, refused
from pytest_containers.runtime.wire.operations.networks import SetUpNetworks
from pytest_containers.runtime.wire.operations.run import StartRun

if TYPE_CHECKING:
    from pytest_containers.runtime.launcher.server import Launcher

_ENDING_S = 1.0
_NAMESPACES = (
    CLONE_NEWUSER
    | CLONE_NEWNS
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWIPC
    | CLONE_NEWUTS
    | CLONE_NEWCGROUP
)


def main(fd: int) -> None:
    """Run as a launcher until the test process or the supervisor is gone.

    Args:
        fd: The socket to the test process, which first sends `StartRun`.
    """
    controller_pid = os.getppid()
    process.die_with_parent(controller_pid)
    process.set_name("pc-launcher")
    context.process = "launcher"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends us
    controller_fd = os.pidfd_open(controller_pid)
    client = Channel(socket.socket(fileno=fd))
    os.set_inheritable(fd, False)
    try:
        request = receive_operation(client, StartRun)
        _begin_trace(request)
        launcher = _start(client, controller_fd, request)
    except ChannelClosed:
        return
    except FaultError as error:
        greeting(client).refuse(error.fault)
        return
    except Exception as error:  # noqa: BLE001 - goes to the test process
        greeting(client).broken(error)
        return
    # From here on the socket is the supervisor's alone: its end of file must mean its end.
    client.close()
    collect_from_now_on()
    try:
        launcher.run()
    except BaseException as error:  # noqa: BLE001 - the last frame of a process
        failed(error)
        raise SystemExit(1) from None


def _start(client: Channel, controller_fd: int, request: StartRun) -> Launcher:
    """Start helper and supervisor; returns once the supervisor has its identity."""
    to_helper, from_launcher = Channel.pair()
    to_networks, from_supervisor = Channel.pair()
    on_host = request.network == "host"
    if not on_host:
        # First of all: it takes longest, and loads its modules beside ours.
        helper_pid = os.fork()
        if helper_pid == 0:
            for channel in (client, to_helper, to_networks):
                channel.close()
            _run_helper(from_launcher, from_supervisor, request)
        from_launcher.close()
        from_supervisor.close()
    from pytest_containers.runtime import identity as identities
    from pytest_containers.runtime.launcher.namespaces import clone
    from pytest_containers.runtime.launcher.server import Launcher
    from pytest_containers.runtime.supervisor import main as supervisor
    from pytest_containers.runtime.wire.operations.inside import Go

    fail_at_start(request.fail_in)
    link, supervisor_link = Channel.pair()
    interpreter_uid = os.stat("/proc/self/exe").st_uid

    def child(identity: identities.Identity) -> NoReturn:
        for channel in (to_helper, link, *([from_launcher, from_supervisor] if on_host else [])):
            channel.close()
        _run_supervisor(
            request,
            lambda: supervisor.main(
                client,
                supervisor_link,
                to_networks,
                controller_fd,
                identity,
                request,
                owns_interpreter=identity.has_user(interpreter_uid),
            ),
        )

    flags = _NAMESPACES & ~CLONE_NEWNET if on_host else _NAMESPACES
    try:
        chosen = identities.choose(request.identity, request.home)
    except OSError as error:
        raise FaultError.of(refused("choose the ids of containers", error)) from None
    pid, pidfd, identity = clone(flags, chosen, child)
    supervisor_link.close()
    to_networks.close()
    # All of /proc/PID is needed before "go": afterwards the supervisor cannot be looked into.
    with _supervisor_alive(pidfd):
        launcher = Launcher(link, pid, pidfd, controller_fd, identity, request)
        netns_fd = -1 if on_host else _open(f"/proc/{pid}/ns/net")
    go = Go(memory_bytes=launcher.memory_bytes, cgroups=launcher.cgroups_for_all)
    if on_host:
        send_operation(link, go)
        for channel in (from_launcher, from_supervisor):  # where the helper would be
            launcher.keep(channel)
    else:
        send_operation(link, go)
        connect = identity.privileged
        request_networks = SetUpNetworks(connect=connect, userns=launcher.userns_fd, netns=netns_fd)
        with suppress(ChannelClosed):  # it has failed, and the supervisor has heard of it
            send_operation(to_helper, request_networks)
        os.close(netns_fd)
    launcher.keep(to_helper)
    return launcher


@contextmanager
def _supervisor_alive(pidfd: int) -> Iterator[None]:
    """Tell an end of the supervisor from another reason that its files cannot be opened."""
    try:
        yield
    except OSError:
        # It may be ending: its namespaces go first.
        if select.select([pidfd], [], [], _ENDING_S)[0]:
            raise FaultError(
                "RunLostError",
                "the run of containers is gone: its supervisor ended while it started",
            ) from None
        raise


def _begin_trace(request: StartRun) -> None:
    if request.trace:
        from pytest_containers.runtime.wire import trace

        trace.start(request.trace[0])


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _run_helper(launcher: Channel, supervisor_end: Channel, request: StartRun) -> NoReturn:
    """The network helper's process."""
    parent = os.getppid()
    try:
        context.process = "network helper"
        process.die_with_parent(parent)
        process.set_name("pc-network")
        _begin_trace(request)
        from pytest_containers.runtime.network import helper

        helper.main(launcher, supervisor_end, request.search_path, request.fail_in)
    except ChannelClosed:
        pass
    except BaseException as error:  # noqa: BLE001 - the last frame of a process
        failed(error)
    os._exit(0)


def _run_supervisor(request: StartRun, serve: Callable[[], None]) -> NoReturn:
    """The supervisor's process, before it has an identity."""
    try:
        context.process = "supervisor"
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_name("pc-supervisor")
        _begin_trace(request)
        serve()
    except ChannelClosed:
        pass
    except BaseException as error:  # noqa: BLE001 - the last frame of a process
        failed(error)
    os._exit(1)
