"""Networks and ports as the supervisor has them: made ahead of need, used once.

The helper makes them, beside everything else that happens; here are the few that wait to be
taken, the numbers, and what was used and is to be thrown away when there is nothing else to do.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from pytest_containers.runtime.network.addresses import (
    FIRST_BLOCK,
    FIRST_NETWORK,
    GATEWAY_LOW,
    LAST_BLOCK,
    LAST_NETWORK,
    Facts,
    Pool,
    RunAddresses,
    block_addresses,
)
from pytest_containers.runtime.network.bridge import Bridge, BridgePort
from pytest_containers.runtime.wire.channel import Channel, Frame
from pytest_containers.runtime.wire.dispatch import LATER, Call, Dispatcher, Later
from pytest_containers.runtime.wire.faults import FaultError, received
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.networks import (
    AddBlock,
    LinkNetworks,
    MakeNetwork,
    MakePort,
    NetworksFailed,
    NetworksReady,
    ResetNetworks,
)
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Cancelled, Future, run_task

REPORTS: Dispatcher[Networks] = Dispatcher()
"""What the supervisor does with the network helper's reports."""

_READY_NETWORKS, _FEW_NETWORKS = 3, 8
_IDLE_S = 0.05
_SPARE_AFTER_S = 0.003
_MANY_DEAD, _FEW_DEAD = 64, 2
_TRIES = 4
_T = TypeVar("_T")


