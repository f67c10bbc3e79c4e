"""The state of a run: its containers and networks by id, and their names for each other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

from pytest_containers.runtime.garbage import Cleaning
from pytest_containers.runtime.network.addresses import Facts
from pytest_containers.runtime.network.hostports import HostPorts
from pytest_containers.runtime.network.lookups import Lookups
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.supervisor.network import RunNetwork
from pytest_containers.runtime.supervisor.shared_containers import SharedContainers
from pytest_containers.runtime.supervisor.tools import Tools
from pytest_containers.runtime.supervisor.volumes import RunVolume
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations.host import ConnectHost, StopForwarding
from pytest_containers.runtime.wire.operations.kept import KeptFacts
from pytest_containers.runtime.wire.operations.run import RunFacts
from pytest_containers.runtime.wire.tasks import Future, run_task

_CROWD, _CROWD_PAUSE_S = 50, 0.02


class Belongings:
    """The containers, networks and volumes of a test process, by id; they end with it.

    Args:
        label: The process: ``worker gw0``; empty for the only one.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.containers: dict[str, RunContainer] = {}
        self.networks: dict[str, RunNetwork] = {}
        self.volumes: dict[str, RunVolume] = {}
        self.endpoints: set[str] = set()


class Kept(Belongings):
    """Containers and networks that stay after the test process that started them.

    States: not begun; begun, while the test process of the run lives; after its end, with the time
    when the run ends (`ends_at`, monotonic).

    Attributes:
        facts: What is known of them, and of containers that are shown only; the oldest first.
        keep_s, most: See `KeepRun`.
        in_use: The networks that a test process may start more containers in.
    """

    def __init__(self) -> None:
        super().__init__("kept")
        self.begun: bool = False
        self.keep_s: float = 0.0
        self.most: int = 0
        self.ends_at: float | None = None
        self.facts: dict[str, KeptFacts] = {}
        self.in_use: set[str] = set()


