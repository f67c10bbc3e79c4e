"""The run's state, and who it belongs to."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from pytest_containers.linux.reaper import open_reaper
from pytest_containers.runtime.channel import Channel, Frame
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault, FaultError, fault
from pytest_containers.runtime.network.dial import dial
from pytest_containers.runtime.network.hostports import HostPorts
from pytest_containers.runtime.network.listening import Listening
from pytest_containers.runtime.network.networks import Facts, Networks
from pytest_containers.runtime.peer import Peer
from pytest_containers.runtime.plan.credentials import Machine
from pytest_containers.runtime.supervisor.client import Client
from pytest_containers.runtime.supervisor.container import Container
from pytest_containers.runtime.supervisor.images import Trees
from pytest_containers.runtime.supervisor.network import RunNetwork
from pytest_containers.runtime.supervisor.plans import Plans, look_around
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.rootfs import Stock
from pytest_containers.runtime.supervisor.shares import Shares

_CROWD, _CROWD_PAUSE_S = 50, 0.02


class Server:
    """What the supervisor's parts share.

    Attributes:
        containers, networks_by_id: Of all clients, by id.
        controller: The client that owns the run.
    """

    def __init__(
        self,
        loop: Loop,
        root: RunRoot,
        identity: Identity,
        runner: str,
        launcher: Channel,
        networks: Channel,
    ) -> None:
        self.loop = loop
        self.root = root
        self.identity = identity
        self.runner = runner
        self.machine: Machine = look_around(root.features, identity)
        self.plans: Plans = Plans(self.machine)
        self.null_fd: int = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.reaper_fd: int = open_reaper()
        self.pid_ns: int = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.net_ns: int = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.launcher: Peer = Peer(loop, launcher, self._from_launcher, loop.stop)
        self.networks: Networks = Networks(loop, networks, self._helper_lost)
        self.trees: Trees = Trees(root, identity, self.launcher)
        self.stock: Stock = Stock(root, loop)
        self.listening: Listening = Listening(loop)
        self.host_ports: HostPorts | None = None
        self.facts: Facts | None = None
        self.containers: dict[str, Container] = {}
        self.networks_by_id: dict[str, RunNetwork] = {}
        self.shares: Shares = Shares()
        self._clients: set[Client] = set()
        self._untold: dict[str, RunNetwork] = {}
        self._count = 0

    # --------------------------------------------------------------- clients

    def add_controller(self, channel: Channel, pidfd: int) -> None:
        """The test process that owns the run: its end is the end."""
        client = Client(self, channel, pidfd, self.loop.stop)
        self.controller: Client = client
        self._clients.add(client)

        def ready(facts: Facts | Fault) -> None:
            if isinstance(facts, Fault):
                client.peer.refuse(0, facts)
                return
            self.facts = facts
            self.host_ports = HostPorts(self.loop, facts, self._connect_host)
            client.peer.answer(0, self._describe(facts))

        if self.machine.host_network:
            ready(Facts(0, "", "", False, "its containers are in the host's network", ""))
        else:
            self.networks.when_ready(ready)

    def add_client(self, sock: socket.socket, pidfd: int) -> None:
        """Another test process (a worker); it loses its containers with its end."""
        client = Client(self, Channel(sock), pidfd, lambda: self._clients.discard(client))
        self._clients.add(client)
        assert self.facts is not None
        client.peer.answer(0, self._describe(self.facts))

    def _describe(self, facts: Facts) -> dict[str, Any]:
        return {
            "identity": self.identity.mode,
            "identity_reason": self.identity.reason,
            "id_map_class": self.identity.id_map_class,
            "runner": self.runner,
            "connected": facts.connected,
            "connected_reason": facts.reason,
            "features": self.root.features._asdict(),
        }

    def new_id(self) -> str:
        """A short id, unique in the run."""
        self._count += 1
        return f"{os.urandom(4).hex()}{self._count:04x}"

    def _helper_lost(self) -> None:
        """Without networks no test can go on: better a clear end than tests that hang."""
        sys.stderr.write("the network helper has ended\n")
        self.loop.stop()

    # ---------------------------------------------------------------- names

    def joined(self, container: Container, network: RunNetwork) -> None:
        """A container came: the others learn its name, as soon as there is time."""
        network.add(container)
        self._tell_names(network)

    def left(self, container: Container) -> None:
        """A container went."""
        network = container.network
        if network is not None and container in network.containers:
            network.remove(container)
            self._tell_names(network)

    def _tell_names(self, network: RunNetwork) -> None:
        if not self._untold:
            # In a crowd it costs milliseconds: there, several that come at once are told together.
            crowded = len(network.containers) > _CROWD
            self.loop.call_later(_CROWD_PAUSE_S if crowded else 0, self._write_names)
        for one in (network, *network.descendants()):
            self._untold[one.id] = one

    def _write_names(self) -> None:
        untold, self._untold = self._untold, {}
        for network in untold.values():
            others = network.names()
            for container in network.containers:
                if container.hosts is not None:
                    container.hosts.update(others)

    def exited(self, container: Container) -> None:
        """A container's program has ended."""

    def netns_of(self, container: Container) -> int:
        """The network namespace of a container; of one without network it is its process's.

        Raises:
            FaultError: It has none and is not running.
        """
        if container.port is not None:
            return container.port.netns_fd
        return container.own_netns()

    def remove_disk(self, path: str) -> None:
        """Delete a writable layer on disk."""
        self.launcher.request({"op": "scratch_remove", "path": path}, lambda frame: None)

    def close_ports(self, container: Container, closed: Callable[[], None]) -> None:
        """Stop forwarding to a container, and from it to the host; calls `closed` at the end."""
        if self.host_ports is not None and container.network is not None:
            for port in container.host_ports:
                self.host_ports.withdraw(port, container.network.network)
            container.host_ports = ()
        if not container.forwards:
            closed()
            return
        keys, container.forwards = container.forwards, []
        self.launcher.request({"op": "unforward", "keys": keys}, lambda frame: closed())

    # ------------------------------------------------------------- launcher

    def _from_launcher(self, peer: Peer, frame: Frame) -> None:
        body = frame.body
        number = body["id"]
        if body["op"] != "dial":
            peer.refuse(number, fault("ContainersError", f"no operation {body['op']!r}"))
            return

        def done(result: socket.socket | Fault) -> None:
            if isinstance(result, Fault):
                peer.refuse(number, result)
                return
            with result:
                peer.answer(number, None, [result.fileno()])

        dial(self.loop, body["protocol"], body["ip"], body["port"], 10.0, done)

    def _connect_host(self, sock: socket.socket, port: int) -> None:
        with sock:
            self.launcher.request(
                {"op": "host_connect", "port": port}, lambda frame: None, [sock.fileno()]
            )

    def require(self, container_id: str) -> Container:
        """A container by id.

        Raises:
            FaultError: There is none.
        """
        try:
            return self.containers[container_id]
        except KeyError:
            raise FaultError("NotRunningError", f"container {container_id} was removed") from None
