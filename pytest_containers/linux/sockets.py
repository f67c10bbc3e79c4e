"""Unix sockets: the process at the other end."""

from __future__ import annotations

import socket
import struct


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """``(pid, uid, gid)`` of the process that connected (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid


def is_outside_of_containers(pidfd: int) -> bool:
    """Return True if a process is in the pid namespace of this one, and in none below it.

    Root of a container may have the id of the user who runs it, and a directory of the host may be
    bound into it: then neither the id nor the mode of a socket keeps its programs away.
    """
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
    return len(numbers) == 1 and int(numbers[0]) > 0
