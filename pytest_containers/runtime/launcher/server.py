"""What the launcher does while the run lives: it serves the supervisor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from pytest_containers.linux import mount, process
from pytest_containers.runtime.channel import Channel, Frame
from pytest_containers.runtime.launcher.egress import Egress
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.launcher.jobs import Jobs
from pytest_containers.runtime.launcher.scratch import Scratch
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault, FaultError, fault, from_os_error
from pytest_containers.runtime.network.endpoint import Endpoint
from pytest_containers.runtime.network.forward import Forwards
from pytest_containers.runtime.network.hostports import connect_host
from pytest_containers.runtime.peer import Peer

Dialled = Callable[[socket.socket | Fault], None]


class Launcher:
    """The launcher's half of the link to the supervisor.

    Operations, with what their answers carry:

    ``trees``
        Mounts of the caller's directories and files; a descriptor each.
    ``job``
        A function run as root of the run's user namespace (`jobs`); its result.
    ``forward``, ``unforward``
        A port of 127.0.0.1 for one of a container; its number.
    ``endpoint``, ``endpoint_target``, ``endpoint_close``
        A fixed port of 127.0.0.1 (a bound socket) that leads to one container after the other; how
        many connections were refused meanwhile.
    ``scratch``, ``scratch_remove``
        A directory on disk for a writable layer: its path and, as root, a mount of it.
    ``egress``
        A process that connects a network namespace to other machines; a pidfd of it.
    ``host_connect``
        Join a socket that a container opened to a port of 127.0.0.1.
    """

    def __init__(
        self,
        link: Channel,
        pid: int,
        pidfd: int,
        controller_fd: int,
        identity: Identity,
        home: str,
    ) -> None:
        self.userns_fd: int = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        self._pidfd = pidfd
        self._controller_fd = controller_fd
        self._identity = identity
        self._home = home
        self._loop = Loop()
        self._endpoints: dict[str, Endpoint] = {}
        self._kept: list[Channel] = []
        self._link = link
        self._operations: dict[str, Callable[[Peer, dict[str, Any], Frame], None]] = {
            "trees": self._trees,
            "job": self._job,
            "forward": self._forward,
            "unforward": self._unforward,
            "endpoint": self._endpoint,
            "endpoint_target": self._endpoint_target,
            "endpoint_close": self._endpoint_close,
            "host_connect": self._host_connect,
            "egress": self._start_egress,
            "scratch": self._make_scratch,
            "scratch_remove": self._remove_scratch,
        }

    def keep(self, channel: Channel) -> None:
        """Hold `channel` open for as long as the launcher lives."""
        self._kept.append(channel)

    def run(self) -> None:
        """Serve until the test process or the supervisor has ended, then kill what is left."""
        loop = self._loop
        self._supervisor = Peer(loop, self._link, self._handle, loop.stop)
        self._forwards = Forwards(loop, self._dial)
        self._jobs = Jobs(loop, self.userns_fd, self._identity)
        self._egress = Egress(loop, self.userns_fd)
        self._scratch = Scratch(self._home, self._jobs, self._identity)
        loop.add_reader(self._pidfd, loop.stop)
        loop.add_reader(self._controller_fd, loop.stop)
        try:
            loop.run()
        finally:
            process.pidfd_kill(self._pidfd, 9)

    def _handle(self, peer: Peer, frame: Frame) -> None:
        number = frame.body["id"]
        try:
            self._operations[frame.body["op"]](peer, frame.body, frame)
        except FaultError as error:
            peer.refuse(number, error.fault)
        except OSError as error:
            peer.refuse(
                number, from_os_error("StartError", f"{frame.body['op']} on the host", error)
            )

    def _trees(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        fds: list[int] = []
        try:
            for path, mapped, recursive in body["trees"]:
                fds.append(self._open_tree(path, idmapped=mapped, recursive=recursive))
            kinds = [os.path.isdir(f"/proc/self/fd/{fd}") for fd in fds]
            peer.answer(body["id"], kinds, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _open_tree(self, path: str, *, idmapped: bool, recursive: bool) -> int:
        try:
            fd = mount.open_tree(path, recursive=recursive)
        except OSError as error:
            raise FaultError(
                "StartError", f"mount of {path}: {error.strerror}", path=path, errno=error.errno
            ) from None
        if idmapped:
            try:
                mount.idmap(fd, self.userns_fd)
            except OSError:
                # A file system without idmapped mounts: its files show as nobody's.
                if recursive:
                    os.close(fd)
                    return self._open_tree(path, idmapped=True, recursive=False)
        return fd

    def _job(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        number = body["id"]

        def done(result: Any) -> None:
            if isinstance(result, Fault):
                peer.refuse(number, result)
            else:
                peer.answer(number, result)

        self._jobs.start(body["function"], body["args"], frame.fds, body["search_path"], done)

    def _make_scratch(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        path, fd = self._scratch.make()
        try:
            peer.answer(body["id"], path, [fd] if fd >= 0 else [])
        finally:
            if fd >= 0:
                os.close(fd)

    def _remove_scratch(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        number = body["id"]
        self._scratch.remove(body["path"], lambda result: peer.answer(number))

    def _dial(self, protocol: str, ip: str, port: int, done: Dialled) -> None:
        def answered(frame: Frame | Fault) -> None:
            if isinstance(frame, Fault):
                done(frame)
            else:
                done(socket.socket(fileno=frame.fds[0]))

        body = {"op": "dial", "protocol": protocol, "ip": ip, "port": port}
        self._supervisor.request(body, answered)

    def _forward(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        number = body["id"]

        def done(port: int | Fault) -> None:
            if isinstance(port, Fault):
                peer.refuse(number, port)
            else:
                peer.answer(number, port)

        target = (body["ip"], body["port"])
        self._forwards.open(body["key"], body["protocol"], target, body["host_port"], done)

    def _unforward(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        for key in body["keys"]:
            self._forwards.close(key)
        peer.answer(body["id"])

    def _endpoint(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        sock = socket.socket(fileno=frame.fds[0])
        self._endpoints[body["key"]] = Endpoint(self._loop, sock, self._dial)
        peer.answer(body["id"])

    def _endpoint_target(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        target = body["target"]
        refused = self._endpoints[body["key"]].lead_to(None if target is None else tuple(target))
        peer.answer(body["id"], refused)

    def _endpoint_close(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        for key in body["keys"]:
            endpoint = self._endpoints.pop(key, None)
            if endpoint is not None:
                endpoint.close()
        peer.answer(body["id"])

    def _start_egress(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        netns_fd, alive_fd = frame.fds
        try:
            pidfd = self._egress.start(body["program"], netns_fd, alive_fd)
        finally:
            os.close(netns_fd)
        try:
            peer.answer(body["id"], None, [pidfd])
        finally:
            os.close(pidfd)

    def _host_connect(self, peer: Peer, body: dict[str, Any], frame: Frame) -> None:
        connect_host(self._loop, socket.socket(fileno=frame.fds[0]), body["port"])
        peer.answer(body["id"])


def unknown(op: str) -> Fault:
    """For an operation that is not one."""
    return fault("ContainersError", f"the launcher has no operation {op!r}")
