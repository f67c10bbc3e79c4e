"""Address arithmetic of a run: its addresses, and what each is for.

A run has one IPv4 prefix, ``10.x.0.0/16``, and one IPv6 prefix, a random ``fd..../48`` (RFC 4193).
The lower 16 bits of an IPv4 address ("low") name everything in it:

========================= ===================== ==============================
what                      IPv4                  IPv6
========================= ===================== ==============================
gateway of every network  10.x.0.1              prefix:N::1
network number N          10.x.0.0/26 + 64 N    prefix:N::/64
container with `low`      10.x.(low)/26         prefix:N::low
host, where there is a    10.x.255.254
link to it
========================= ===================== ==============================

N runs from 1 to 766. A network that outgrows its 62 addresses gets one of the blocks 767 to 1022
beside its own; blocks 0 and 1023 hold the gateway and the host. Hardware addresses follow from
`low`, so that a neighbour cache is never wrong about an address that was used before.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

FIRST_PREFIX, LAST_PREFIX = 64, 255
FIRST_NETWORK, LAST_NETWORK = 1, 766
FIRST_BLOCK, LAST_BLOCK = 767, 1022
BLOCK_PREFIX_LEN, BLOCK_SIZE = 26, 64
NETWORK6_PREFIX_LEN = 64
GATEWAY_LOW, HOST_LOW = 0x0001, 0xFFFE


class RunAddresses:
    """The addresses of one run.

    Args:
        octet: x of ``10.x.0.0/16``.
        global_id: The 5 random bytes of the IPv6 prefix.
    """

    def __init__(self, octet: int, global_id: bytes) -> None:
        if not 0 <= octet <= 255 or len(global_id) != 5:
            raise ValueError(f"no run prefix 10.{octet}.0.0/16 or fd{global_id.hex()}::/48")
        self.octet = octet
        self.global_id = global_id
        self._prefix6 = b"\xfd" + global_id

    @property
    def prefix(self) -> str:
        """``10.x.0.0/16``."""
        return f"10.{self.octet}.0.0/16"

    @property
    def prefix6(self) -> str:
        """The IPv6 prefix, a /48."""
        return f"{socket.inet_ntop(socket.AF_INET6, self._prefix6 + bytes(10))}/48"

    def packed6(self, network: int, low: int) -> bytes:
        """Return the 16 bytes of an IPv6 address; `low` 0 is the network itself."""
        return self._prefix6 + network.to_bytes(2, "big") + low.to_bytes(8, "big")

    def ip4(self, low: int) -> str:
        """Return an IPv4 address as text."""
        return f"10.{self.octet}.{low >> 8}.{low & 255}"

    def ip6(self, network: int, low: int) -> str:
        """Return an IPv6 address as text."""
        return socket.inet_ntop(socket.AF_INET6, self.packed6(network, low))

    def mac(self, low: int, *, near: bool = False) -> bytes:
        """Return the hardware address that goes with an IPv4 address.

        Args:
            low: Of the IPv4 address.
            near: For the end of the cable in the run's own namespace.
        """
        # 02 and 06: locally administered; "pc".
        return bytes((6 if near else 2, 0x70, 0x63, self.octet)) + low.to_bytes(2, "big")


class Facts(NamedTuple):
    """The addresses of the run's network, and its reach.

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


def mac_text(mac: bytes) -> str:
    """``02:70:63:...``."""
    return mac.hex(":")


def block_start(number: int) -> int:
    """`low` of the first address of a block, which names the block and is not used."""
    return number * BLOCK_SIZE


def block_addresses(number: int) -> range:
    """`low` of every address of the block that a container may have."""
    start = block_start(number)
    return range(start + 1, start + BLOCK_SIZE - 1)


class Pool:
    """Numbers to hand out: fresh ones first, then the ones returned longest ago."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._free = deque(numbers)

    def __len__(self) -> int:
        return len(self._free)

    def add(self, numbers: Iterable[int]) -> None:
        """Make numbers available, after all that are."""
        self._free.extend(numbers)

    def take(self) -> int:
        """Take a number that is not in use.

        Raises:
            LookupError: All are taken.
        """
        if not self._free:
            raise LookupError("all numbers are taken")
        return self._free.popleft()


def free_prefixes(taken: Iterable[tuple[int, int]], start: int) -> Iterator[int]:
    """Values of x for which ``10.x.0.0/16`` may be used, best first.

    Args:
        taken: ``(address as a number, prefix length)`` of every route and address of the host.
        start: Where in the range to begin (any number): two runs that begin at random rarely meet.

    Yields:
        First every x that nothing overlaps; then, for hosts that send all of ``10.0.0.0/8``
        somewhere, every x that nothing longer than a /8 overlaps. A default route takes nothing.
    """
    count = LAST_PREFIX - FIRST_PREFIX + 1
    candidates = [FIRST_PREFIX + (start + step) % count for step in range(count)]
    prefixes = [(address, length) for address, length in taken if length > 0]
    clear = [x for x in candidates if not _overlapped(x, prefixes)]
    yield from clear
    specific = [(address, length) for address, length in prefixes if length > 8]
    for x in candidates:
        if x not in clear and not _overlapped(x, specific):
            yield x


def _overlapped(x: int, prefixes: list[tuple[int, int]]) -> bool:
    ours = 10 << 24 | x << 16
    for address, length in prefixes:
        shift = 32 - min(length, 16)
        if address >> shift == ours >> shift:
            return True
    return False
