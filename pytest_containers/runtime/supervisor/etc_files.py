"""The files below /etc that the runtime writes for a container: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

_LOCAL = (
    b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    b"fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n"
    b"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
_RESOLV = "# A test container reaches no other machine: names are those of /etc/hosts.\n"
_IMPATIENT = "options timeout:1 attempts:1\n"
HOST_NAMES = (
    "host.containers.internal",
    "host.docker.internal",
    "host.testcontainers.internal",
)


class HostsEntry(NamedTuple):
    """The addresses and names of a container or of the host."""

    ip: str
    ip6: str
    names: Sequence[str]

    @property
    def lines(self) -> bytes:
        """A line of /etc/hosts for each address."""
        names = " ".join(dict.fromkeys(self.names))
        return "".join(f"{ip}\t{names}\n" for ip in (self.ip, self.ip6) if ip).encode()


class Hosts:
    """A container's hosts file. It is mounted in the container, so it stays the same file.

    Args:
        scratch_fd: The container's scratch; the file is made in its ``etc``.
        first: The container's own lines: where names clash, the first wins.
        others: The lines of all containers that it finds by name.
    """

    def __init__(self, scratch_fd: int, first: bytes, others: bytes) -> None:
        self._fd = create(scratch_fd, "hosts")
        self._start = len(_LOCAL) + len(first)
        self._others = others
        os.write(self._fd, _LOCAL + first + others)

    def update(self, others: bytes) -> None:
        """Replace the lines of the others.

        A container that joins is mostly the last, so that only its line is written. The file is
        never shorter than before while it is written: a reader in the container may be at work.
        """
        if self._fd < 0 or others == self._others:
            return
        unchanged = len(self._others) if others.startswith(self._others) else 0
        shrunk = len(others) < len(self._others)
        os.pwrite(self._fd, others[unchanged:], self._start + unchanged)
        self._others = others
        if shrunk:
            os.ftruncate(self._fd, self._start + len(others))

    def close(self) -> None:
        """Stop updating it; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def resolv(name_server: str) -> str:
    """Return the resolv.conf of a container that reaches no other machine.

    Args:
        name_server: Answers that there is no such name (`network.lookups`); empty for none.
    """
    return _RESOLV + (f"nameserver {name_server}\n" if name_server else "") + _IMPATIENT


def write_constant(scratch_fd: int, hostname: str, resolv: str) -> None:
    """Write the files that do not change."""
    for name, text in (("hostname", f"{hostname}\n"), ("resolv.conf", resolv)):
        contents = text.encode()
        fd = create(scratch_fd, name)
        try:
            os.write(fd, contents)
        finally:
            os.close(fd)


def create(scratch_fd: int, name: str) -> int:
    """Open one of the files for writing, empty; it is made if need be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(f"etc/{name}", flags, 0o644, dir_fd=scratch_fd)
