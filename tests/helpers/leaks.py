"""What this process and the runs below it have on the machine, and nothing that others have there.

Mounts, links and routes belong to a namespace, not to a process. So the process that counts them
first moves to namespaces of its own (`isolate`), whose lists nobody else changes. Sockets and
cgroups are found through the processes below this one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pytest_containers.linux.cgroups import hierarchies
from pytest_containers.linux.mount import mount
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS, unshare

_MS_REC, _MS_PRIVATE, _MS_SHARED = 1 << 14, 1 << 18, 1 << 20
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1

_asked = 0
_isolated = 0
"""CLONE_NEWNS and CLONE_NEWNET: what `isolate` was asked for, and what it could do."""


class Process(NamedTuple):
    """A line of the process table."""

    parent: int
    name: str
    state: str


class Mount(NamedTuple):
    """The part of a line of ``/proc/self/mountinfo`` that other namespaces do not change.

    They share the superblock, so its options change when it is remounted anywhere.
    """

    number: str
    parent: str
    device: str
    target: str
    fstype: str


def isolate(flags: int = CLONE_NEWNS) -> None:
    """Move the calling thread to namespaces of its own, for the rest of its life.

    Whatever it starts from then on is in them as well. Without the privilege it stays where it is:
    then no run below it can change the namespaces either (mount(2) and rtnetlink(7) ask for the
    same capabilities in the same user namespace), and there is nothing to count.

    Args:
        flags: CLONE_NEWNS, CLONE_NEWNET or both.
    """
    global _asked, _isolated  # the namespaces are the process's
    _asked |= flags
    try:
        unshare(flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return
    _isolated |= flags
    if flags & CLONE_NEWNS:
        # The copies still exchange mounts with the originals. On hosts where mounts are shared,
        # as systemd makes them, they stay so among the processes of this namespace.
        shared = any("shared:" in line.partition(" - ")[0] for line in _mountinfo())
        mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        if shared:
            mount(None, "/", None, _MS_REC | _MS_SHARED)
    if flags & CLONE_NEWNET:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def mounts() -> set[Mount]:
    """Return the mounts of the process's own namespace.

    Those that were there when it was made may go at any time: the kernel detaches a mount in all
    namespaces when its target is removed in one (rmdir(2)). Only new ones mean something.
    """
    return {_mount(line) for line in _mountinfo()} if _counts(CLONE_NEWNS) else set()


def links() -> set[str]:
    """Return the network links of the process's own namespace."""
    return {name for _, name in socket.if_nameindex()} if _counts(CLONE_NEWNET) else set()


def routes() -> set[str]:
    """Return the IPv4 routes of the process's own namespace."""
    if not _counts(CLONE_NEWNET):
        return set()
    return set(Path("/proc/self/net/route").read_text().splitlines()[1:])


def descriptors() -> set[str]:
    """Return what this process has open: number and target."""
    return {f"{number} {target}" for number, target in _descriptors(os.getpid())}


def process_table() -> dict[int, Process]:
    """Return all processes of the machine, by pid."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name, rest = stat[stat.index("(") + 1 :].rsplit(")", 1)
            state, parent = rest.split()[:2]
            table[int(entry)] = Process(int(parent), name, state)
    return table


def descendants(table: Mapping[int, Process]) -> dict[int, Process]:
    """Return the processes below this one, zombies included.

    An orphan is among them only if this process is a subreaper (PR_SET_CHILD_SUBREAPER).
    """
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    below: dict[int, Process] = {}
    parents = [os.getpid()]
    while parents:
        for pid in children.get(parents.pop(), []):
            below[pid] = table[pid]
            parents.append(pid)
    return below


def sockets(pids: Iterable[int]) -> set[str]:
    """Return the bound Unix sockets that these processes have open: inode and address."""
    held = {target for pid in pids for _, target in _descriptors(pid)}
    return {entry for entry in bound_sockets() if f"socket:[{entry.split()[0]}]" in held}


def bound_sockets() -> set[str]:
    """Return all bound Unix sockets of the network namespace: inode and address."""
    lines = Path("/proc/self/net/unix").read_text(errors="replace").splitlines()[1:]
    rows = (line.split(maxsplit=7) for line in lines)
    return {f"{row[6]} {row[7]}" for row in rows if len(row) == 8}


def cgroups(pids: Iterable[int]) -> set[Path]:
    """Return the cgroups of these processes, as directories; without those that this one is in."""
    return {path for pid in pids for path in _cgroups(pid)} - _cgroups(os.getpid())


def writable_cgroup() -> Path | None:
    """Return where this process may make cgroups: a root of a hierarchy, or its own as delegated."""
    own = [Path(tree.path) for tree in hierarchies()]
    for place in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"), *own):
        if (place / "cgroup.procs").exists() and os.access(place, os.W_OK):
            return place
    return None


def _counts(flag: int) -> bool:
    if not _asked & flag:
        raise RuntimeError("isolate() comes before counting: the lists are everybody's until then")
    return bool(_isolated & flag)


def _mountinfo() -> list[str]:
    return Path("/proc/thread-self/mountinfo").read_text().splitlines()


def _mount(line: str) -> Mount:
    fields, _, filesystem = line.partition(" - ")
    number, parent, device, _root, target = fields.split()[:5]
    return Mount(number, parent, device, target, filesystem.split()[0])


def _descriptors(pid: int) -> list[tuple[str, str]]:
    """Number and target of each; none of a process that is gone or not to be looked into."""
    entries = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                entries.append((number, os.readlink(f"/proc/{pid}/fd/{number}")))
    return entries


def _cgroups(pid: int) -> set[Path]:
    """One for each hierarchy (cgroups(7), /proc/pid/cgroup)."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return set()
    paths = set()
    for line in lines:
        _, controllers, cgroup = line.split(":", 2)
        if cgroup == "/":  # where the kernel puts a process that ends
            continue
        folder = Path("/sys/fs/cgroup", controllers.removeprefix("name="))
        if not controllers and not (folder / "cgroup.controllers").exists():
            folder /= "unified"  # version 2 beside version 1
        paths.add(folder / cgroup.removeprefix("/"))
    return {path for path in paths if path.is_dir()}
