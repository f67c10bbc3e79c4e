"""The messages that are sent for every network and port, encoded once (see `messages`)."""

from __future__ import annotations

from pytest_containers.linux.netlink import prefer_localhost4
from pytest_containers.runtime.network.addresses import (
    BLOCK_PREFIX_LEN,
    GATEWAY_LOW,
    NETWORK6_PREFIX_LEN,
    RunAddresses,
    block_start,
    mac_text,
)
from pytest_containers.runtime.network.messages import AF_INET, AF_INET6, Encoder, Template

LOOPBACK, ETH0 = 1, 2
FIRST_BRIDGE, FIRST_VETH = 1 << 16, 1 << 20
ALLOW_LINKED = 200

_MARK_INDEX, _MARK_MASTER, _MARK_FD = 0x5A5A0001, 0x5A5A0002, 0x5A5A0003
_MARK_LOW, _MARK_NETWORK = 0xA5A6, 0xA5A7
_MARK_NAME = b"p#####"
_MARK_MAC = b"\x02\x70\x63\x5a\x5a\x01"


def no_mark(number: bytes) -> bytes:
    """`number` (random) without the byte that the marks of addresses begin with.

    A mark that occurs by chance would be filled in as well.
    """
    return number.replace(b"\xa5", b"\x5a")


def bridge_name(number: int) -> str:
    """Return the name of a network's bridge, as long as every other name of our links."""
    return f"n{number:05d}"