class Server:
    """The containers and networks of a run, of all its test processes.

    Attributes:
        tools: The links, stocks and descriptors of the run.
        facts, host_ports, lookups: The run's network, its ports of the host, and its name server,
            once that is set up.
        containers, networks: By id.
        shared: Containers that several test processes use.
        controller: The belongings of the test process that owns the run, and shared containers.
        kept: Containers that outlive their test process.
        sessions: The test processes that are connected.
    """

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.facts: Facts | None = None
        self.host_ports: HostPorts | None = None
        self.lookups: Lookups | None = None
        self.containers: dict[str, RunContainer] = {}
        self.networks: dict[str, RunNetwork] = {}
        self.shared: SharedContainers = SharedContainers()
        self.controller: Belongings = Belongings()
        self.kept: Kept = Kept()
        self.sessions: set[Any] = set()
        self._outdated: dict[str, RunNetwork] = {}
        self._count = 0
        self._starting = 0
        self._cleaning = Cleaning(tools.loop)

    async def set_up(self) -> RunFacts:
        """Wait for the run's network; returns the facts of the run."""
        tools = self.tools
        if tools.machine.host_network:
            facts = Facts(0, "", "", False, "its containers are in the host's network", "")
        else:
            facts = await tools.networks.facts
            self.lookups = Lookups(tools.loop, facts.gateway4)
        self.facts = facts
        self.host_ports = HostPorts(tools.loop, facts, self._connect_host)
        return self.describe()

    def describe(self) -> RunFacts:
        """Return the facts of the run, once its network is set up."""
        facts, tools = self.facts, self.tools
        assert facts is not None
        return RunFacts(
            identity=tools.identity.mode,
            identity_reason=tools.identity.reason,
            id_map_class=tools.identity.id_map_class,
            runner=tools.runner,
            connected=facts.connected,
            connected_reason=facts.reason,
            features=tools.root.features._asdict(),
        )

    def _connect_host(self, sock: socket.socket, port: int) -> None:
        with sock:
            self.tools.launcher.request(ConnectHost(port=port, socket=sock.fileno()))

    def new_id(self) -> str:
        """Return a short id, unique in the run."""
        self._count += 1
        return f"{os.urandom(4).hex()}{self._count:04x}"

    # ---------------------------------------------------------------- by id

    def require(self, container_id: str) -> RunContainer:
        """Return a container by id.

        Raises:
            FaultError: There is none.
        """
        try:
            return self.containers[container_id]
        except KeyError:
            raise FaultError("NotRunningError", f"container {container_id} was removed") from None

    def network(self, network_id: str) -> RunNetwork:
        """Return a network by id.

        Raises:
            FaultError: There is none.
        """
        try:
            return self.networks[network_id]
        except KeyError:
            raise FaultError("StartError", f"network {network_id} was removed") from None

    def netns_of(self, container: RunContainer) -> int:
        """Return the network namespace of a container; without a network, of its process.

        Raises:
            FaultError: It has none and is not running.
        """
        if container.port is not None:
            return container.port.netns_fd
        return container.own_netns()

    # ------------------------------------------------------------- containers

    @contextlib.contextmanager
    def place_for(self, doing: str) -> Iterator[None]:
        """Hold a place for a container while it is started.

        Raises:
            FaultError: There are as many as the run may have.
        """
        most = self.tools.max_containers
        if most is not None and len(self.containers) + self._starting >= most:
            raise FaultError(
                "StartError",
                f"{doing}: there are {most} containers, as many as the setting max_containers "
                "permits; remove one first, or raise it",
            )
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add_container(self, container: RunContainer, owner: Belongings) -> None:
        """Make a container known, and its name to the others of its network."""
        self.containers[container.id] = owner.containers[container.id] = container
        if container.network is not None:
            container.network.add(container)
            self._write_names_later(container.network)

    def remove_container(self, container: RunContainer, owner: Belongings) -> Future[Any]:
        """Kill a container and forget it.

        Returns:
            Done when nothing of it is left.
        """
        if container.removal is None:
            owner.containers.pop(container.id, None)
            self.containers.pop(container.id, None)
            container.removal = run_task(self._remove(container))
            self._cleaning.count()
        return container.removal.ended

    async def _remove(self, container: RunContainer) -> None:
        network = container.network
        if network is None:
            await container.remove()
            return
        if container in network.containers:
            network.remove(container)
            self._write_names_later(network)
        if self.lookups is not None and container.port is not None:
            self.lookups.forget(container.port.ip)
        network.dying += 1
        no_more_connections = self._close_ports(container, network)
        await container.remove()
        network.gone()
        if no_more_connections is not None:
            with contextlib.suppress(FaultError):  # the launcher has ended, and all ports with it
                await no_more_connections

    def _close_ports(self, container: RunContainer, network: RunNetwork) -> Future[None] | None:
        """Stop forwarding to a container, and from it to the host."""
        if self.host_ports is not None:
            for port in container.host_ports:
                self.host_ports.withdraw(port, network.network)
            container.host_ports = ()
        if not container.forwarded:
            return None
        container.forwarded = False
        return self.tools.launcher.request(StopForwarding(key=container.id))

    # --------------------------------------------------------------- networks

    def remove_network(self, network: RunNetwork) -> None:
        """Remove a network, after the last of its containers is gone."""
        if network.dying:
            network.when_quiet = lambda: self._drop_network(network)
        else:
            self._drop_network(network)

    def remove_unneeded_networks(self) -> None:
        """Remove the kept networks that have no container and no test process any more."""
        for network in list(self.kept.networks.values()):
            in_use = network.id in self.kept.in_use
            if not in_use and not any(it.containers for it in (network, *network.descendants())):
                del self.kept.networks[network.id]
                self.remove_network(network)

    def _drop_network(self, network: RunNetwork) -> None:
        network.detach()
        self.networks.pop(network.id, None)
        self.tools.networks.remove(network.network)

    def _write_names_later(self, network: RunNetwork) -> None:
        """Have hosts files written that a change in `network` concerns."""
        if not self._outdated:
            # In a crowd it costs milliseconds: several changes are written together there.
            crowded = len(network.containers) > _CROWD
            self.tools.loop.call_later(_CROWD_PAUSE_S if crowded else 0, self._write_names)
        for outdated in (network, *network.descendants()):
            self._outdated[outdated.id] = outdated

    def _write_names(self) -> None:
        networks, self._outdated = self._outdated, {}
        for network in networks.values():
            for container, own in network.containers.items():
                if container.hosts is not None:
                    with contextlib.suppress(OSError):  # it has filled its own writable layer
                        container.hosts.update(network.names(own))
