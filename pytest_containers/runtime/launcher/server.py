"""The launcher while the run lives: it serves the supervisor."""

from __future__ import annotations

import os
import socket

from pytest_containers.linux import cgroups, process
from pytest_containers.linux.descriptors import OwnedDescriptors, raise_descriptor_limit
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.launcher.cgroups import Cgroups, exposed
from pytest_containers.runtime.launcher.door import Door
from pytest_containers.runtime.launcher.egress import Egress
from pytest_containers.runtime.launcher.jobs import Jobs
from pytest_containers.runtime.launcher.scratch import Scratch
from pytest_containers.runtime.launcher.trees import open_host_tree
from pytest_containers.runtime.network.endpoint import EndpointForwarder
from pytest_containers.runtime.network.forward import Forwards
from pytest_containers.runtime.network.hostports import HostConnections
from pytest_containers.runtime.wire.channel import Channel, Frame
from pytest_containers.runtime.wire.dispatch import LATER, Call, Dispatcher, Later
from pytest_containers.runtime.wire.faults import Fault, FaultError, from_os_error
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.operations.containers import OpenEndpoint, RefusedCount
from pytest_containers.runtime.wire.operations.inside import Admit, Dial, RenewCgroupNamespace
from pytest_containers.runtime.wire.operations.job import JobResult
from pytest_containers.runtime.wire.operations.run import StartRun
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Future

_GRACE_S = 5.0
"""How long after its time a supervisor that should have ended by itself is killed."""

OPERATIONS: Dispatcher[Launcher] = Dispatcher("{} on the host")
"""The operations that the launcher serves for the supervisor."""


