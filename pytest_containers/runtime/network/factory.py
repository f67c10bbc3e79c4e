"""Bridges, ports and rules of a run (see `addresses` for who has which address).

Networks are kept apart by policy rules (ip-rule(8)) in the run's namespace: a packet that comes
from a bridge may go to an address of the run only where a rule allows it.

===== ======================= ==========================================
order packets                 are
===== ======================= ==========================================
0     to the run itself       delivered (the gateway's ports)
100   from the host           routed
100   the run's own           routed
200   between linked networks routed
300   to the host             routed if they may be answers: to a port of a client
400   to anything of the run  prohibited
===== ======================= ==========================================
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from pytest_containers.linux.netlink import NetlinkSocket
from pytest_containers.linux.process import CLONE_NEWNET, setns, unshare
from pytest_containers.runtime.network import hostlink
from pytest_containers.runtime.network.addresses import (
    BLOCK_PREFIX_LEN,
    GATEWAY_LOW,
    HOST_LOW,
    NETWORK6_PREFIX_LEN,
    RunAddresses,
    block_start,
    mac_text,
)
from pytest_containers.runtime.network.messages import AF_INET, AF_INET6, Encoder, Template

_LOOPBACK, _ETH0 = 1, 2
_FIRST_BRIDGE, _FIRST_VETH = 1 << 16, 1 << 20
_MARK_INDEX, _MARK_MASTER, _MARK_FD = 0x5A5A0001, 0x5A5A0002, 0x5A5A0003
_MARK_LOW, _MARK_NETWORK = 0xA5A6, 0xA5A7
_MARK_NAME, _MARK_MAC, _MARK_MAC2 = b"p#####", b"\x02\x70\x63\x5a\x5a\x01", b"\x02\x70\x63\x5a\x5a\x02"
_ALLOW_OWN, _ALLOW_LINKED, _ANSWERS, _PROHIBIT = 100, 200, 300, 400
_TCP, _UDP, _ICMP = 6, 17, 1
_PING_GROUPS = "ipv4/ping_group_range"
_CONTAINER_SYSCTLS = (
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
)


def bridge_name(number: int) -> str:
    """The name of a network's bridge."""
    return f"n{number:05d}"


