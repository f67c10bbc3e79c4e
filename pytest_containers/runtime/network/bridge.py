"""A network of containers and its ports; `networks` makes, hands out and resets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.runtime.network.addresses import Pool, block_addresses
from pytest_containers.runtime.wire.tasks import Future


class BridgePort(NamedTuple):
    """A network namespace with a link to a bridge. It is used once.

    Attributes:
        netns_fd: The namespace.
        low: Lower 16 bits of its IPv4 address.
    """

    netns_fd: int
    low: int
    ip: str
    ip6: str
    network: Bridge


class Bridge:
    """A network: a bridge in the run's namespace, with its addresses and ports.

    `Networks` has its states and moves it from one to the next.

    Attributes:
        number: Its own number, and that of its IPv6 prefix.
        gateway4, gateway6: The run's addresses in it.
        blocks: Numbers of its blocks of IPv4 addresses.
        ready: Ports to be taken.
        waiting: Tasks that wait for a port, first come, first served.
        making: The number of ports on their way.
        growth: Done once another block is there; None if none is fetched.
        linked: Networks that it reaches and that reach it: parents, their parents, children.
    """

    def __init__(
        self, number: int, gateway4: str, gateway6: str, parents: Sequence[Bridge] = ()
    ) -> None:
        self.number = number
        self.gateway4 = gateway4
        self.gateway6 = gateway6
        self.blocks: list[int] = [number]
        self.parents: tuple[Bridge, ...] = tuple(parents)
        self.linked: set[Bridge] = set()
        self.addresses: Pool = Pool(block_addresses(number))
        self.ready: deque[BridgePort] = deque()
        self.waiting: deque[Future[BridgePort]] = deque()
        self.making = 0
        self.preparing = False
        self.taken = 0
        self.growth: Future[None] | None = None
        self.removed = False

    def ancestors(self) -> list[Bridge]:
        """Return its parents, their parents and so on; those that are still there."""
        ancestors: list[Bridge] = []
        candidates = list(self.parents)
        while candidates:
            candidate = candidates.pop(0)
            if candidate not in ancestors and not candidate.removed:
                ancestors.append(candidate)
                candidates.extend(candidate.parents)
        return ancestors
