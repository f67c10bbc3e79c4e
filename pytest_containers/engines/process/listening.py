"""Sockets that listen at an address, as the kernel lists them."""

from __future__ import annotations

import socket
import struct

_LISTEN, _UNCONNECTED = "0A", "07"


def ports_at(address: str, protocol: str) -> set[int]:
    """Return the ports of an IPv4 address with a listening socket, of IPv4 or of both kinds."""
    packed = socket.inet_aton(address)
    native = f"{struct.unpack('=I', packed)[0]:08X}"
    prefix = struct.unpack("=I", b"\0\0\xff\xff")[0]
    mapped = f"{0:016X}{prefix:08X}{native}"
    state = _LISTEN if protocol == "tcp" else _UNCONNECTED
    ports: set[int] = set()
    for name in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/net/{name}") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, status = line.split(None, 4)[:4]
            host, _, port = local.partition(":")
            if status == state and host in (native, mapped):
                ports.add(int(port, 16))
    return ports
