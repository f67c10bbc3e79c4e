"""The network helper: a process of the run that makes bridges, links and network namespaces.

It is a process of its own since pyroute2's codecs take 45 ms and some megabytes to import; they
are loaded while the supervisor starts. It answers the supervisor's requests in order:

``network`` (number, low)
    A bridge with a first port; the descriptor of the port's namespace.
``port`` (number, low)
    One more port.
``block`` (number, block, linked networks)
    More addresses for a network that has used up its own.
``link`` (child, parents, each with its blocks)
    Packets may pass between two networks, both ways.
``remove`` (networks, each with its blocks)
    They are as if new: to be used again, by another `network`.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.linux import process
from pytest_containers.linux.netlink import NetlinkSocket
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWUSER
from pytest_containers.runtime.channel import Channel, ChannelClosed
from pytest_containers.runtime.network import codecs, hostlink
from pytest_containers.runtime.network.addresses import GATEWAY_LOW, RunAddresses
from pytest_containers.runtime.network.carrier import wait_until_up
from pytest_containers.runtime.network.factory import Factory, set_sysctl
from pytest_containers.runtime.network.messages import Encoder
from pytest_containers.runtime.network.templates import no_mark

_SYSCTLS = (
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
)


def main(launcher: Channel, supervisor: Channel, search_path: Sequence[str]) -> None:
    """Serve until the supervisor is gone.

    Args:
        launcher: Says once what to start in (`Launcher`): ``connect``, with the descriptors of the
            run's user and network namespaces.
        supervisor: Where requests come from.
        search_path: Directories that may hold pyroute2.
    """
    try:
        try:
            encoder = Encoder(codecs.load(search_path))
        finally:
            frame = launcher.receive()  # also without codecs: it is sent to somebody who is there
        factory, facts = _set_up(encoder, frame.fds, connect=frame.body["connect"])
    except ChannelClosed:
        raise
    except (ImportError, OSError) as error:
        supervisor.send({"op": "failed", "id": 0, "error": _describe(error)})
        return
    with factory:
        supervisor.send({"op": "ready", "id": 0, **facts})
        _serve(supervisor, factory)


def _set_up(
    encoder: Encoder, namespaces: Sequence[int], *, connect: bool
) -> tuple[Factory, dict[str, Any]]:
    """Link the run to the host, enter the run, and set its namespace up; what came of it."""
    userns_fd, netns_fd = namespaces
    ports = _local_ports()
    # Sockets stay in the host's namespace when this process leaves it.
    host, probe = NetlinkSocket(), hostlink.host_socket()
    link = hostlink.choose_prefix(host, encoder, netns_fd, connect=connect)
    parent = os.getppid()
    process.setns(userns_fd, CLONE_NEWUSER)
    _become_root()
    process.setns(netns_fd, CLONE_NEWNET)
    process.die_with_parent(parent)
    os.close(userns_fd)
    for name, value in _SYSCTLS:
        set_sysctl(name, value)
    addresses = RunAddresses(link.octet, no_mark(os.urandom(5)))
    factory = Factory(encoder, addresses, NetlinkSocket(), netns_fd)
    factory.set_up_run()
    connected, reason = link.connected, link.reason
    if connected:
        factory.set_up_host_link(ports)
        wait_until_up(host, encoder.get_link(link.host_index))
        gateway = addresses.ip4(GATEWAY_LOW)
        if not hostlink.reaches(probe, gateway):
            factory.drop_host_link()
            connected, reason = False, f"a firewall of the host drops packets to {gateway}"
    probe.close()
    host.close()
    return factory, {
        "octet": link.octet,
        "global_id": addresses.global_id.hex(),
        "connected": connected,
        "reason": reason,
        "ipv6": factory.has_ipv6,
    }


def _become_root() -> None:
    # With a single id setgroups is denied for good.
    with contextlib.suppress(PermissionError):
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _local_ports() -> tuple[int, int]:
    """The range of ports that the host's own connections come from (read in its namespace)."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first, last = file.read().split()
    return int(first), int(last)


def _serve(supervisor: Channel, factory: Factory) -> None:
    operations: dict[str, Callable[..., int | None]] = {
        "network": factory.network,
        "port": factory.port,
        "block": factory.block,
        "link": factory.link,
        "remove": factory.remove,
    }
    while True:
        # What is asked for goes before what might be.
        while not _is_asked(supervisor) and factory.prepare():
            pass
        body = supervisor.receive().body
        number: Any = body.pop("id")
        operation = operations[body.pop("op")]
        try:
            fd = operation(**body)
        except OSError as error:
            supervisor.send({"id": number, "error": _describe(error)})
            continue
        supervisor.send({"id": number, "ok": None}, [] if fd is None else [fd])
        if fd is not None:
            os.close(fd)


def _is_asked(supervisor: Channel) -> bool:
    return supervisor.pending() or bool(select.select([supervisor], [], [], 0)[0])


def _describe(error: Exception) -> list[Any]:
    """An error as the wire has it (`messages.Fault`)."""
    if not isinstance(error, OSError):
        return ["StartError", f"set up the run's network: {error}", {}]
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return ["StartError", what, {"errno": error.errno}]
