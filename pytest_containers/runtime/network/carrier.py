"""Waiting for a link to carry.

The end of a veth pair that was brought up first, and a bridge with its first port, begin to send
only when a worker of the kernel has run (linkwatch). Packets sent before are dropped silently, and
their sender tries again a second later.
"""

from __future__ import annotations

import time

from pytest_containers.linux.netlink import NetlinkSocket, attributes

_IFINFOMSG_SIZE, _IFLA_OPERSTATE = 16, 16
_IF_OPER_UP = b"\x06"
_PAUSE_S, _TRIES = 0.0002, 500


def wait_until_up(sock: NetlinkSocket, get_link: bytes) -> bool:
    """Wait until a link carries, at most some 0.1 s; return True if it does.

    Args:
        sock: In the link's namespace.
        get_link: An encoded request for the link.

    Raises:
        OSError: There is no such link.
    """
    for _ in range(_TRIES):
        body = sock.ask(get_link, "wait for a link to come up")
        if attributes(body, _IFINFOMSG_SIZE).get(_IFLA_OPERSTATE) == _IF_OPER_UP:
            return True
        time.sleep(_PAUSE_S)
    return False
