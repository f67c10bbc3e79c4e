"""Networks as clients know them: who is in one, and whose names are found from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_containers.runtime.network.networks import Network
from pytest_containers.runtime.supervisor import names

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.container import Container


class RunNetwork:
    """A network as clients know it.

    Attributes:
        parents: Networks whose containers are found by name from this one.
        containers: In order of their start, with their lines of a hosts file.
        hosts: All these lines.
        dying: How many containers have left and are not gone yet.
        when_quiet: Called when the last of them is gone.
        host_lines: Those of the host itself.
    """

    def __init__(self, number: str, network: Network, parents: Sequence[RunNetwork]) -> None:
        self.id = number
        self.network = network
        self.parents: tuple[RunNetwork, ...] = tuple(parents)
        self.children: list[RunNetwork] = []
        self.containers: dict[Container, bytes] = {}
        self.hosts: bytes = b""
        self.dying: int = 0
        self.when_quiet: Callable[[], None] | None = None
        host = names.Entry(network.gateway4, network.gateway6, names.HOST_NAMES)
        self.host_lines: bytes = host.text
        for parent in parents:
            parent.children.append(self)

    def add(self, container: Container) -> None:
        """A container joined."""
        text = container.entry.text
        self.containers[container] = text
        self.hosts += text

    def remove(self, container: Container) -> None:
        """A container left."""
        del self.containers[container]
        self.hosts = b"".join(self.containers.values())

    def gone(self) -> None:
        """One of those that died is gone."""
        self.dying -= 1
        if not self.dying and self.when_quiet is not None:
            self.when_quiet()

    def names(self) -> bytes:
        """The lines of all who are found by name from here, near before far."""
        return b"".join([self.hosts, *(one.hosts for one in self.ancestors())])

    def detach(self) -> None:
        """Forget it at its parents."""
        for parent in self.parents:
            if self in parent.children:
                parent.children.remove(self)

    def ancestors(self) -> list[RunNetwork]:
        """Parents, their parents and so on, near before far."""
        return _closure(self, lambda network: network.parents)

    def descendants(self) -> list[RunNetwork]:
        """Networks that find this one's containers by name."""
        return _closure(self, lambda network: network.children)


def _closure(
    start: RunNetwork, neighbours: Callable[[RunNetwork], Sequence[RunNetwork]]
) -> list[RunNetwork]:
    found: list[RunNetwork] = []
    todo = list(neighbours(start))
    while todo:
        network = todo.pop(0)
        if network not in found:
            found.append(network)
            todo.extend(neighbours(network))
    return found
