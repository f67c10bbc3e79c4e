"""The files below /etc that the runtime writes for a container: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_RESOLV = (
    "# A test container reaches no name server: names are those of /etc/hosts.\n"
    "options timeout:1 attempts:1\n"
)
HOST_NAMES = ("host.containers.internal", "host.docker.internal")


class Entry(NamedTuple):
    """One line (or two) of /etc/hosts."""

    ip: str
    ip6: str
    names: Sequence[str]


def hosts_text(entries: Iterable[Entry]) -> str:
    """The contents of /etc/hosts; what comes first wins where names clash."""
    lines = [_LOCAL]
    for entry in entries:
        names = " ".join(dict.fromkeys(entry.names))
        lines.extend(f"{ip}\t{names}\n" for ip in (entry.ip, entry.ip6) if ip)
    return "".join(lines)


def write_files(scratch_fd: int, hosts: str, hostname: str) -> None:
    """Write all three into the ``etc`` folder of a container's scratch."""
    for name, text in (("hosts", hosts), ("hostname", f"{hostname}\n"), ("resolv.conf", _RESOLV)):
        write_file(scratch_fd, name, text)


def write_file(scratch_fd: int, name: str, text: str) -> None:
    """Write one in place: it is mounted in the container, so it must stay the same file."""
    fd = os.open(
        f"etc/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644,
        dir_fd=scratch_fd,
    )  # fmt: skip
    try:
        data = text.encode()
        os.write(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