class Networks:
    """All networks of a run.

    A network is *ready* (made, with one port, in `_ready`), then *taken* by `create`, then *dead*
    (`remove`; in `_dead_networks`), and its number is free again once the helper has emptied its
    bridge. A port is made, then *ready* in its network, *taken* by `take_port`, and *dead*
    (`release_port`) until its namespace is closed in a pause.

    Invariants, whenever a task may run:

    - A number or an address is in its pool, or belongs to one network or port that is on its way,
      ready, taken or dead. A number is free again once the helper has reset its bridge: before, a
      new network would inherit ports and rules. What cannot be reset is never used again.
    - Tasks that wait (`_waiting`, `Bridge.waiting`) are served in the order in which they asked,
      and as many networks or ports are on their way as tasks wait.
    - The helper works in the order of its requests, so that a request for a removed network is
      over before its reset. Nothing is asked for a removed network after that.
    - Counters are right before a future is set, since that runs its task.

    There are no locks: nothing else runs between two awaits, but after each of them a network may
    have been removed.

    Args:
        loop: Runs it.
        channel: To the helper.
        lost: Called when the helper has ended: there will be no more networks.

    Attributes:
        facts: Done once the run's network is set up, or cannot be.
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
        self.facts: Future[Facts] = Future()
        self._ready: deque[Bridge] = deque()
        self._waiting: deque[Future[Bridge]] = deque()
        self._making = 0
        self._refilling = False
        self._dead_ports: list[BridgePort] = []
        self._dead_networks: list[Bridge] = []
        self._cleaning = False
        self._last_use = 0

    # ------------------------------------------------------------------- run

    def _from_helper(self, peer: Peer, frame: Frame) -> None:
        REPORTS.dispatch(self, peer, frame)

    @REPORTS.handles(NetworksFailed)
    def _failed(self, report: NetworksFailed, call: Call[None]) -> Later:
        self.facts.fail(FaultError.of(received(report.error)))
        return LATER

    @REPORTS.handles(NetworksReady)
    def _are_ready(self, report: NetworksReady, call: Call[None]) -> Later:
        self._addresses = addresses = RunAddresses(report.octet, bytes.fromhex(report.global_id))
        self._has_ipv6 = report.ipv6
        prefix6 = addresses.prefix6 if self._has_ipv6 else ""
        self.facts.set(
            Facts(
                report.octet,
                addresses.prefix,
                prefix6,
                report.connected,
                report.reason,
                addresses.ip4(GATEWAY_LOW),
            )
        )
        self._refill()
        return LATER

    def _lost(self) -> None:
        lost = _helper_lost()
        if not self.facts.done:
            self.facts.fail(lost)
        elif self._addresses is not None:
            self.facts = Future()
            self.facts.fail(lost)
        self._addresses = None
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            future.fail(lost)
        self._on_lost()

    # -------------------------------------------------------------- networks

    async def create(self, parents: Sequence[Bridge]) -> Bridge:
        """Take a new network; without a wait when one is ready and there are no parents.

        Args:
            parents: Its containers reach those of these, and of their parents.

        Raises:
            FaultError: There are no more, or the helper has ended.
        """
        self._last_use += 1
        if self.facts.done:
            self.facts.result()  # raises if there are no networks
        if self._ready:
            network = self._ready.popleft()
            self._refill_later()
        else:
            place: Future[Bridge] = Future()
            self._waiting.append(place)
            self._refill()
            network = await self._served(self._waiting, place, self._ready.append)
        if parents:
            try:
                await self._link(network, parents)
            except BaseException:
                self.remove(network)
                raise
        return network

    @staticmethod
    async def _served(
        queue: deque[Future[_T]], place: Future[_T], put_back: Callable[[_T], object]
    ) -> _T:
        """Wait in a queue; a task that is cancelled leaves it, or puts back what it got."""
        try:
            return await place
        except Cancelled:
            if place in queue:
                queue.remove(place)
            elif place.done:
                put_back(place.result())
            raise

    async def _link(self, network: Bridge, parents: Sequence[Bridge]) -> None:
        network.parents = tuple(parents)
        linked = network.ancestors()
        # Before the answer: a parent that gets another block meanwhile has it linked as well.
        network.linked.update(linked)
        for parent in linked:
            parent.linked.add(network)
        await self._helper.request(
            LinkNetworks(
                child=[network.number, *network.blocks],
                parents=[[parent.number, *parent.blocks] for parent in linked],
            )
        )

    def _refill_later(self) -> None:
        """Refill after the start that has just got a network: the helper would be in its way."""
        if not self._refilling:
            self._refilling = True
            self._loop.call_at_leisure(_SPARE_AFTER_S, self._refill)

    def _refill(self) -> None:
        self._refilling = False
        if self._addresses is None:
            return
        # Counted before: what cannot be made is refused at once, and must not be tried for ever.
        missing = _READY_NETWORKS + len(self._waiting) - self._making - len(self._ready)
        for _ in range(missing):
            self._making += 1
            run_task(self._make())

    async def _make(self) -> None:
        """Make a network with its first port, for the first waiter, or to be ready."""
        try:
            network = await self._new_network()
        except FaultError as error:
            self._making -= 1
            if self._waiting:
                self._waiting.popleft().fail(error)
            return
        self._making -= 1
        if self._waiting:
            self._waiting.popleft().set(network)
        else:
            self._ready.append(network)

    async def _new_network(self) -> Bridge:
        for tries_left in reversed(range(_TRIES + 1)):
            addresses = self._addresses
            if addresses is None:  # the helper has ended meanwhile
                raise _helper_lost()
            try:
                number = (self._numbers if len(self._numbers) else self._more_numbers).take()
            except LookupError:
                raise FaultError(
                    "StartError", f"make a network: all {LAST_NETWORK} of the run are in use"
                ) from None
            network = Bridge(number, addresses.ip4(GATEWAY_LOW), self._ip6(number, GATEWAY_LOW))
            low = network.addresses.take()
            try:
                namespace = await self._helper.request(MakeNetwork(number=number, low=low))
            except FaultError as error:
                self._numbers.add([number])
                if not (_exists_already(error) and tries_left):
                    raise
            else:
                network.ready.append(self._port(network, low, namespace.netns))
                return network
        raise AssertionError("the last try raises")

    def remove(self, network: Bridge) -> None:
        """Take a network away, when there is time; idempotent."""
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

    async def take_port(self, network: Bridge) -> BridgePort:
        """Take a port of a network; without a wait when one is ready.

        Raises:
            FaultError: There are no more, the network was removed, or the helper has ended.
        """
        self._last_use += 1
        network.taken += 1
        if self.facts.done:
            self.facts.result()  # raises if there are no networks
        if network.removed:
            raise _removed()
        place: Future[BridgePort] = Future()
        if network.ready:
            place.set(network.ready.popleft())
        else:
            network.waiting.append(place)
        self._make_ports(network, 0)
        if network.taken > 2 and not network.preparing:
            # A network of many gets more: from then on one is kept ready.
            network.preparing = True
            self._loop.call_at_leisure(_SPARE_AFTER_S, lambda: self._prepare_port(network))
        return await self._served(network.waiting, place, self.release_port)

    def _prepare_port(self, network: Bridge) -> None:
        network.preparing = False
        if not network.removed:
            self._make_ports(network, 1)

    def _make_ports(self, network: Bridge, spare: int) -> None:
        missing = len(network.waiting) + spare - network.making - len(network.ready)
        for _ in range(missing):
            network.making += 1
            run_task(self._make_port(network))

    async def _make_port(self, network: Bridge) -> None:
        """Make a port, for the first waiter of its network, or to be ready there."""
        try:
            port = await self._new_port(network)
        except FaultError as error:
            network.making -= 1
            if network.waiting:
                network.waiting.popleft().fail(error)
            return
        network.making -= 1
        if network.waiting:
            network.waiting.popleft().set(port)
        elif network.removed:
            self.release_port(port)
        else:
            network.ready.append(port)

    async def _new_port(self, network: Bridge) -> BridgePort:
        for tries_left in reversed(range(_TRIES + 1)):
            while not len(network.addresses) and not network.removed:
                await self._more_addresses(network)
            if network.removed:
                raise _removed()  # its bridge may be another network's already
            low = network.addresses.take()
            try:
                namespace = await self._helper.request(MakePort(number=network.number, low=low))
            except FaultError as error:
                network.addresses.add([low])
                if not (_exists_already(error) and tries_left):
                    raise
            else:
                return self._port(network, low, namespace.netns)
        raise AssertionError("the last try raises")

    async def _more_addresses(self, network: Bridge) -> None:
        """Wait until a network has another block of addresses; the first caller fetches it."""
        if network.growth is None:
            network.growth = Future()
            run_task(self._grow(network, network.growth))
        await network.growth

    async def _grow(self, network: Bridge, growth: Future[None]) -> None:
        try:
            await self._add_block(network)
        except FaultError as error:
            network.growth = None
            growth.fail(error)
        else:
            network.growth = None
            growth.set(None)

    async def _add_block(self, network: Bridge) -> None:
        try:
            block = self._blocks.take()
        except LookupError:
            raise FaultError(
                "StartError", "join a network: all addresses of the run are in use"
            ) from None
        # Before the answer: a network that is linked meanwhile must know of it.
        network.blocks.append(block)
        linked = [other.number for other in network.linked]
        try:
            await self._helper.request(AddBlock(number=network.number, block=block, linked=linked))
        except FaultError:
            network.blocks.remove(block)
            self._blocks.add([block])
            raise
        network.addresses.add(block_addresses(block))

    def _ip6(self, number: int, low: int) -> str:
        assert self._addresses is not None
        return self._addresses.ip6(number, low) if self._has_ipv6 else ""

    def _port(self, network: Bridge, low: int, fd: int) -> BridgePort:
        assert self._addresses is not None
        return BridgePort(
            fd, low, self._addresses.ip4(low), self._ip6(network.number, low), network
        )

    def release_port(self, port: BridgePort) -> None:
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
        """Reset the bridges of removed networks for use again, rather than make more.

        At the end of the run each of them keeps the kernel busy for 17 ms, in which the next run
        cannot start.
        """
        networks, self._dead_networks = self._dead_networks, []
        if not networks:
            return

        run_task(self._reset(networks))

    async def _reset(self, networks: Sequence[Bridge]) -> None:
        try:
            await self._helper.request(
                ResetNetworks(networks=[network.blocks for network in networks])
            )
        except FaultError:
            return  # what may not be clean is not used again
        for network in networks:
            self._numbers.add([network.number])
            self._blocks.add(network.blocks[1:])


def _helper_lost() -> FaultError:
    return FaultError("RunLostError", "the run's network helper has ended")


def _removed() -> FaultError:
    return FaultError("StartError", "join a network: it was removed")


def _exists_already(error: FaultError) -> bool:
    """True if what had the number or address before is still being taken down."""
    return error.fault.data.get("errno") == errno.EEXIST
