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

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pytest_containers.linux.netlink import NetlinkSocket
from pytest_containers.linux.process import CLONE_NEWNET, setns, unshare
from pytest_containers.runtime.network import hostlink
from pytest_containers.runtime.network.addresses import GATEWAY_LOW, HOST_LOW, RunAddresses
from pytest_containers.runtime.network.carrier import wait_until_up
from pytest_containers.runtime.network.messages import AF_INET, AF_INET6, Encoder
from pytest_containers.runtime.network.templates import (
    ALLOW_LINKED,
    FIRST_BRIDGE,
    FIRST_VETH,
    LOOPBACK,
    Templates,
    bridge_name,
)

_ALLOW_OWN, _ANSWERS, _PROHIBIT = ALLOW_LINKED - 100, ALLOW_LINKED + 100, ALLOW_LINKED + 200
_TCP, _UDP, _ICMP = 6, 17, 1
_SPARES = 3
_FORGET_EVERY = 256
_IPV6_DISABLED = "/proc/sys/net/ipv6/conf/default/disable_ipv6"


class _Allowed(NamedTuple):
    """Packets from network `iif` may go to network `to`: to one block, or (None) by IPv6."""

    iif: int
    to: int
    block: int | None


class _Spare(NamedTuple):
    """A namespace with a link to no network yet."""

    fd: int
    inside: NetlinkSocket
    serial: int


