"""Ports for servers and forwards of tests."""

from __future__ import annotations

import random
import socket


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody has, and that the kernel gives to nobody.

    Of those that it gives (ip_local_port_range), any connection beside this test may get one.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first = int(file.read().split()[0])
    while True:
        number = random.SystemRandom().randrange(max(first - 12_000, 1024), first)
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("127.0.0.1", number))
            except OSError:
                continue
            return number
