"""The files below /etc that the runtime writes for a container: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

_LOCAL = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_RESOLV = (
    b"# A test container reaches no name server: names are those of /etc/hosts.\n"
    b"options timeout:1 attempts:1\n"
)
HOST_NAMES = ("host.containers.internal", "host.docker.internal")


class Entry(NamedTuple):
    """One line (or two) of /etc/hosts."""

    ip: str
    ip6: str
    names: Sequence[str]

    @property
    def text(self) -> bytes:
        """As it stands in the file."""
        names = " ".join(dict.fromkeys(self.names))
        return "".join(f"{ip}\t{names}\n" for ip in (self.ip, self.ip6) if ip).encode()


class Hosts:
    """A container's hosts file. It is mounted in the container, so it stays the same file.

    Args:
        scratch_fd: The container's scratch; the file is made in its ``etc``.
        first: The container's own lines: where names clash, the first wins.
        others: The lines of all that it finds by name.
    """

    def __init__(self, scratch_fd: int, first: bytes, others: bytes) -> None:
        self._fd = create(scratch_fd, "hosts")
        self._start = len(_LOCAL) + len(first)
        self._others = others
        os.write(self._fd, _LOCAL + first + others)

    def update(self, others: bytes) -> None:
        """Others came or went. Who comes is last, mostly, so that only that is written."""
        if self._fd < 0 or others == self._others:
            return
        written = len(self._others) if others.startswith(self._others) else 0
        shrunk = len(others) < len(self._others)
        os.pwrite(self._fd, others[written:], self._start + written)
        self._others = others
        if shrunk:
            os.ftruncate(self._fd, self._start + len(others))

    def close(self) -> None:
        """Update it no more; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_constant(scratch_fd: int, hostname: str, resolv: bytes = b"") -> None:
    """Write the files that do not change."""
    files = (("hostname", f"{hostname}\n".encode()), ("resolv.conf", resolv or _RESOLV))
    for name, text in files:
        fd = create(scratch_fd, name)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)


def create(scratch_fd: int, name: str) -> int:
    """Open one of the files for writing, empty; makes it if need be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(f"etc/{name}", flags, 0o644, dir_fd=scratch_fd)