class Factory:
    """Makes what it is asked for; lives in the run's network namespace.

    Args:
        encoder: For the messages.
        addresses: Of the run.
        run: A netlink socket in the run's namespace.
        netns_fd: The run's namespace, to come back to.
    """

    def __init__(
        self, encoder: Encoder, addresses: RunAddresses, run: NetlinkSocket, netns_fd: int
    ) -> None:
        self._encoder = encoder
        self._addresses = addresses
        self._run = run
        self._netns_fd = netns_fd
        self._rules: dict[int, list[tuple[bytes, str]]] = {}
        self._has_ipv6 = os.path.exists("/proc/sys/net/ipv6")
        self._templates: _Templates | None = None
        self._last_group = 65535

    # ----------------------------------------------------------------- the run

    def set_up_run(self, *, connected: bool, local_ports: tuple[int, int]) -> None:
        """Gateway, link to the host, and the rules that all networks share.

        Raises:
            OSError: Something was refused.
        """
        encoder, addresses = self._encoder, self._addresses
        run_prefix = (addresses.ip4(0), 16)
        self._ask(encoder.set_up(_LOOPBACK), "bring up loopback")
        self._ask(encoder.address(addresses.ip4(GATEWAY_LOW), 32, _LOOPBACK), "give the gateway its address")
        self._rule(AF_INET, _ALLOW_OWN, allow=True, iif="lo")
        if connected:
            index = socket.if_nametoindex(hostlink.RUN_END)
            host = addresses.ip4(HOST_LOW)
            self._ask(encoder.set_up(index), "bring up the link to the host")
            route = encoder.route(host, 32, index, source=addresses.ip4(GATEWAY_LOW))
            self._ask(route, "route to the host")
            self._rule(AF_INET, _ALLOW_OWN, allow=True, iif=hostlink.RUN_END)
            # What the host asked a container may be answered; the host's services may not be asked.
            for protocol in (_TCP, _UDP):
                self._rule(
                    AF_INET, _ANSWERS, allow=True, destination=(host, 32), ip_protocol=protocol,
                    destination_ports=local_ports,
                )  # fmt: skip
            self._rule(AF_INET, _ANSWERS, allow=True, destination=(host, 32), ip_protocol=_ICMP)
        self._rule(AF_INET, _PROHIBIT, allow=False, destination=run_prefix)
        if self._has_ipv6:
            prefix6, length = addresses.prefix6.split("/")
            self._rule(AF_INET6, _ALLOW_OWN, allow=True, iif="lo")
            self._rule(AF_INET6, _PROHIBIT, allow=False, destination=(prefix6, int(length)))
        self._templates = _Templates(encoder, addresses)

    def _rule(self, family: int, priority: int, *, allow: bool, **match: object) -> None:
        message = self._encoder.rule(family, priority, allow=allow, **match)  # type: ignore[arg-type]  # passed on
        self._ask(message, f"rule {priority} for {match}")

    def _ask(self, message: bytes, doing: str) -> None:
        self._run.request(message, doing)

    # ---------------------------------------------------------------- networks

    def network(self, number: int, low: int) -> int:
        """A bridge and its first port; the port's namespace."""
        templates = self._made_templates()
        index = _FIRST_BRIDGE + number
        name = bridge_name(number)
        messages = [
            templates.bridge.fill(
                index=_u32(index), name=name.encode(),
                mac=self._addresses.mac(block_start(number), near=True),
            ),
            templates.block.fill(index=_u32(index), low=_u16(block_start(number))),
        ]  # fmt: skip
        doing = [f"make bridge {name}", f"route to network {number}"]
        if self._has_ipv6:
            messages.append(templates.gateway6.fill(index=_u32(index), network=_u16(number)))
            doing.append(f"give network {number} its IPv6 gateway")
        self._run.request(b"".join(messages), *doing)
        return self.port(number, low)

    def block(self, number: int, block: int) -> None:
        """More addresses for network `number`: those of another block."""
        templates = self._made_templates()
        index = _FIRST_BRIDGE + number
        start = block_start(block)
        self._ask(
            templates.block.fill(index=_u32(index), low=_u16(start)),
            f"route to block {block} of network {number}",
        )
        # Containers of different blocks of a network meet at the gateway.
        self._allow(number, bridge_name(number), (self._addresses.ip4(start), BLOCK_PREFIX_LEN))
        own = (self._addresses.ip4(block_start(number)), BLOCK_PREFIX_LEN)
        self._allow(number, bridge_name(number), own)

    def link(self, child: int, child_blocks: Sequence[int], parents: Sequence[Sequence[int]]) -> None:
        """Let packets pass between network `child` and each of `parents` (number, *blocks)."""
        for parent, *blocks in parents:
            for block in blocks:
                prefix = (self._addresses.ip4(block_start(block)), BLOCK_PREFIX_LEN)
                self._allow(child, bridge_name(child), prefix)
            for block in child_blocks:
                prefix = (self._addresses.ip4(block_start(block)), BLOCK_PREFIX_LEN)
                self._allow(child, bridge_name(parent), prefix)
            if self._has_ipv6:
                for source, target in ((child, parent), (parent, child)):
                    prefix6 = (self._addresses.ip6(target, 0), NETWORK6_PREFIX_LEN)
                    self._allow(child, bridge_name(source), prefix6)

    def _allow(self, owner: int, iif: str, destination: tuple[str, int]) -> None:
        """A rule that goes with network `owner`."""
        family = AF_INET6 if ":" in destination[0] else AF_INET
        doing = f"let {iif} reach {destination[0]}/{destination[1]}"
        make = self._encoder.rule
        add = make(family, _ALLOW_LINKED, allow=True, iif=iif, destination=destination)
        try:
            self._ask(add, doing)
        except FileExistsError:
            return
        delete = make(
            family, _ALLOW_LINKED, allow=True, iif=iif, destination=destination, delete=True
        )
        self._rules.setdefault(owner, []).append((delete, doing))

    def remove(self, networks: Sequence[int]) -> None:
        """Take networks away. Ports that are left lose their other end."""
        for number in networks:
            for message, doing in self._rules.pop(number, ()):
                self._ask(message, f"no longer {doing}")
            self._ask(self._encoder.delete_link(_FIRST_BRIDGE + number), f"delete network {number}")

    # ------------------------------------------------------------------- ports

    def port(self, number: int, low: int) -> int:
        """A namespace with a link to network `number`, ready to be joined."""
        templates = self._made_templates()
        unshare(CLONE_NEWNET)
        try:
            fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            inside = NetlinkSocket()
            try:
                self._set_container_sysctls()
            finally:
                setns(self._netns_fd, CLONE_NEWNET)
        except BaseException:
            setns(self._netns_fd, CLONE_NEWNET)
            raise
        with inside:
            try:
                self._ask(
                    templates.veth.fill(
                        index=_u32(_FIRST_VETH + low), master=_u32(_FIRST_BRIDGE + number),
                        fd=_u32(fd), name=f"p{low:05d}".encode(),
                        mac=self._addresses.mac(low, near=True), peer_mac=self._addresses.mac(low),
                    ),
                    f"make a port of network {number}",
                )  # fmt: skip
                message, doing = templates.inside(number, low, ipv6=self._has_ipv6)
                inside.request(message, *doing)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def _set_container_sysctls(self) -> None:
        try:
            set_sysctl(_PING_GROUPS, f"0 {self._last_group}")
        except OSError:
            # Only groups that exist may be named: with a single id there is one.
            self._last_group = 0
            set_sysctl(_PING_GROUPS, "0 0")
        for name, value in _CONTAINER_SYSCTLS:
            set_sysctl(name, value)

    def _made_templates(self) -> _Templates:
        assert self._templates is not None
        return self._templates


