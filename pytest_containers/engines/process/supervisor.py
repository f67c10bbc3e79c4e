"""The supervisor: it answers the traps of all containers, and kills all when a watcher has died.

States: *serving*, while the engine's process, the guardian and the channel live; *ending*: inits
end their containers, what is left is killed, and System V segments and the directories of the run
are removed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pytest_containers.engines.process import wire
from pytest_containers.engines.process.ending import (
    SEGMENTS,
    await_end,
    become_subreaper,
    kill_descendants,
    reap,
    remove_folders,
    remove_segments_of,
)
from pytest_containers.engines.process.guardian import run_guardian
from pytest_containers.engines.process.names import HOST_NAME, NameServer
from pytest_containers.engines.process.traps import AddressPolicy, Traps
from pytest_containers.engines.process.wire import Packet
from pytest_containers.linux.process import set_name
from pytest_containers.linux.sysv import remove_segments

_COUNT_MS, _MANY_TASKS = 200, 512


class _Container:
    """A container as the supervisor knows it."""

    def __init__(self, fields: dict[str, Any], listening: socket.socket) -> None:
        self.address: str = fields["address"]
        self.network: str | None = fields["network"]
        self.listening = listening
        self.traps: Traps | None = None
        self.fields = fields
        self.began_s = time.time()


class Supervisor:
    """The state of the supervisor.

    Args:
        engine: The channel to the engine.
        guardian: The channel to the guardian.
        folders: The directories of the run.
    """

    def __init__(self, engine: socket.socket, guardian: socket.socket, folders: list[str]) -> None:
        self._engine = engine
        self._guardian = guardian
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._segments = os.open(Path(folders[0]) / SEGMENTS, flags, 0o600)
        self._containers: dict[str, _Container] = {}
        self._parents: dict[str, list[str]] = {}
        self._poll = select.poll()
        self._by_fd: dict[int, _Container] = {}
        self._names: NameServer | None = None
        self._calm = 1 << 30

    def serve(self, *watched: int) -> None:
        """Serve until the channel or one of the `watched` pidfds ends."""
        engine = self._engine.fileno()
        for fd in (engine, *watched):
            self._poll.register(fd, select.POLLIN)
        while True:
            ready = self._poll.poll(_COUNT_MS)
            if not ready:
                self._count()
            for fd, _ in ready:
                if fd in watched:
                    return
                if fd == engine:
                    message = wire.receive(self._engine)
                    if message is None:
                        return
                    self._handle(message)
                elif fd in self._by_fd:  # else it was dropped just now
                    self._take_listener(fd)

    def end_containers(self) -> None:
        """Tell all inits to end."""
        for container in self._containers.values():
            container.listening.close()

    def _count(self) -> None:
        """Let all inits count if the number of tasks of this machine has grown by many."""
        with open("/proc/loadavg") as file:
            tasks = int(file.read().split()[3].partition("/")[2])
        if tasks > self._calm + _MANY_TASKS:
            for container in self._containers.values():
                with contextlib.suppress(OSError):  # it has ended
                    wire.send(container.listening, {"count": True})
            self._calm = tasks
        self._calm = min(self._calm, tasks)

    def _handle(self, message: Packet) -> None:
        fields = message.fields
        if fields["op"] == "network":
            self._parents[fields["network"]] = fields["parents"]
        elif fields["op"] == "create":
            ours, theirs = wire.pair()
            container = self._containers[fields["key"]] = _Container(fields, ours)
            self._by_fd[ours.fileno()] = container
            self._poll.register(ours, select.POLLIN)
            wire.send(self._guardian, fields["view"], [*message.fds, theirs.fileno()])
            theirs.close()
            for fd in message.fds:
                os.close(fd)
        elif fields["op"] == "drop":
            self._drop(fields)

    def _take_listener(self, fd: int) -> None:
        container = self._by_fd.pop(fd)
        self._poll.unregister(fd)
        message = wire.receive(container.listening)
        if message is None or not message.fds:
            container.listening.close()
            return
        fields = container.fields
        policy = AddressPolicy(
            container.address,
            fields.get("gateway", ""),
            fields.get("egress", False),
            frozenset(fields.get("host_ports", ())),
            lambda address: self._may_reach(container.network, address),
        )
        if container.address:
            server = self._name_server(container.address)
            policy.name_servers, policy.names = server.others, server.place
        container.traps = Traps(message.fds[0], policy, self._segments)

    def _may_reach(self, network: str | None, address: str) -> bool:
        reachable, left = set(), [network]
        while left:
            each = left.pop()
            if each is not None and each not in reachable:
                reachable.add(each)
                left += self._parents.get(each, [])
        return any(
            container.address == address and container.network in reachable
            for container in list(self._containers.values())
        )

    def _name_server(self, address: str) -> NameServer:
        if self._names is None:
            block = address.rpartition(".")[0]
            self._names = NameServer(f"{block}.1", self._look_up, self._forwards)
        return self._names

    def _look_up(self, client: str, name: str) -> str | None:
        """Return the address of a name as the container with the address `client` knows it."""
        asking = self._at(client)
        if asking is None:
            return None
        if name == HOST_NAME and asking.fields["gateway"]:
            return str(asking.fields["gateway"])
        for container in list(self._containers.values()):
            if name in container.fields["names"] and self._may_reach(
                asking.network, container.address
            ):
                return container.address
        return None

    def _forwards(self, client: str) -> bool:
        asking = self._at(client)
        return asking is not None and asking.fields["egress"]

    def _at(self, address: str) -> _Container | None:
        containers = list(self._containers.values())
        return next((each for each in containers if each.address == address), None)

    def _drop(self, fields: dict[str, Any]) -> None:
        container = self._containers.pop(fields["key"], None)
        refused = 0
        if container is not None:
            if self._by_fd.pop(container.listening.fileno(), None) is not None:  # it never began
                self._poll.unregister(container.listening)
            container.listening.close()
        if container is not None and container.traps is not None:
            remove_segments(container.traps.creators, container.began_s)
            refused = container.traps.refused
        wire.send(self._engine, {"dropped": fields["key"], "refused": refused})


def main() -> None:
    """Run a supervisor; descriptor 3 is the channel to the engine's process, its parent."""
    set_name("containers:sup")
    since_s = time.time()
    engine = socket.socket(fileno=3)
    engine.set_inheritable(False)
    parent = os.pidfd_open(int(sys.argv[2]))
    folders: list[str] = sys.argv[3:]
    become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ours, theirs = wire.pair()
    myself = os.pidfd_open(os.getpid())
    guardian = os.fork()
    if guardian == 0:
        try:
            engine.close()
            ours.close()
            os.close(parent)
            run_guardian(theirs, myself, folders, since_s)
        except BaseException as error:  # noqa: BLE001 - the last frame of a process
            os.write(2, f"its guardian has failed: {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(myself)
    theirs.close()
    watch = os.pidfd_open(guardian)
    supervisor = Supervisor(engine, ours, folders)
    wire.send(engine, {"started": [os.getpid(), guardian]})
    supervisor.serve(parent, watch)
    supervisor.end_containers()
    await_end(but=[guardian])
    kill_descendants(os.getpid(), but=[guardian])
    kill_descendants(os.getpid())
    reap()
    remove_segments_of(Path(folders[0]), since_s)
    remove_folders(folders)
