"""Networks and ports as the supervisor has them: made ahead of need, used once.

The helper makes them, beside everything else that happens; here are the few that wait to be
taken, the numbers, and what was used and is to be thrown away when there is nothing else to do.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pytest_containers.runtime.channel import Channel, Frame
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault
from pytest_containers.runtime.network.addresses import (
    FIRST_BLOCK,
    FIRST_NETWORK,
    GATEWAY_LOW,
    LAST_BLOCK,
    LAST_NETWORK,
    Pool,
    RunAddresses,
    block_addresses,
)
from pytest_containers.runtime.peer import Peer

_READY_NETWORKS, _FEW_NETWORKS = 3, 8
_IDLE_S = 0.05
_SPARE_AFTER_S = 0.003
_MANY_DEAD, _FEW_DEAD = 64, 2
_TRIES = 4
_REMOVED = Fault("StartError", "join a network: it was removed", {})


class Facts(NamedTuple):
    """What the run's network is like.

    Attributes:
        octet: x of its ``10.x.0.0/16``.
        prefix, prefix6: Its prefixes; without IPv6 the latter is empty, as is every other
            IPv6 address.
        connected: Whether the host reaches containers by their addresses.
        reason: Why not.
        gateway4: The run's own address in every network.
    """

    octet: int
    prefix: str
    prefix6: str
    connected: bool
    reason: str
    gateway4: str


class Port(NamedTuple):
    """A network namespace with a link to a network.

    Attributes:
        netns_fd: The namespace.
        low: Lower 16 bits of its IPv4 address.
    """

    netns_fd: int
    low: int
    ip: str
    ip6: str
    network: Network


class Network:
    """A network. Made by `Networks.create`.

    Attributes:
        number: Of its bridge and its IPv6 prefix.
        gateway4, gateway6: The run's addresses in it.
        blocks: Of IPv4 addresses.
        linked: Networks that it reaches and that reach it: parents, their parents, children.
    """

    def __init__(
        self, number: int, gateway4: str, gateway6: str, parents: Sequence[Network] = ()
    ) -> None:
        self.number = number
        self.gateway4 = gateway4
        self.gateway6 = gateway6
        self.blocks: list[int] = [number]
        self.parents: tuple[Network, ...] = tuple(parents)
        self.linked: set[Network] = set()
        self.addresses: Pool = Pool(block_addresses(number))
        self.ready: deque[Port] = deque()
        self.waiting: deque[Callable[[Port | Fault], None]] = deque()
        self.making = 0
        self.preparing = False
        self.taken = 0
        self.starved = 0
        self.removed = False


class Networks:
    """All networks of a run.

    Args:
        loop: Runs it.
        channel: To the helper.
        lost: Called when the helper has ended: there will be no more networks.
    """

    def __init__(self, loop: Loop, channel: Channel, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._on_lost = lost
        self._helper = Peer(loop, channel, self._from_helper, self._lost)
        # Few at first, since each that was ever used is a bridge that lives as long as the run.
        self._numbers = Pool(range(FIRST_NETWORK, FIRST_NETWORK + _FEW_NETWORKS))
        self._more_numbers = Pool(range(FIRST_NETWORK + _FEW_NETWORKS, LAST_NETWORK + 1))
        self._blocks = Pool(range(FIRST_BLOCK, LAST_BLOCK + 1))
        self._addresses: RunAddresses | None = None
        self._has_ipv6 = False
        self._facts: Facts | Fault | None = None
        self._ready_callbacks: list[Callable[[Facts | Fault], None]] = []
        self._ready: deque[Network] = deque()
        self._wanted: deque[Callable[[Network | Fault], None]] = deque()
        self._making = 0
        self._refilling = False
        self._dead_ports: list[Port] = []
        self._dead_networks: list[Network] = []
        self._cleaning = False
        self._last_use = 0

    # ------------------------------------------------------------------- run

    def when_ready(self, done: Callable[[Facts | Fault], None]) -> None:
        """Call `done` once the run's network is set up, or cannot be."""
        if self._facts is not None:
            done(self._facts)
        else:
            self._ready_callbacks.append(done)

    def _from_helper(self, peer: Peer, frame: Frame) -> None:
        body = frame.body
        if body["op"] == "failed":
            self._tell(Fault(*body["error"]))
            return
        self._addresses = addresses = RunAddresses(body["octet"], bytes.fromhex(body["global_id"]))
        self._has_ipv6 = body["ipv6"]
        prefix6 = addresses.prefix6 if self._has_ipv6 else ""
        self._tell(
            Facts(
                body["octet"], addresses.prefix, prefix6, body["connected"],
                body["reason"], addresses.ip4(GATEWAY_LOW),
            )
        )  # fmt: skip
        self._refill()

    def _lost(self) -> None:
        if not isinstance(self._facts, Fault):
            self._tell(Fault("RunLostError", "the run's network helper has ended", {}))
        assert isinstance(self._facts, Fault)
        wanted, self._wanted = self._wanted, deque()
        for done in wanted:
            done(self._facts)
        self._on_lost()

    def _tell(self, facts: Facts | Fault) -> None:
        self._facts = facts
        callbacks, self._ready_callbacks = self._ready_callbacks, []
        for done in callbacks:
            done(facts)

    # -------------------------------------------------------------- networks

    def create(self, parents: Sequence[Network], done: Callable[[Network | Fault], None]) -> None:
        """A new network; `done` is called at once when one is ready and there are no parents.

        Args:
            parents: Its containers reach those of these, and of their parents.
        """
        self._last_use += 1

        def made(network: Network | Fault) -> None:
            if isinstance(network, Fault) or not parents:
                done(network)
            else:
                self._link(network, parents, done)

        if isinstance(self._facts, Fault):
            done(self._facts)
        elif self._ready:
            made(self._ready.popleft())
            self._refill_later()
        else:
            self._wanted.append(made)
            self._refill()

    def _link(
        self,
        network: Network,
        parents: Sequence[Network],
        done: Callable[[Network | Fault], None],
    ) -> None:
        network.parents = tuple(parents)
        linked = _ancestors(network)
        network.linked.update(linked)
        for parent in linked:
            parent.linked.add(network)
        request = {
            "op": "link",
            "child": [network.number, *network.blocks],
            "parents": [[parent.number, *parent.blocks] for parent in linked],
        }

        def answered(answer: Frame | Fault) -> None:
            if isinstance(answer, Fault):
                self.remove(network)
                done(answer)
            else:
                done(network)

        self._helper.request(request, answered)

    def _refill_later(self) -> None:
        """Whoever was given one goes on first: on a busy machine, the helper is in the way."""
        if not self._refilling:
            self._refilling = True
            self._loop.call_at_leisure(_SPARE_AFTER_S, self._refill)

    def _refill(self) -> None:
        self._refilling = False
        if self._addresses is None:
            return
        while self._making + len(self._ready) < _READY_NETWORKS + len(self._wanted):
            self._make(_TRIES)

    def _make(self, tries: int) -> None:
        addresses = self._addresses
        assert addresses is not None
        try:
            number = (self._numbers if len(self._numbers) else self._more_numbers).take()
        except LookupError:
            all_used = f"make a network: all {LAST_NETWORK} of the run are in use"
            self._give(Fault("StartError", all_used, {}))
            return
        network = Network(number, addresses.ip4(GATEWAY_LOW), self._ip6(number, GATEWAY_LOW))
        low = network.addresses.take()
        self._making += 1

        def answered(frame: Frame | Fault) -> None:
            self._making -= 1
            if isinstance(frame, Fault):
                self._numbers.add([number])
                if frame.data.get("errno") == errno.EEXIST and tries:
                    self._make(tries - 1)  # what had the number before is still being taken down
                else:
                    self._give(frame)
                return
            network.ready.append(self._port(network, low, frame.fds[0]))
            self._give(network)

        self._helper.request({"op": "network", "number": number, "low": low}, answered)

    def _give(self, network: Network | Fault) -> None:
        if self._wanted:
            self._wanted.popleft()(network)
        elif isinstance(network, Network):
            self._ready.append(network)

    def remove(self, network: Network) -> None:
        """Take a network away, when there is time."""
        if network.removed:
            return
        network.removed = True
        for other in network.linked:
            other.linked.discard(network)
        self._dead_ports.extend(network.ready)
        network.ready.clear()
        self._dead_networks.append(network)
        if len(self._dead_networks) == _FEW_DEAD:
            self._loop.call_later(_SPARE_AFTER_S, self._clean_networks)
        self._clean_later()

    # ----------------------------------------------------------------- ports

    def take_port(self, network: Network, done: Callable[[Port | Fault], None]) -> None:
        """A port of a network; `done` is called at once when one is ready."""
        self._last_use += 1
        network.taken += 1
        if isinstance(self._facts, Fault):
            done(self._facts)
            return
        if network.removed:
            done(_REMOVED)
            return
        if network.ready:
            done(network.ready.popleft())
        else:
            network.waiting.append(done)
        self._make_ports(network, 0)
        if network.taken > 2 and not network.preparing:
            # A network of many gets more: from then on one is kept ready.
            network.preparing = True
            self._loop.call_at_leisure(_SPARE_AFTER_S, lambda: self._prepare_port(network))

    def _prepare_port(self, network: Network) -> None:
        network.preparing = False
        if not network.removed:
            self._make_ports(network, 1)

    def _make_ports(self, network: Network, spare: int) -> None:
        while network.making + len(network.ready) < len(network.waiting) + spare:
            self._make_port(network, _TRIES)

    def _make_port(self, network: Network, tries: int) -> None:
        if network.removed:
            self._give_port(network, _REMOVED)  # its bridge may be another network's already
            return
        network.making += 1
        if not len(network.addresses):
            network.starved += 1
            if network.starved == 1:
                self._grow(network)
            return
        low = network.addresses.take()

        def answered(frame: Frame | Fault) -> None:
            network.making -= 1
            if isinstance(frame, Fault):
                network.addresses.add([low])
                if frame.data.get("errno") == errno.EEXIST and tries:
                    self._make_port(network, tries - 1)
                else:
                    self._give_port(network, frame)
                return
            self._give_port(network, self._port(network, low, frame.fds[0]))

        self._helper.request({"op": "port", "number": network.number, "low": low}, answered)

    def _grow(self, network: Network) -> None:
        """All addresses are taken: another block."""
        try:
            block = self._blocks.take()
        except LookupError:
            full = Fault("StartError", "join a network: all addresses of the run are in use", {})
            self._grown(network, full)
            return
        # Before the answer: a network that is linked meanwhile must know of it.
        network.blocks.append(block)

        def answered(frame: Frame | Fault) -> None:
            if isinstance(frame, Fault):
                network.blocks.remove(block)
                self._blocks.add([block])
                self._grown(network, frame)
            else:
                network.addresses.add(block_addresses(block))
                self._grown(network, None)

        linked = [other.number for other in network.linked]
        request = {"op": "block", "number": network.number, "block": block, "linked": linked}
        self._helper.request(request, answered)

    def _grown(self, network: Network, failure: Fault | None) -> None:
        """Go on with the ports that waited for addresses."""
        starved, network.starved = network.starved, 0
        network.making -= starved
        for _ in range(starved):
            if failure is None:
                self._make_port(network, _TRIES)
            else:
                self._give_port(network, failure)

    def _ip6(self, number: int, low: int) -> str:
        assert self._addresses is not None
        return self._addresses.ip6(number, low) if self._has_ipv6 else ""

    def _port(self, network: Network, low: int, fd: int) -> Port:
        assert self._addresses is not None
        return Port(fd, low, self._addresses.ip4(low), self._ip6(network.number, low), network)

    def _give_port(self, network: Network, port: Port | Fault) -> None:
        if network.waiting:
            network.waiting.popleft()(port)
        elif isinstance(port, Port):
            if network.removed:
                self.release_port(port)
            else:
                network.ready.append(port)

    def release_port(self, port: Port) -> None:
        """Throw a port away, when there is time; its address is used again, last of all."""
        self._dead_ports.append(port)
        self._clean_later()

    # --------------------------------------------------------------- cleaning

    def _clean_later(self) -> None:
        """Wait for a pause: namespaces that die make it dear to make new ones."""
        if len(self._dead_ports) >= _MANY_DEAD:
            self._clean()
        elif not self._cleaning:
            self._cleaning = True
            seen = self._last_use
            self._loop.call_later(_IDLE_S, lambda: self._clean_if_idle(seen))

    def _clean_if_idle(self, seen: int) -> None:
        self._cleaning = False
        if seen != self._last_use:
            self._clean_later()
        else:
            self._clean()

    def _clean(self) -> None:
        ports, self._dead_ports = self._dead_ports, []
        for port in ports:
            os.close(port.netns_fd)
            port.network.addresses.add([port.low])
        self._clean_networks()

    def _clean_networks(self) -> None:
        """Have the dead networks' bridges used again, rather than make more.

        At the end of the run each of them keeps the kernel busy for 17 ms, in which the next run
        cannot start.
        """
        networks, self._dead_networks = self._dead_networks, []
        if not networks:
            return

        def removed(answer: Frame | Fault) -> None:
            if isinstance(answer, Fault):
                return  # what may not be clean is not used again
            for network in networks:
                self._numbers.add([network.number])
                self._blocks.add(network.blocks[1:])

        request = {"op": "remove", "networks": [network.blocks for network in networks]}
        self._helper.request(request, removed)


def _ancestors(network: Network) -> list[Network]:
    """Parents, their parents and so on; those that are still there."""
    found: list[Network] = []
    todo = list(network.parents)
    while todo:
        one = todo.pop(0)
        if one not in found and not one.removed:
            found.append(one)
            todo.extend(one.parents)
    return found
