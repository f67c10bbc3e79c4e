"""The link between the host and a run, and the choice of the run's IPv4 prefix.

Where the helper may, it makes one veth pair: one end on the host with an address and a route to
the run's prefix, the other end in the run. That is all that is ever changed on the host, and it
disappears with the run's namespace. The host's table of routes is the lock between runs: the
route is made with NLM_F_EXCL, so one prefix is had by one run, for exactly as long as it lives.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

from pytest_containers.linux.netlink import (
    HEADER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NetlinkSocket,
    attributes,
)
from pytest_containers.runtime.network import addresses
from pytest_containers.runtime.network.messages import (
    AF_INET,
    RTM_GETADDR,
    RTM_GETROUTE,
    Encoder,
)

RUN_END = "host0"
"""The link's name inside the run."""

_RTA_DST, _IFA_LOCAL = 1, 2
_RTMSG_SIZE, _IFADDRMSG_SIZE = 12, 8
_PROBE_TIMEOUT_S = 3.0


class HostLink(NamedTuple):
    """The result of `choose_prefix`.

    Attributes:
        octet: x of the run's ``10.x.0.0/16``.
        connected: Whether the host has a link to the run.
        reason: Why not, as a clause; empty if it was not asked for.
        host_index: Of the host's end.
    """

    octet: int
    connected: bool
    reason: str
    host_index: int = 0


def choose_prefix(
    host: NetlinkSocket, encoder: Encoder, netns_fd: int, *, connect: bool
) -> HostLink:
    """Choose a prefix that nothing on the host uses, and link the host to the run if possible.

    To be called in the host's network namespace.

    Args:
        host: A socket of that namespace.
        encoder: For the messages.
        netns_fd: The run's network namespace.
        connect: Whether to try to make a link; needs CAP_NET_ADMIN on the host.

    Raises:
        OSError: Something other than a lack of permission.
    """
    start = int.from_bytes(os.urandom(2), "big")
    candidates = addresses.free_prefixes(_taken(host), start)
    if not connect:
        return HostLink(_first(candidates), False, "")
    name = f"pc{os.urandom(4).hex()}"
    try:
        index = _make_link(host, encoder, name, netns_fd)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
            raise
        return HostLink(_first(candidates), False, f"{error.filename}: {error.strerror}")
    try:
        return HostLink(_claim(host, encoder, index, candidates), True, "", index)
    except BaseException:
        host.request(encoder.delete_link(index), f"delete link {name}")
        raise


def host_socket() -> socket.socket:
    """Make a socket in this process's namespace, for `reaches` from another one."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def reaches(host: socket.socket, address: str) -> bool:
    """Return True if the host can connect to `address` of this namespace: a firewall may drop it.

    Args:
        host: Of `host_socket`, called on the host; used up.
        address: Of this namespace.
    """
    with host, socket.create_server((address, 0), backlog=1) as server:
        host.settimeout(_PROBE_TIMEOUT_S)
        try:
            host.connect(server.getsockname())
        except OSError:
            return False
        return True


def _first(candidates: Iterator[int]) -> int:
    # Without a link nothing of the host can clash; the preference is for tidiness.
    return next(candidates, addresses.FIRST_PREFIX)


def _make_link(host: NetlinkSocket, encoder: Encoder, name: str, netns_fd: int) -> int:
    """Make the pair, this end down; returns this end's index."""
    message = encoder.veth(name, 0, (RUN_END, 0), netns_fd)
    host.request(message, f"make link {name} between the host and the run")
    index = socket.if_nametoindex(name)
    try:
        host.request(encoder.silence_ipv6(index), f"switch off IPv6 on link {name}")
    except OSError as error:
        # A kernel without IPv6 has nothing to switch off.
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    host.request(encoder.set_up(index), f"bring link {name} up")
    return index


def _claim(host: NetlinkSocket, encoder: Encoder, index: int, candidates: Iterator[int]) -> int:
    """Take the first prefix that no other run takes at this moment."""
    for octet in candidates:
        run = addresses.RunAddresses(octet, bytes(5))
        ours, gateway = run.ip4(addresses.HOST_LOW), run.ip4(addresses.GATEWAY_LOW)
        host.request(encoder.address(ours, 32, index), f"give the host the address {ours}")
        route = encoder.route(run.ip4(0), 16, index, gateway=gateway, onlink=True, source=ours)
        try:
            host.request(route, f"route {run.prefix} to the run")
        except FileExistsError:
            undo = encoder.address(ours, 32, index, delete=True)
            host.request(undo, f"take the address {ours} back")
            continue
        return octet
    raise OSError(
        errno.EADDRNOTAVAIL,
        "all of 10.64.0.0 to 10.255.0.0 are in use by the host's routes; remove some, "
        "or end other test runs",
        "choose a prefix for the run",
    )


def _taken(host: NetlinkSocket) -> list[tuple[int, int]]:
    """Every IPv4 prefix that the host has a route to or an address in."""
    taken = []
    for body in host.dump(_dump_request(RTM_GETROUTE, _RTMSG_SIZE), "list the host's routes"):
        taken.append(_prefix(body, _RTMSG_SIZE, _RTA_DST))
    for body in host.dump(_dump_request(RTM_GETADDR, _IFADDRMSG_SIZE), "list the host's addresses"):
        taken.append(_prefix(body, _IFADDRMSG_SIZE, _IFA_LOCAL))
    return taken


def _prefix(body: bytes, header_size: int, attribute: int) -> tuple[int, int]:
    # Both headers begin with the family and the prefix length. Decoded by hand: hosts with
    # hundreds of routes would cost pyroute2's decoder hundreds of milliseconds.
    address = attributes(body, header_size).get(attribute, bytes(4))
    return int.from_bytes(address[:4], "big"), body[1]


def _dump_request(kind: int, header_size: int) -> bytes:
    body = bytes((AF_INET,)) + bytes(header_size - 1)
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body
