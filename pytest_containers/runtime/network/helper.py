"""The network helper: a process of the run that makes bridges, links and network namespaces.

It is a process of its own: what it makes takes the kernel milliseconds, in which the supervisor
goes on. It answers the supervisor's requests (`operations.networks`) in order. pyroute2 has encoded
its messages ahead (`encoded`); its codecs, which take 45 ms and some megabytes to import, are
loaded only for others.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import select
from collections.abc import Sequence

from pytest_containers.linux import process
from pytest_containers.linux.netlink import NetlinkSocket
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWUSER
from pytest_containers.runtime.garbage import collect_from_now_on
from pytest_containers.runtime.network import codecs, hostlink
from pytest_containers.runtime.network.addresses import GATEWAY_LOW, RunAddresses
from pytest_containers.runtime.network.carrier import wait_until_up
from pytest_containers.runtime.network.factory import Factory, set_sysctl
from pytest_containers.runtime.network.messages import Encoder
from pytest_containers.runtime.network.templates import no_mark
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
from pytest_containers.runtime.wire.defects import defect, report
from pytest_containers.runtime.wire.dispatch import (
    LATER,
    Call,
    Dispatcher,
    Later,
    fail_at_start,
    receive_operation,
    send_operation,
)
from pytest_containers.runtime.wire.faults import Fault, fault, from_os_error
from pytest_containers.runtime.wire.operations.networks import (
    AddBlock,
    LinkNetworks,
    MakeNetwork,
    MakePort,
    NetworkNamespace,
    NetworksFailed,
    NetworksReady,
    ResetNetworks,
    SetUpNetworks,
)

OPERATIONS: Dispatcher[Factory] = Dispatcher("")
"""The operations that the network helper serves for the supervisor."""

_COLLECT_EVERY = 200

_SYSCTLS = (
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    # What one network may not reach in another is refused each time, not a few times in a second.
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratemask", "\n"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
)


def main(
    launcher: Channel,
    supervisor: Channel,
    search_path: Sequence[str],
    fail_in: Sequence[str] = (),
) -> None:
    """Serve until the supervisor is gone.

    Args:
        launcher: Says once what to set up (`SetUpNetworks`).
        supervisor: Where requests come from.
        search_path: Directories that may hold pyroute2.
        fail_in: As in `StartRun`.
    """
    try:
        encoder = Encoder(lambda: codecs.load(search_path))
        request = receive_operation(launcher, SetUpNetworks)
        fail_at_start(fail_in)
        factory, ready = _set_up(encoder, request)
    except ChannelClosed:
        raise
    except Exception as error:  # noqa: BLE001 - goes to the test process
        send_operation(supervisor, NetworksFailed(error=_describe(error)))
        return
    with factory:
        send_operation(supervisor, ready)
        OPERATIONS.fail_in(fail_in)
        collect_from_now_on()
        _serve(supervisor, factory)


def _set_up(encoder: Encoder, request: SetUpNetworks) -> tuple[Factory, NetworksReady]:
    """Link the run to the host, enter the run, and set its namespace up."""
    userns_fd, netns_fd = request.userns, request.netns
    ports = _local_ports()
    # Sockets stay in the host's namespace when this process leaves it.
    host, probe = NetlinkSocket(), hostlink.host_socket()
    link = hostlink.choose_prefix(host, encoder, netns_fd, connect=request.connect)
    parent = os.getppid()
    process.setns(userns_fd, CLONE_NEWUSER)
    _become_root()
    process.setns(netns_fd, CLONE_NEWNET)
    process.die_with_parent(parent)
    os.close(userns_fd)
    set_sysctl("ipv4/ip_forward", "1", needed=True)
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
    return factory, NetworksReady(
        octet=link.octet,
        global_id=addresses.global_id.hex(),
        connected=connected,
        reason=reason,
        ipv6=factory.has_ipv6,
    )


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
    preparing = True
    for served in itertools.count(1):
        # Requests go before what is prepared for later ones.
        while preparing and not _is_asked(supervisor):
            try:
                if not factory.prepare():
                    break
            except Exception as error:  # noqa: BLE001 - what is needed is made when it is asked for
                report("prepare", error)
                preparing = False
        if served % _COLLECT_EVERY == 0 and not _is_asked(supervisor):
            gc.collect()  # see `garbage.Cleaning`
        OPERATIONS.dispatch(factory, supervisor, supervisor.receive())


@OPERATIONS.handles(MakeNetwork)
def _make_network(factory: Factory, op: MakeNetwork, call: Call[NetworkNamespace]) -> Later:
    return _give(factory.network(op.number, op.low), call)


@OPERATIONS.handles(MakePort)
def _make_port(factory: Factory, op: MakePort, call: Call[NetworkNamespace]) -> Later:
    return _give(factory.port(op.number, op.low), call)


def _give(netns_fd: int, call: Call[NetworkNamespace]) -> Later:
    try:
        call.answer(NetworkNamespace(netns=netns_fd))
    finally:
        os.close(netns_fd)
    return LATER


@OPERATIONS.handles(AddBlock)
def _add_block(factory: Factory, op: AddBlock, call: Call[None]) -> None:
    factory.block(op.number, op.block, op.linked)


@OPERATIONS.handles(LinkNetworks)
def _link_networks(factory: Factory, op: LinkNetworks, call: Call[None]) -> None:
    factory.link(op.child, op.parents)


@OPERATIONS.handles(ResetNetworks)
def _reset_networks(factory: Factory, op: ResetNetworks, call: Call[None]) -> None:
    factory.remove(op.networks)


def _is_asked(supervisor: Channel) -> bool:
    return supervisor.pending() or bool(select.select([supervisor], [], [], 0)[0])


def _describe(error: Exception) -> Fault:
    if isinstance(error, OSError):
        return from_os_error("StartError", "set up the run's network", error)
    if isinstance(error, ImportError):
        return fault("StartError", f"set up the run's network: {error}")
    report("SetUpNetworks", error)
    return defect("SetUpNetworks", error)
