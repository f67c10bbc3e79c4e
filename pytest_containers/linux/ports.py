"""The processes that have ports of this machine, from /proc (proc_net(5), proc_pid_fd(5))."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

# As the kernel writes them: any address, 127.0.0.1, and the same in IPv6.
_ADDRESSES = (
    "00000000", "0100007F", "0" * 32, "0" * 16 + "FFFF0000" + "0100007F",
)  # fmt: skip
_LONGEST = 60


class Holder(NamedTuple):
    """A process that has a port.

    Attributes:
        pid: Its id.
        command: Its command line, shortened.
    """

    pid: int
    command: str


def holder_of(port: int, protocol: str) -> Holder | None:
    """Return the process that has a port of 127.0.0.1; None if it belongs to another user.

    Args:
        port: The port.
        protocol: ``tcp`` or ``udp``.
    """
    inodes = {inode for table in (protocol, f"{protocol}6") for inode in _inodes(table, port)}
    links = {f"socket:[{inode}]" for inode in inodes - {"0"}}
    for name in os.listdir("/proc") if links else ():
        if name.isdecimal() and links & _links_of(name):
            return Holder(int(name), _command_of(name))
    return None


def _inodes(table: str, port: int) -> list[str]:
    """Return the inodes of sockets at a port; a connection from that port is not one of them."""
    try:
        with open(f"/proc/self/net/{table}", encoding="ascii") as file:
            rows = [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []  # no IPv6
    suffix = f":{port:04X}"
    return [
        row[9]
        for row in rows
        if row[1].endswith(suffix)
        and row[1].removesuffix(suffix) in _ADDRESSES
        and set(row[2].partition(":")[2]) == {"0"}
    ]


def _links_of(pid: str) -> set[str]:
    """Return the targets of the descriptors of a process; none if it is another user's, or gone."""
    links = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return links


def _command_of(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = " ".join(file.read().decode(errors="replace").split("\0")).strip()
    except OSError:
        return ""
    return command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…"
