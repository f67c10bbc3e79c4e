"""Waiting for a link to carry.

Of a veth pair the end that was brought up first, and a bridge that has got its first port, begin
to send only when a worker of the kernel has come round to it (linkwatch). What is sent before is
dropped without a word, and whoever sent it tries again a second later.
"""

from __future__ import annotations

import time

from pytest_containers.linux.netlink import NetlinkSocket, attributes

_IFINFOMSG_SIZE, _IFLA_OPERSTATE = 16, 16
_IF_OPER_UP = b"\x06"
_PAUSE_S, _TRIES = 0.0002, 500


def wait_until_up(sock: NetlinkSocket, get_link: bytes) -> bool:
    """Wait until a link carries, for 0.1 s and more at most; whether it does.

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