class Templates:
    """Functions that fill the templates in; each returns one or more messages, concatenated."""

    def __init__(self, encoder: Encoder, addresses: RunAddresses) -> None:
        self._addresses = addresses
        low4, gateway = addresses.ip4(_MARK_LOW), addresses.ip4(GATEWAY_LOW)
        low6 = addresses.ip6(_MARK_NETWORK, _MARK_LOW)
        gateway6 = addresses.ip6(_MARK_NETWORK, GATEWAY_LOW)
        index, low, network = _u32(_MARK_INDEX), _u16(_MARK_LOW), _u16(_MARK_NETWORK)
        name = _MARK_NAME.decode()
        self._bridge = Template(
            encoder.bridge(name, mac_text(_MARK_MAC), _MARK_INDEX),
            index=index,
            name=_MARK_NAME,
            mac=_MARK_MAC,
        )
        self._blocks = [
            Template(
                encoder.route(low4, BLOCK_PREFIX_LEN, _MARK_INDEX, source=gateway, delete=delete),
                index=index,
                low=low,
            )
            for delete in (False, True)
        ]
        self._gateway6 = Template(
            encoder.address(gateway6, NETWORK6_PREFIX_LEN, _MARK_INDEX),
            index=index,
            network=network,
        )
        self._veth = Template(
            encoder.veth(name, _MARK_INDEX, ("eth0", ETH0), _MARK_FD),
            index=index,
            fd=_u32(_MARK_FD),
            name=_MARK_NAME,
        )
        self._near_up = Template(encoder.set_up(_MARK_INDEX), index=index)
        self._attach = Template(
            encoder.set_master(_MARK_INDEX, _MARK_MASTER), index=index, master=_u32(_MARK_MASTER)
        )
        self._get_link = Template(encoder.get_link(_MARK_INDEX), index=index)
        self._detach = Template(encoder.set_master(_MARK_INDEX, 0), index=index)
        self._far_up = encoder.set_up(LOOPBACK) + encoder.set_up(ETH0)
        families = (AF_INET, AF_INET6)
        self._far_doubts = [encoder.doubt_neighbours(family, ETH0) for family in families]
        self._bridge_doubts = [
            Template(encoder.doubt_neighbours(family, _MARK_INDEX), index=index)
            for family in families
        ]
        self._inside4 = Template(
            encoder.set_address(ETH0, mac_text(_MARK_MAC))
            + encoder.address(low4, BLOCK_PREFIX_LEN, ETH0)
            + encoder.route(gateway, 32, ETH0)
            + encoder.route(addresses.ip4(0), 16, ETH0, gateway=gateway),
            low=low,
            mac=_MARK_MAC,
        )
        # Not a default route: what is elsewhere is refused here, at once and always. The error of
        # a router would come while the socket is busy connecting, and count a second later; and
        # routers limit how many errors they send.
        prefix6, length = addresses.prefix6.split("/")
        self._inside6 = Template(
            # Deprecated, so that names resolve to IPv4 first: many a client tries one address only,
            # and many a server listens on IPv4 only. Nothing else is different about it.
            encoder.address(low6, NETWORK6_PREFIX_LEN, ETH0, deprecated=True)
            + encoder.route(prefix6, int(length), ETH0, gateway=gateway6),
            low=low,
            network=network,
        )
        self._rules4 = [
            Template(
                encoder.rule(
                    AF_INET,
                    ALLOW_LINKED,
                    allow=True,
                    iif=name,
                    destination=(low4, BLOCK_PREFIX_LEN),
                    delete=delete,
                ),
                name=_MARK_NAME,
                low=low,
            )
            for delete in (False, True)
        ]
        network6 = (addresses.ip6(_MARK_NETWORK, 0), NETWORK6_PREFIX_LEN)
        self._rules6 = [
            Template(
                encoder.rule(
                    AF_INET6,
                    ALLOW_LINKED,
                    allow=True,
                    iif=name,
                    destination=network6,
                    delete=delete,
                ),
                name=_MARK_NAME,
                network=network,
            )
            for delete in (False, True)
        ]

    def bridge(self, number: int) -> bytes:
        """Make a network's bridge."""
        return self._bridge.fill(
            index=_u32(FIRST_BRIDGE + number),
            name=bridge_name(number).encode(),
            mac=self._addresses.mac(block_start(number), near=True),
        )

    def bridge_doubts(self, number: int) -> list[bytes]:
        """Notice soon that a container of a network is gone: by IPv4, and by IPv6."""
        index = _u32(FIRST_BRIDGE + number)
        return [template.fill(index=index) for template in self._bridge_doubts]

    def block(self, number: int, block: int, *, delete: bool = False) -> bytes:
        """Route a block of addresses to a network."""
        return self._blocks[delete].fill(
            index=_u32(FIRST_BRIDGE + number), low=_u16(block_start(block))
        )

    def gateway6(self, number: int) -> bytes:
        """Give the run its IPv6 address in a network."""
        return self._gateway6.fill(index=_u32(FIRST_BRIDGE + number), network=_u16(number))

    def veth(self, serial: int, netns_fd: int) -> bytes:
        """Make a link from the run to ``eth0`` of a namespace, both ends down."""
        return self._veth.fill(
            index=_u32(FIRST_VETH + serial),
            fd=_u32(netns_fd),
            name=f"p{serial % 100_000:05d}".encode(),
        )

    def far_end(self, *, ipv6: bool) -> tuple[bytes, list[str]]:
        """Return the messages that bring up a new namespace's devices, and what each does."""
        message = self._far_up + self._far_doubts[0]
        doing = [
            "bring loopback up",
            "bring the link's far end up",
            "ask soon again for neighbours",
        ]
        if ipv6:
            message += self._far_doubts[1] + prefer_localhost4()
            doing += ["ask soon again for IPv6 neighbours", "have localhost mean 127.0.0.1 first"]
        return message, doing

    def near_up(self, serial: int) -> bytes:
        """Bring the run's end of a link up."""
        return self._near_up.fill(index=_u32(FIRST_VETH + serial))

    def attach(self, serial: int, number: int) -> bytes:
        """Make the run's end of a link a port of a network."""
        return self._attach.fill(
            index=_u32(FIRST_VETH + serial), master=_u32(FIRST_BRIDGE + number)
        )

    def get_near(self, serial: int) -> bytes:
        """Ask for the run's end of a link."""
        return self._get_link.fill(index=_u32(FIRST_VETH + serial))

    def get_bridge(self, number: int) -> bytes:
        """Ask for a network's bridge."""
        return self._get_link.fill(index=_u32(FIRST_BRIDGE + number))

    def detach(self, serial: int) -> bytes:
        """Make the run's end of a link a port of no network."""
        return self._detach.fill(index=_u32(FIRST_VETH + serial))

    def inside(self, number: int, low: int, *, ipv6: bool) -> tuple[bytes, list[str]]:
        """Return the messages that set up a port's namespace, and what each does."""
        message = self._inside4.fill(low=_u16(low), mac=self._addresses.mac(low))
        doing = ["hardware address", "address", "route to the gateway", "route to the run"]
        if ipv6:
            message += self._inside6.fill(low=_u16(low), network=_u16(number))
            doing += ["IPv6 address", "IPv6 route"]
        return message, [f"port {low} of network {number}: {step}" for step in doing]

    def rule4(self, iif: int, block: int, *, delete: bool) -> bytes:
        """Packets from network `iif` may go to a block of addresses."""
        return self._rules4[delete].fill(
            name=bridge_name(iif).encode(), low=_u16(block_start(block))
        )

    def rule6(self, iif: int, network: int, *, delete: bool) -> bytes:
        """Packets from network `iif` may go to another one's IPv6 addresses."""
        return self._rules6[delete].fill(name=bridge_name(iif).encode(), network=_u16(network))


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _u16(number: int) -> bytes:
    # Addresses are in network order, whatever the machine's is.
    return number.to_bytes(2, "big")