class Launcher:
    """The launcher's half of the link to the supervisor; it serves `operations.host`."""

    def __init__(
        self,
        link: Channel,
        pid: int,
        pidfd: int,
        controller_fd: int,
        identity: Identity,
        request: StartRun,
    ) -> None:
        self.userns_fd: int = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        self._pidfd = pidfd
        self._controller_fd = controller_fd
        self._identity = identity
        self._request = request
        self._loop = Loop()
        self.trees: list[cgroups.Hierarchy] = cgroups.hierarchies()
        self._cgroups = Cgroups(
            self._loop, pid, pidfd, identity, self.trees, request.max_memory_bytes
        )  # fmt: skip
        self._endpoints: dict[str, EndpointForwarder] = {}
        self._kept: list[Channel] = []
        self._door: Door | None = None
        self._link = link

    @property
    def memory_bytes(self) -> int | None:
        """The memory that the containers may use together, if that is limited."""
        limits = (cgroups.memory_limit_bytes(self.trees), self._request.max_memory_bytes)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def cgroups_for_all(self) -> bool:
        """True if also a container without limits needs a cgroup of its own.

        Container root could write to that of the caller, or all share a limit.
        """
        limited = self._request.max_memory_bytes is not None
        return limited or bool(exposed(self._identity, self.trees))

    def keep(self, channel: Channel) -> None:
        """Hold `channel` open for as long as the launcher lives."""
        self._kept.append(channel)

    def run(self) -> None:
        """Serve until the test process or the supervisor has ended, then kill what is left."""
        OPERATIONS.fail_in(self._request.fail_in)
        loop = self._loop
        self._supervisor = Peer(loop, self._link, self._handle, loop.stop)
        self._forwards = Forwards(loop, self._dial)
        self._host_connections = HostConnections(loop, raise_descriptor_limit())
        self._jobs = Jobs(loop, self.userns_fd, self._identity, self._request.fail_in)
        self._egress = Egress(loop, self.userns_fd)
        self._scratch = Scratch(self._request.home, self._jobs, self._identity)
        loop.add_reader(self._pidfd, loop.stop)
        loop.add_reader(self._controller_fd, loop.stop)
        try:
            loop.run()
        finally:
            process.pidfd_kill(self._pidfd, 9)
            if self._door is not None:
                self._door.close()
            self._cgroups.close()

    def _handle(self, peer: Peer, frame: Frame) -> None:
        OPERATIONS.dispatch(self, peer, frame)

    @OPERATIONS.handles(host.OpenTrees)
    def _open_trees(self, op: host.OpenTrees, call: Call[host.OpenedTrees]) -> Later:
        with OwnedDescriptors() as opened:
            trees = [open_host_tree(tree, self.userns_fd, opened.fds) for tree in op.trees]
            call.answer(host.OpenedTrees(trees=trees, mounts=opened.fds))
        return LATER

    @OPERATIONS.handles(host.StartJob)
    def _start_job(self, op: host.StartJob, call: Call[JobResult]) -> Later:
        def done(result: JobResult | Fault) -> None:
            if isinstance(result, Fault):
                call.refuse(result)
            else:
                call.answer(result)

        self._jobs.start(op, done)
        return LATER

    @OPERATIONS.handles(host.MakeScratch)
    def _make_scratch(self, op: host.MakeScratch, call: Call[host.ScratchDirectory]) -> Later:
        try:
            path, fd = self._scratch.make()
        except OSError as error:
            fault = from_os_error("StartError", "make a writable layer on disk", error)
            message = f"{fault.message}; set PYTEST_CONTAINERS_HOME to another place"
            raise FaultError.of(fault._replace(message=message)) from None
        fds = [fd] if fd >= 0 else []
        try:
            call.answer(host.ScratchDirectory(path=path, mount=fds))
        finally:
            close_all(fds)
        return LATER

    @OPERATIONS.handles(host.RemoveScratch)
    def _remove_scratch(self, op: host.RemoveScratch, call: Call[None]) -> Later:
        self._scratch.remove(op.path, lambda result: call.answer(None))
        return LATER

    @OPERATIONS.handles(host.MakeCgroup)
    async def _make_cgroup(self, op: host.MakeCgroup, call: Call[host.CgroupFiles]) -> Later:
        def renew_namespace() -> Future[None]:
            return self._supervisor.request(RenewCgroupNamespace())

        cgroup = await self._cgroups.make(op.key, op.resources, renew_namespace)
        try:
            call.answer(cgroup)
        finally:
            close_all(cgroup.files)
        return LATER

    @OPERATIONS.handles(host.RemoveCgroups)
    def _remove_cgroups(self, op: host.RemoveCgroups, call: Call[None]) -> None:
        self._cgroups.remove(*op.keys)

    async def _dial(self, protocol: str, ip: str, port: int) -> socket.socket:
        answer = await self._supervisor.request(Dial(protocol=protocol, ip=ip, port=port))
        return socket.socket(fileno=answer.socket)

    @OPERATIONS.handles(host.Forward)
    def _forward(self, op: host.Forward, call: Call[host.ForwardedPorts]) -> host.ForwardedPorts:
        ports = self._forwards.open(op.key, op.ip, op.ports, op.label)
        return host.ForwardedPorts(ports=ports)

    @OPERATIONS.handles(host.StopForwarding)
    def _stop_forwarding(self, op: host.StopForwarding, call: Call[None]) -> None:
        self._forwards.close(op.key)

    @OPERATIONS.handles(OpenEndpoint)
    def _open_endpoint(self, op: OpenEndpoint, call: Call[None]) -> None:
        if op.bound:
            sock = socket.socket(fileno=op.bound[0])
        else:
            sock = self._forwards.listen("tcp", op.port, op.label)
        self._endpoints[op.key] = EndpointForwarder(self._loop, sock, self._dial)

    @OPERATIONS.handles(host.RouteEndpoint)
    def _route_endpoint(self, op: host.RouteEndpoint, call: Call[RefusedCount]) -> RefusedCount:
        target = (op.ip, op.port) if op.ip else None
        return RefusedCount(count=self._endpoints[op.key].lead_to(target))

    @OPERATIONS.handles(host.CloseEndpoints)
    def _close_endpoints(self, op: host.CloseEndpoints, call: Call[None]) -> None:
        for key in op.keys:
            endpoint = self._endpoints.pop(key, None)
            if endpoint is not None:
                endpoint.close()

    @OPERATIONS.handles(host.StartEgress)
    def _start_egress(self, op: host.StartEgress, call: Call[host.EgressStarted]) -> Later:
        try:
            started = self._egress.start(op.program, op.netns, op.alive)
        except OSError as error:
            raise FaultError.of(from_os_error("StartError", "start of a way out", error)) from None
        finally:
            os.close(op.netns)
        try:
            call.answer(started)
        finally:
            close_all([started.pidfd, started.words])
        return LATER

    @OPERATIONS.handles(host.ConnectHost)
    def _connect_host(self, op: host.ConnectHost, call: Call[None]) -> None:
        self._host_connections.connect(socket.socket(fileno=op.socket), op.port)

    @OPERATIONS.handles(host.Outlive)
    def _outlive(self, op: host.Outlive, call: Call[None]) -> None:
        self._door = Door(
            self._loop, socket.socket(fileno=op.listener), op.directory, op.name, self._admit
        )
        process.prctl(process.PR_SET_PDEATHSIG, 0)
        # Had it ended before, its pidfd would be readable.
        self._loop.remove_reader(self._controller_fd)
        self._loop.add_reader(self._controller_fd, lambda: self._controller_ended(op.keep_s))

    def _admit(self, sock: int, pidfd: int) -> None:
        self._supervisor.request(Admit(socket=sock, pidfd=pidfd))

    def _controller_ended(self, keep_s: float) -> None:
        """Leave the end to the supervisor; should it hang, end it when its time is over."""
        self._loop.remove_reader(self._controller_fd)
        self._loop.call_later(keep_s + _GRACE_S, self._loop.stop)
