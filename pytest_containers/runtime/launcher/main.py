"""How a run comes to be: from a fresh interpreter to launcher, supervisor and network helper."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any, NoReturn

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
from pytest_containers.runtime.channel import Channel, ChannelClosed
from pytest_containers.runtime.launcher import identity as identities
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.launcher.server import Launcher
from pytest_containers.runtime.messages import FaultError, refused
from pytest_containers.runtime.supervisor import main as supervisor

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
        fd: The socket to the test process. Its first frame says what is wanted:
            ``{"identity": mode, "search_path": […], "runner": name, "home": path}``, and
            ``"network": "host"`` for a run whose containers are in the host's network namespace.
    """
    controller_pid = os.getppid()
    process.die_with_parent(controller_pid)
    process.set_name("pc-launcher")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends us
    controller_fd = os.pidfd_open(controller_pid)
    client = Channel(socket.socket(fileno=fd))
    os.set_inheritable(fd, False)
    try:
        wanted = client.receive().body
    except ChannelClosed:
        return
    try:
        launcher = _start(client, controller_fd, wanted)
    except FaultError as error:
        client.send({"id": 0, "error": error.fault})
        return
    # From here on the socket is the supervisor's alone: its end of file must mean its end.
    client.close()
    launcher.run()


def _start(client: Channel, controller_fd: int, wanted: dict[str, Any]) -> Launcher:
    """Start helper and supervisor; returns once the supervisor has its identity."""
    to_helper, from_launcher = Channel.pair()
    to_networks, from_supervisor = Channel.pair()
    link, supervisor_link = Channel.pair()
    identity = identities.choose(wanted.get("identity", "auto"))
    on_host = wanted.get("network") == "host"
    if not on_host:
        helper_pid = os.fork()
        if helper_pid == 0:
            for channel in (client, to_helper, to_networks, link, supervisor_link):
                channel.close()
            _run_helper(from_launcher, from_supervisor, wanted["search_path"])
        from_launcher.close()
        from_supervisor.close()
    try:
        pid, pidfd = process.clone(_NAMESPACES & ~CLONE_NEWNET if on_host else _NAMESPACES)
    except OSError as error:
        raise FaultError(*refused("make the run's namespaces", error)) from None
    if pid == 0:
        for channel in (to_helper, link, *([from_launcher, from_supervisor] if on_host else [])):
            channel.close()
        _run_supervisor(client, supervisor_link, to_networks, controller_fd, identity, wanted)
    supervisor_link.close()
    to_networks.close()
    try:
        identities.write_maps(pid, identity)
    except OSError as error:
        raise FaultError(*refused("give container users their ids", error)) from None
    # All of /proc/PID is needed before "go": afterwards the supervisor cannot be looked into.
    launcher = Launcher(link, pid, pidfd, controller_fd, identity, wanted["home"])
    if on_host:
        link.send({"op": "go"})
        for channel in (from_launcher, from_supervisor):  # where the helper would be
            launcher.keep(channel)
    else:
        fds = [launcher.userns_fd, _open(f"/proc/{pid}/ns/net")]
        link.send({"op": "go"})
        to_helper.send({"op": "start", "connect": identity.mode == "root"}, fds)
        os.close(fds[1])
    launcher.keep(to_helper)
    return launcher


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _run_helper(launcher: Channel, supervisor_end: Channel, search_path: list[str]) -> NoReturn:
    """The network helper's process."""
    parent = os.getppid()
    try:
        process.die_with_parent(parent)
        process.set_name("pc-network")
        from pytest_containers.runtime.network import helper

        helper.main(launcher, supervisor_end, search_path)
    except ChannelClosed:
        pass
    except BaseException:  # noqa: BLE001 - the last frame of a process
        sys.excepthook(*sys.exc_info())
    os._exit(0)


def _run_supervisor(
    client: Channel,
    launcher: Channel,
    networks: Channel,
    controller_fd: int,
    identity: Identity,
    wanted: dict[str, Any],
) -> NoReturn:
    """The supervisor's process, before it has an identity."""
    try:
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_name("pc-supervisor")
        supervisor.main(client, launcher, networks, controller_fd, identity, wanted)
    except ChannelClosed:
        pass
    except BaseException:  # noqa: BLE001 - the last frame of a process
        sys.excepthook(*sys.exc_info())
    os._exit(1)