class Factory:
    """Makes what it is asked for; lives in the run's network namespace.

    Args:
        encoder: For the messages.
        addresses: Of the run.
        run: A netlink socket in the run's namespace, which the factory owns.
        netns_fd: The run's namespace, to come back to.
    """

    def __init__(
        self, encoder: Encoder, addresses: RunAddresses, run: NetlinkSocket, netns_fd: int
    ) -> None:
        self._encoder = encoder
        self._addresses = addresses
        self._run = run
        self._netns_fd = netns_fd
        self._templates = Templates(encoder, addresses)
        self._allowed: set[_Allowed] = set()
        self._ports: dict[int, list[int]] = {}
        self._spares: list[_Spare] = []
        self._serial = 0
        self.has_ipv6: bool = _has_ipv6()
        self._container_sysctls = (
            ("ipv4/ping_group_range", f"0 {_last_group()}"),
            ("ipv4/ip_unprivileged_port_start", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        )

    def __enter__(self) -> Factory:
        return self

    def __exit__(self, *exc: object) -> None:
        self._run.close()
        for spare in self._spares:
            spare.inside.close()
            os.close(spare.fd)

    # ----------------------------------------------------------------- the run

    def set_up_run(self) -> None:
        """Set up the gateway, and the rules that all networks share.

        Raises:
            OSError: Something was refused.
        """
        encoder, addresses = self._encoder, self._addresses
        gateway = addresses.ip4(GATEWAY_LOW)
        self._ask(encoder.set_up(LOOPBACK), "bring up loopback")
        self._ask(encoder.address(gateway, 32, LOOPBACK), "give the gateway its address")
        self._rule(AF_INET, _ALLOW_OWN, allow=True, iif="lo")
        self._rule(AF_INET, _PROHIBIT, allow=False, destination=(addresses.ip4(0), 16))
        if self.has_ipv6:
            prefix6, length = addresses.prefix6.split("/")
            self._rule(AF_INET6, _ALLOW_OWN, allow=True, iif="lo")
            self._rule(AF_INET6, _PROHIBIT, allow=False, destination=(prefix6, int(length)))

    def set_up_host_link(self, local_ports: tuple[int, int]) -> None:
        """Set up the run's end of the link to the host.

        Args:
            local_ports: First and last port of the host's own connections.
        """
        encoder, addresses = self._encoder, self._addresses
        index = socket.if_nametoindex(hostlink.RUN_END)
        host = addresses.ip4(HOST_LOW)
        self._ask(encoder.set_up(index), "bring up the link to the host")
        route = encoder.route(host, 32, index, source=addresses.ip4(GATEWAY_LOW))
        self._ask(route, "route to the host")
        self._rule(AF_INET, _ALLOW_OWN, allow=True, iif=hostlink.RUN_END)
        # What the host asked a container may be answered; the host's services may not be asked.
        for protocol in (_TCP, _UDP):
            self._rule(
                AF_INET,
                _ANSWERS,
                allow=True,
                destination=(host, 32),
                ip_protocol=protocol,
                destination_ports=local_ports,
            )
        self._rule(AF_INET, _ANSWERS, allow=True, destination=(host, 32), ip_protocol=_ICMP)

    def drop_host_link(self) -> None:
        """Delete the link to the host, both ends of it."""
        index = socket.if_nametoindex(hostlink.RUN_END)
        self._ask(self._encoder.delete_link(index), "delete the link to the host")

    def _rule(self, family: int, priority: int, *, allow: bool, **match: Any) -> None:
        message = self._encoder.rule(family, priority, allow=allow, **match)
        self._ask(message, f"rule {priority} for {match}")

    def _ask(self, message: bytes, doing: str) -> None:
        self._run.request(message, doing)

    # ---------------------------------------------------------------- networks

    def network(self, number: int, low: int) -> int:
        """Make a bridge and its first port; return the descriptor of the port's namespace."""
        if number not in self._ports:
            self._make_bridge(number)
            self._ports[number] = []
        fd = self.port(number, low)
        wait_until_up(self._run, self._templates.get_bridge(number))
        return fd

    def _make_bridge(self, number: int) -> None:
        templates = self._templates
        name = bridge_name(number)
        self._ask(templates.bridge(number), f"make bridge {name}")
        try:
            self._doubt_neighbours(templates.bridge_doubts(number))
            self._ask(templates.block(number, number), f"route to network {number}")
            if self.has_ipv6:
                message = templates.gateway6(number)
                self._ask(message, f"give network {number} its IPv6 gateway")
        except BaseException:
            self._ask(self._encoder.delete_link(FIRST_BRIDGE + number), f"delete bridge {name}")
            raise

    def block(self, number: int, block: int, linked: Sequence[int]) -> None:
        """Add the addresses of another block to network `number`.

        Args:
            linked: The networks that may reach it.
        """
        message = self._templates.block(number, block)
        self._ask(message, f"route to block {block} of network {number}")
        # Containers of different blocks of a network meet at the gateway.
        rules = [_Allowed(number, number, number), _Allowed(number, number, block)]
        rules += [_Allowed(other, number, block) for other in linked]
        self._allow(rules)

    def link(self, child: Sequence[int], parents: Sequence[Sequence[int]]) -> None:
        """Let packets pass between network `child` and each of `parents` (number, *blocks)."""
        rules = []
        for parent in parents:
            for iif, (to, *blocks) in ((child[0], parent), (parent[0], child)):
                rules += [_Allowed(iif, to, block) for block in blocks]
                if self.has_ipv6:
                    rules.append(_Allowed(iif, to, None))
        self._allow(rules)

    def _allow(self, rules: Iterable[_Allowed]) -> None:
        new = [rule for rule in dict.fromkeys(rules) if rule not in self._allowed]
        self._change_rules(new, delete=False)
        self._allowed.update(new)

    def _change_rules(self, rules: Sequence[_Allowed], *, delete: bool) -> None:
        if not rules:
            return
        templates, messages = self._templates, []
        for iif, to, block in rules:
            if block is None:
                messages.append(templates.rule6(iif, to, delete=delete))
            else:
                messages.append(templates.rule4(iif, block, delete=delete))
        verb = "no longer let" if delete else "let"
        doing = [f"{verb} network {rule.iif} reach network {rule.to}" for rule in rules]
        self._run.request(b"".join(messages), *doing)

    def remove(self, networks: Sequence[Sequence[int]]) -> None:
        """Make networks (number, *other blocks) as if they were new.

        No rule names them, nothing is connected to them. Their bridges stay, to be used again:
        to delete one takes the kernel 17 ms, in which no other process can change a link.

        Raises:
            OSError: Of the first that failed.
        """
        dead = {number for number, *_ in networks}
        rules = [rule for rule in self._allowed if rule.iif in dead or rule.to in dead]
        self._allowed.difference_update(rules)
        self._change_rules(rules, delete=True)
        for number, *blocks in networks:
            for serial in self._ports[number]:
                self._detach(serial)
            self._ports[number] = []
            for block in blocks:
                message = self._templates.block(number, block, delete=True)
                self._ask(message, f"no longer route to block {block} of network {number}")

    def _detach(self, serial: int) -> None:
        try:
            self._ask(self._templates.detach(serial), "disconnect a port")
        except OSError as error:
            if error.errno != errno.ENODEV:  # its namespace has died already
                raise

    # ------------------------------------------------------------------- ports

    def port(self, number: int, low: int) -> int:
        """Make a namespace with a link to network `number`; return its descriptor."""
        spare = self._spares.pop() if self._spares else self._make_spare()
        try:
            with spare.inside as inside:
                wait_until_up(self._run, self._templates.get_near(spare.serial))
                message = self._templates.attach(spare.serial, number)
                self._ask(message, f"make a port of network {number}")
                self._ports[number].append(spare.serial)
                if spare.serial % _FORGET_EVERY == 0:
                    self._forget_ended_ports()
                message, doing = self._templates.inside(number, low, ipv6=self.has_ipv6)
                inside.request(message, *doing)
        except BaseException:
            os.close(spare.fd)
            raise
        return spare.fd

    def _forget_ended_ports(self) -> None:
        """Forget ports whose namespaces have ended: a network may live as long as the run."""
        indexes = {index for index, _ in socket.if_nameindex()}
        for ports in self._ports.values():
            ports[:] = [serial for serial in ports if FIRST_VETH + serial in indexes]

    def prepare(self) -> bool:
        """Make one more namespace ahead of need, of no network yet; False: there are enough.

        That is most of the work for a port: 1.6 of 2.1 ms.
        """
        if len(self._spares) >= _SPARES:
            return False
        try:
            self._spares.append(self._make_spare())
        except OSError:
            return False  # no request to refuse: the next one meets the same error
        return True

    def _make_spare(self) -> _Spare:
        self._serial += 1
        fd, inside = self._namespace()
        try:
            templates = self._templates
            self._run.request(
                templates.veth(self._serial, fd) + templates.near_up(self._serial),
                "make a link to a new namespace",
                "bring it up",
            )
            message, doing = templates.far_end(ipv6=self.has_ipv6)
            inside.request(message, *doing)
        except BaseException:
            inside.close()
            os.close(fd)
            raise
        return _Spare(fd, inside, self._serial)

    def _doubt_neighbours(self, messages: Sequence[bytes]) -> None:
        """Have connections to a container that is gone refused soon."""
        for message in messages if self.has_ipv6 else messages[:1]:
            self._ask(message, "ask soon again for neighbours")

    def _namespace(self) -> tuple[int, NetlinkSocket]:
        """Make a namespace, and a netlink socket in it."""
        try:
            unshare(CLONE_NEWNET)
        except OSError as error:
            limit = " (user.max_net_namespaces)" if error.errno == errno.ENOSPC else ""
            doing = f"make a network namespace{limit}"
            raise OSError(error.errno, error.strerror, doing) from None
        try:
            for name, value in self._container_sysctls:
                set_sysctl(name, value)
            inside = NetlinkSocket()
            try:
                return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), inside
            except BaseException:
                inside.close()
                raise
        finally:
            setns(self._netns_fd, CLONE_NEWNET)


def set_sysctl(name: str, value: str, *, needed: bool = False) -> None:
    """Set a sysctl of the network namespace that this process is in.

    One that is not there (a kernel without IPv6) needs no setting, nor one that is *needed* and has
    the value. Where all are read-only, as in most containers, the others stay as they are.
    """
    path = f"/proc/sys/net/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        if needed and _read(path) != value:
            raise
        return
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _has_ipv6() -> bool:
    """True if new links of this namespace have IPv6; else its addresses are refused (EACCES).

    Where its settings are read-only, packets are not forwarded, and addresses are of use late.
    """
    try:
        os.close(os.open(_IPV6_DISABLED, os.O_WRONLY | os.O_CLOEXEC))
        return _read(_IPV6_DISABLED) == "0"
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return False


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _last_group() -> int:
    """Return the last of the groups from 0 on that exist here.

    Only such can be given to ping_group_range, and 65535 at most.
    """
    end = 0
    with open("/proc/self/gid_map", encoding="ascii") as file:
        for inside, _, count in sorted([int(part) for part in line.split()] for line in file):
            if inside > end:
                break
            end = inside + count
    return min(end - 1, 65535)