class _Templates:
    """The messages that are sent per network and port, encoded once."""

    def __init__(self, encoder: Encoder, addresses: RunAddresses) -> None:
        self._addresses = addresses
        low4, gateway = addresses.ip4(_MARK_LOW), addresses.ip4(GATEWAY_LOW)
        low6 = addresses.ip6(_MARK_NETWORK, _MARK_LOW)
        gateway6 = addresses.ip6(_MARK_NETWORK, GATEWAY_LOW)
        index, low, network = _u32(_MARK_INDEX), _u16(_MARK_LOW), _u16(_MARK_NETWORK)
        name = _MARK_NAME.decode()
        self.bridge = Template(
            encoder.bridge(name, mac_text(_MARK_MAC), _MARK_INDEX),
            index=index, name=_MARK_NAME, mac=_MARK_MAC,
        )  # fmt: skip
        self.block = Template(
            encoder.route(low4, BLOCK_PREFIX_LEN, _MARK_INDEX, source=gateway),
            index=index, low=low,
        )  # fmt: skip
        self.gateway6 = Template(
            encoder.address(gateway6, NETWORK6_PREFIX_LEN, _MARK_INDEX),
            index=index, network=network,
        )  # fmt: skip
        self.veth = Template(
            encoder.veth(
                name, mac_text(_MARK_MAC), _MARK_INDEX,
                ("eth0", mac_text(_MARK_MAC2), _ETH0), _MARK_FD, master=_MARK_MASTER,
            ),
            index=index, master=_u32(_MARK_MASTER), fd=_u32(_MARK_FD), name=_MARK_NAME,
            mac=_MARK_MAC, peer_mac=_MARK_MAC2,
        )  # fmt: skip
        ups = encoder.set_up(_LOOPBACK) + encoder.set_up(_ETH0)
        self._inside4 = Template(
            encoder.address(low4, BLOCK_PREFIX_LEN, _ETH0)
            + ups
            + encoder.route(gateway, 32, _ETH0)
            + encoder.route(low4, 0, _ETH0, gateway=gateway),
            low=low,
        )
        self._inside6 = Template(
            encoder.address(low6, NETWORK6_PREFIX_LEN, _ETH0)
            + encoder.route(low6, 0, _ETH0, gateway=gateway6),
            low=low, network=network,
        )  # fmt: skip

    def inside(self, number: int, low: int, *, ipv6: bool) -> tuple[bytes, list[str]]:
        """What is sent inside of a port's namespace: the messages, and what each does."""
        message = self._inside4.fill(low=_u16(low))
        doing = ["address", "loopback", "link up", "route to the gateway", "default route"]
        if ipv6:
            message += self._inside6.fill(low=_u16(low), network=_u16(number))
            doing += ["IPv6 address", "IPv6 default route"]
        return message, [f"port {low} of network {number}: {what}" for what in doing]


def set_sysctl(name: str, value: str) -> None:
    """Set a sysctl of the network namespace that this process is in; one that is not there
    (a kernel without IPv6) needs no setting."""
    try:
        fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _u16(number: int) -> bytes:
    # Addresses are in network order, whatever the machine's is.
    return number.to_bytes(2, "big")
