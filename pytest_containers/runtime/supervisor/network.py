"""Networks as sessions know them: their containers, and the names that are found from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_containers.runtime.network.bridge import Bridge
from pytest_containers.runtime.supervisor import etc_files
from pytest_containers.runtime.supervisor.resolved_spec import ResolvedSpec


class NetworkMember(Protocol):
    """A container as its network sees it.

    Attributes:
        name: How it is called; unique in the network.
        hosts: Its hosts file, while it is needed.
    """

    name: str
    hosts: etc_files.Hosts | None

    @property
    def entry(self) -> etc_files.HostsEntry:
        """Its line in the hosts files."""


class RunNetwork:
    """A network as sessions know it.

    States: in use; quiet, when it has no container any more, not even one that is being removed;
    removed. `Server.remove_network` moves it on, and waits until it is quiet: a bridge that is
    reset under a dying container could be another network's.

    Attributes:
        parents: Networks whose containers are found by name from this one.
        containers: In order of their start, with their lines of a hosts file.
        hosts: All these lines.
        dying: The number of containers that have left and are not gone yet.
        when_quiet: Called when the last of them is gone.
        host_lines: The lines of the host itself.
    """

    def __init__(self, number: str, network: Bridge, parents: Sequence[RunNetwork]) -> None:
        self.id = number
        self.network = network
        self.parents: tuple[RunNetwork, ...] = tuple(parents)
        self.children: list[RunNetwork] = []
        self.containers: dict[NetworkMember, bytes] = {}
        self.hosts: bytes = b""
        self.dying: int = 0
        self.when_quiet: Callable[[], None] | None = None
        host = etc_files.HostsEntry(network.gateway4, network.gateway6, etc_files.HOST_NAMES)
        self.host_lines: bytes = host.lines
        for parent in parents:
            parent.children.append(self)

    def add(self, container: NetworkMember) -> None:
        """Let a container join."""
        lines = container.entry.lines
        self.containers[container] = lines
        self.hosts += lines

    def remove(self, container: NetworkMember) -> None:
        """Let a container leave."""
        del self.containers[container]
        self.hosts = b"".join(self.containers.values())

    def gone(self) -> None:
        """Count a container that was `dying` and is gone."""
        self.dying -= 1
        if not self.dying and self.when_quiet is not None:
            self.when_quiet()

    def names(self, own: bytes) -> bytes:
        """Return the lines of all others that a container here finds by name, near before far.

        Args:
            own: The lines of the container itself.
        """
        others = (b"\n" + self.hosts).replace(b"\n" + own, b"\n", 1)[1:]
        return b"".join([others, *(ancestor.hosts for ancestor in self.ancestors())])

    def detach(self) -> None:
        """Remove it from its parents."""
        for parent in self.parents:
            if self in parent.children:
                parent.children.remove(self)

    def ancestors(self) -> list[RunNetwork]:
        """Parents, their parents and so on, near before far."""
        return _closure(self, lambda network: network.parents)

    def descendants(self) -> list[RunNetwork]:
        """Networks that find this one's containers by name."""
        return _closure(self, lambda network: network.children)


def write_etc_files(
    scratch_fd: int, spec: ResolvedSpec, entry: etc_files.HostsEntry, network: RunNetwork | None
) -> etc_files.Hosts:
    """Write the files below /etc of a container in a network, or in none.

    Args:
        scratch_fd: The container's scratch.
        spec: Its spec.
        entry: Its own entry in the hosts files.
        network: Its network.

    Returns:
        Its hosts file, to be updated when others join the network.
    """
    request, own_lines = spec.request, entry.lines
    gateway = "" if network is None else network.network.gateway4
    resolv = request.resolv or etc_files.resolv(gateway)
    etc_files.write_constant(scratch_fd, spec.hostname, resolv)
    host_lines = b"" if network is None else network.host_lines
    others = b"" if network is None else network.names(own_lines)
    first = own_lines + host_lines + request.hosts.encode()
    return etc_files.Hosts(scratch_fd, first, others)


def _closure(
    start: RunNetwork, neighbours: Callable[[RunNetwork], Sequence[RunNetwork]]
) -> list[RunNetwork]:
    reached: list[RunNetwork] = []
    candidates = list(neighbours(start))
    while candidates:
        network = candidates.pop(0)
        if network not in reached:
            reached.append(network)
            candidates.extend(neighbours(network))
    return reached
