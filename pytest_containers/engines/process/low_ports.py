"""Ports that an ordinary user may not listen on, and what stands for them.

A server of an ordinary user listens on port 80 as far as it and other containers know, and on
another port of its address in fact: ip_unprivileged_port_start of ip(7) holds for 127.7.0.0/16 too.
Docker sets it to 0, so that this is for other places.
"""

from __future__ import annotations

import functools
import os

_SHIFT = 61440
"""Above the range of ephemeral ports, by default."""


def real_port(number: int) -> int:
    """Return the port that stands for a port of a container."""
    return number + _SHIFT if 0 < number < _first_permitted() else number


@functools.cache
def _first_permitted() -> int:
    """Return the lowest port that this process may listen on."""
    if os.geteuid() == 0:
        return 0
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            return min(int(file.read()), 1024)
    except (OSError, ValueError):
        return 1024
